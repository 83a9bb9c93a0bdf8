"""The modal set of a position over a vocabulary: which next tokens keep an answer on its way."""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from opdcliff.contract.labels import Modal, Place
from opdcliff.contract.parse import RankingContract
from opdcliff.contract.token_classes import (
    TAIL_NEEDED,
    PrefixState,
    TokenClass,
    advance,
    in_plain_text,
    is_complete,
    live_states,
    possible_bytes,
    start,
    step,
    token_class,
)
from opdcliff.contract.verdict import Asked

# Sets kept at a time, the last ones used. Outside the text a set has few members, and the text has
# fewer states than this, so that memory stays flat however many prompts are labelled.
KEPT_SETS = 1024
_PLACES = {name: Place(name) for name in TokenClass}


class ModalSets:
    """For a vocabulary, the tokens that belong to the modal class at a state.

    text: tokens that keep the string open; its tail closes the string or breaks the answer.
    eos: the end tokens. All others: tokens after which the prefix is still live (`advance`).

    token_bytes: what each token id adds to an answer; None for special and unused ids, which are
    never modal but for `end_ids` after a whole answer.
    """

    follows_all = True

    def __init__(
        self,
        contract: RankingContract,
        token_bytes: Sequence[bytes | None],
        end_ids: Sequence[int],
    ) -> None:
        self._contract = contract
        self._end_ids = tuple(end_ids)
        self.token_bytes = tuple(
            None if i in self._end_ids else data for i, data in enumerate(token_bytes)
        )
        self._kept: OrderedDict[PrefixState, NDArray[np.int64]] = OrderedDict()

    def states_of(self, asked: Asked, token_ids: Sequence[int]) -> list[PrefixState | None]:
        """`states` of an answer to a prompt."""
        return self.states(asked.candidates, token_ids)

    def place(self, state: PrefixState) -> Place:
        """The class; every class of a ranking has one place."""
        return _PLACES[token_class(state)]

    def modal(self, state: PrefixState) -> Modal:
        """`members`, whose tail the class needs or not."""
        return Modal(self.members(state), token_class(state) in TAIL_NEEDED)

    def is_complete(self, state: PrefixState) -> bool:
        """Whether the prefix is a whole answer."""
        return is_complete(state)

    def is_open_text(self, state: PrefixState) -> bool:
        """Whether the prefix ends inside the reason, between whole characters."""
        return in_plain_text(state)

    def states(
        self, candidates: Sequence[str], token_ids: Sequence[int]
    ) -> list[PrefixState | None]:
        """`live_states` of an answer given as token ids; a special token ends it.

        So does an id beyond the tokenizer: some models have more outputs than entries.
        """
        return self.states_from(start(self._contract, candidates), token_ids)

    def states_from(self, state: PrefixState, token_ids: Sequence[int]) -> list[PrefixState | None]:
        """`states` of what follows a prefix at `state`."""
        known = len(self.token_bytes)
        return live_states(state, [self.token_bytes[i] if i < known else None for i in token_ids])

    def members(self, state: PrefixState) -> NDArray[np.int64]:
        """Modal set at `state`: rising token ids, read-only; one array per set while it is kept."""
        key = _cache_key(state)
        if key in self._kept:
            self._kept.move_to_end(key)
        else:
            self._kept[key] = self._compute(key)
            if len(self._kept) > KEPT_SETS:
                self._kept.popitem(last=False)
        return self._kept[key]

    @cached_property
    def _sorted(self) -> tuple[list[bytes], list[int]]:
        """Token bytes in their order, and the ids they belong to: a trie without its nodes."""
        ids = [i for i, data in enumerate(self.token_bytes) if data is not None]
        ids.sort(key=lambda i: self.token_bytes[i] or b"")
        return [self.token_bytes[i] or b"" for i in ids], ids

    def _compute(self, state: PrefixState) -> NDArray[np.int64]:
        found = list(self._end_ids) if is_complete(state) else []
        self._walk(state, token_class(state), 0, len(self._sorted[0]), 0, found)
        members = np.array(sorted(found), dtype=np.int64)
        members.flags.writeable = False
        return members

    def _walk(
        self,
        state: PrefixState,
        of: TokenClass,
        low: int,
        high: int,
        depth: int,
        found: list[int],
    ) -> None:
        """Add the modal tokens among sorted ones `low` to `high`, whose first bytes led here.

        Tokens with a first byte in common live or die on it together, so few are looked at. The
        string, once left, is never entered again: what leaves it is no part of the text's set.
        """
        data, ids = self._sorted
        while low < high and len(data[low]) == depth:
            found.append(ids[low])
            low += 1
        if in_plain_text(state):
            # Nearly all of them go on.
            for i in range(low, high):
                after = advance(state, data[i][depth:])
                if after is not None and _stays(of, after):
                    found.append(ids[i])
            return
        possible = possible_bytes(state)
        prefix = data[low][:depth] if low < high else b""
        for byte in range(0x100) if possible is None else sorted(possible):
            low = bisect_left(data, prefix + bytes([byte]), low, high)
            if low == high:
                break
            if data[low][depth] != byte:
                continue
            end = high
            if byte < 0xFF:
                end = bisect_left(data, prefix + bytes([byte + 1]), low, high)
            after = step(state, byte)
            if after is not None and _stays(of, after):
                self._walk(after, of, low, end, depth + 1, found)
            low = end


def _stays(of: TokenClass, after: PrefixState) -> bool:
    return of is not TokenClass.TEXT or token_class(after) is TokenClass.TEXT


def _cache_key(state: PrefixState) -> PrefixState:
    """The state, or for class text what is begun alone: staying in the string needs no more.

    Sound because the string, once left, is never entered again.
    """
    if token_class(state) is not TokenClass.TEXT:
        return state
    return replace(state, keys_left=frozenset(), ids_left=frozenset())
