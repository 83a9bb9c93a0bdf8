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


class NoListError(ValueError):
    """A user gets no list; the text is the reason it is counted under."""


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


def build_list(
    user: str,
    items: Sequence[str],
    titles: Mapping[str, str],
    pool: Pool,
    grade: Callable[[str], int],
    *,
    seed: int,
    shape: ListShape,
) -> Example:
    """The ranking problem of `user`.

    items: distinct titled items in time order; the last is the positive.
    titles: shortened title of every item of `items` and of the pool.
    pool: where negatives come from. None of the user's items, nor another item that shows one of
        their titles or a title already in the list, is drawn.
    grade: relevance of an item to this user, an integer >= 0.

    Raises NoListError when the positive's title is in the shown history (copying would solve it),
    when the pool runs out, or when no candidate is graded above 0 (no ranking is then better).
    """
    *earlier, positive = items
    history = [titles[item] for item in earlier[-shape.max_history :]]
    if titles[positive] in history:
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
    grades = tuple(grade(item) for item in drawn)
    if not any(grades):
        raise NoListError("no candidate graded above 0")
    ids = candidate_ids(shape.candidates)
    prompt = render_prompt(history, [titles[item] for item in drawn], ids)
    return Example(prompt=prompt, candidates=ids, grades=grades, key=user_key(user))
