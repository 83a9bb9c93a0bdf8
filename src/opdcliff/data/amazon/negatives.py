"""Items that a list's negatives are drawn from, in an order that hangs on (seed, user) alone."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from opdcliff.errors import ConfigError

UNIFORM, POPULARITY = "uniform", "popularity"


class Pool(Protocol):
    """Where negatives come from. widened: users for whom those that come first were not enough."""

    widened: set[str]

    def order(self, positive: str, seed: int, user: str) -> Iterator[str]:
        """Every item of the pool once, in the order in which they are tried for that user."""
        ...


class UniformPool:
    """Every order of the items is as likely as any other."""

    def __init__(self, items: Sequence[str]) -> None:
        self._items = items
        self.widened: set[str] = set()

    def order(self, positive: str, seed: int, user: str) -> Iterator[str]:
        """See `Pool`."""
        chance = hashed_rng("negatives", seed, user)
        return (self._items[i] for i in permutation(len(self._items), chance))


class PopularPool:
    """Items about as popular as the positive come first, in random order.

    An item that n users reviewed is in bin floor(log2 n): 1, 2-3, 4-7, 8-15, ... First come the
    items of the positive's bin, and only when they run out those one bin lower and higher, mixed,
    and so on; inside each ring every order is as likely as any other. Bins of counts, since most
    items have one: quantiles of them would be one bin. The positive's count has the user's own
    review in it, as every other item's has those of its users.

    widened: users for whom the positive's bin was not enough.
    """

    def __init__(self, items: Sequence[str], popularity: Mapping[str, int]) -> None:
        self._popularity = popularity
        self._bins: dict[int, list[str]] = {}
        for item in items:
            self._bins.setdefault(popularity_bin(popularity[item]), []).append(item)
        self.widened: set[str] = set()

    def order(self, positive: str, seed: int, user: str) -> Iterator[str]:
        """See `Pool`."""
        chance = hashed_rng("popular negatives", seed, user)
        own = popularity_bin(self._popularity[positive])
        for distance in range(max(abs(own - other) for other in self._bins) + 1):
            ring: Sequence[str] = self._bins.get(own - distance, [])
            if distance:
                self.widened.add(user)
                ring = [*ring, *self._bins.get(own + distance, [])]
            yield from (ring[i] for i in permutation(len(ring), chance))


def pool_of(negatives: str, items: Sequence[str], popularity: Mapping[str, int]) -> Pool:
    """The pool of that name. Raises ConfigError for another name."""
    if negatives == UNIFORM:
        return UniformPool(items)
    if negatives == POPULARITY:
        return PopularPool(items, popularity)
    raise ConfigError(f"negatives={negatives}: set {UNIFORM} or {POPULARITY}")


def popularity_bin(users: int) -> int:
    """floor(log2 users), exactly, for users >= 1."""
    return users.bit_length() - 1


def hash64(purpose: str, seed: int, user: str) -> int:
    """64 bits that hang on these three alone."""
    digest = hashlib.sha256(f"{purpose}\n{seed}\n{user}".encode()).digest()
    return int.from_bytes(digest[:8], "big")


def hashed_rng(purpose: str, seed: int, user: str) -> random.Random:
    """A generator that hangs on these three alone."""
    return random.Random(hash64(purpose, seed, user))


def permutation(count: int, rng: random.Random) -> Iterator[int]:
    """A uniformly random order of `range(count)`, drawn lazily: memory grows with what is read."""
    moved: dict[int, int] = {}
    for i in range(count):
        j = rng.randrange(i, count)
        yield moved.get(j, j)
        moved[j] = moved.get(i, i)
