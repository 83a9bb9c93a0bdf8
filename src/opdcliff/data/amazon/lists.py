"""From one user's items to one ranking problem. Every draw is a hash of (seed, user) alone.

The user's last item is the positive, the items before it are the history, and the negatives are
drawn from a pool of other items. So the draws depend on the pool but not on the order
of rows, the interpreter's string hashing, or which other users get a list.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from opdcliff.data.amazon.negatives import Pool, hash64, hashed_rng
from opdcliff.data.example import CANDIDATE_LABELS, Example, candidate_ids
from opdcliff.errors import ConfigError

# Titles in scripts without spaces are one word whatever their length.
MAX_TITLE_CHARS = 96
ANSWER_LINE = "Rank as JSON:"
ALL_ZERO = "no candidate graded above 0"


class NoListError(ValueError):
    """A user gets no list; the text is the reason it is counted under."""


@dataclass(frozen=True)
class DrawnList:
    """One list before it is graded: shown history, oldest first, and candidates in their order."""

    user: str
    history: tuple[str, ...]
    items: tuple[str, ...]


@dataclass(frozen=True)
class ListShape:
    """What one list looks like.

    candidates: K, candidates per list, 2 to 26.
    min_items: distinct titled items a user needs, at least 2 (one to show, one to rank).
    max_history: most recent earlier items shown, at least 1.
    max_title_words: words of a title that are kept, at least 1.
    """

    candidates: int
    min_items: int
    max_history: int
    max_title_words: int

    def __post_init__(self) -> None:
        if not 2 <= self.candidates <= len(CANDIDATE_LABELS):
            raise ConfigError(
                f"candidates={self.candidates}: set a number from 2 to {len(CANDIDATE_LABELS)}"
            )
        for name, low in (("min_items", 2), ("max_history", 1), ("max_title_words", 1)):
            if getattr(self, name) < low:
                raise ConfigError(f"{name}={getattr(self, name)}: set a number of at least {low}")


def shorten(title: str, max_words: int) -> str:
    """The first `max_words` words of a one-line title, at most `MAX_TITLE_CHARS` characters."""
    return " ".join(title.split()[:max_words])[:MAX_TITLE_CHARS].rstrip()


def render_prompt(history: Sequence[str], titles: Sequence[str], ids: Sequence[str]) -> str:
    """The prompt: history (oldest first), one `ID: title` line each, then the answer begins.

    Kept to a few words beside the titles because tiny models have a short context.
    """
    lines = ["Bought:", *(f"- {title}" for title in history), "Candidates:"]
    lines += [f"{label}: {title}" for label, title in zip(ids, titles, strict=True)]
    return "\n".join([*lines, ANSWER_LINE]) + "\n"


def split_position(seed: int, user: str) -> float:
    """Where `user` falls in [0, 1), uniform over users and fixed by (seed, user)."""
    # 53 bits, so that the division is exact and the result stays below 1.
    return (hash64("split", seed, user) >> 11) / 2**53


def user_key(user: str) -> str:
    """The example key of `user`: a digest, so that no user id reaches records or results."""
    return "amazon_fashion:" + hashlib.sha256(user.encode()).hexdigest()[:16]


def draw_list(
    user: str,
    items: Sequence[str],
    titles: Mapping[str, str],
    pool: Pool,
    *,
    seed: int,
    shape: ListShape,
) -> DrawnList:
    """The ranking problem of `user`, before it is graded.

    items: distinct titled items in time order; the last is the positive.
    titles: shortened title of every item of `items` and of the pool.
    pool: where negatives come from. None of the user's items, nor another item that shows one of
        their titles or a title already in the list, is drawn.

    Raises NoListError when the positive's title is in the shown history (copying would solve it),
    or when the pool runs out.
    """
    *earlier, positive = items
    shown = earlier[-shape.max_history :]
    if titles[positive] in [titles[item] for item in shown]:
        raise NoListError("positive's title repeats one in the history")
    taken = {titles[item] for item in items}
    drawn = [positive]
    others = pool.order(positive, seed, user)
    while len(drawn) < shape.candidates and (item := next(others, None)) is not None:
        if titles[item] not in taken:
            taken.add(titles[item])
            drawn.append(item)
    if len(drawn) < shape.candidates:
        raise NoListError("too few other items for negatives")
    hashed_rng("order", seed, user).shuffle(drawn)
    return DrawnList(user, tuple(shown), tuple(drawn))


def as_example(drawn: DrawnList, titles: Mapping[str, str], grade: Callable[[str], int]) -> Example:
    """The prompt of a list, and its grades.

    grade: relevance of an item to this user, an integer >= 0.

    Raises NoListError when no candidate is graded above 0 (no ranking is then better).
    """
    grades = tuple(grade(item) for item in drawn.items)
    if not any(grades):
        raise NoListError(ALL_ZERO)
    ids = candidate_ids(len(drawn.items))
    history = [titles[item] for item in drawn.history]
    prompt = render_prompt(history, [titles[item] for item in drawn.items], ids)
    return Example(prompt=prompt, candidates=ids, grades=grades, key=user_key(drawn.user))
