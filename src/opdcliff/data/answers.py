"""Reference answers for supervised fine-tuning: clean for the teacher, noisy for the warm start.

The reason is a run of filler words whose length is geometric: at every offset it goes on with
probability `continue_mass` and closes with the rest, which makes "continue" a position class with
one modal mass at all offsets (docs/theory.md, points 10 to 12). With `titles` it is an item title
instead, whole or cut behind one of its words, and the modal mass is another one at every position.
An answer is built from text pieces that are tokenized one by one, so that the token boundaries of a
training answer are those a model emits.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from opdcliff.data.example import Example

REASON_WORDS = (" soft", " warm", " light", " neat")
UNKNOWN_ID = "Z"


@dataclass(frozen=True)
class AnswerStyle:
    """How reference answers are drawn.

    continue_mass: probability in (0, 1) that the reason goes on, at every offset; with `titles`
        that a title goes on behind each of its words, and 1 writes it whole.
    corrupt_rate: share of answers in [0, 1) that break the contract in exactly one place.
    swap_rate: chance in [0, 1) that two neighbours of the ideal ranking trade places, tried once
        per pair from the top: it keeps NDCG below 1.
    long_share: share of answers whose reason starts with a long run of words that carries no
        loss, so that a model meets late offsets as often as early ones.
    long_words: longest such run, in words.
    with_reason: whether the contract has a reason at all.
    titles: what reasons are drawn from; empty for filler words.
    """

    continue_mass: float
    corrupt_rate: float
    swap_rate: float
    long_share: float
    long_words: int
    with_reason: bool = True
    titles: tuple[str, ...] = ()


@dataclass(frozen=True)
class Piece:
    """A stretch of answer text and whether its tokens carry loss."""

    text: str
    loss: bool = True


def ideal_ranking(example: Example) -> tuple[str, ...]:
    """Candidate ids by falling grade; ties keep the prompt's order."""
    order = sorted(range(len(example.grades)), key=lambda i: -example.grades[i])
    return tuple(example.candidates[i] for i in order)


def draw_answer(
    example: Example, style: AnswerStyle, rng: np.random.Generator
) -> tuple[Piece, ...]:
    """One reference answer (without the end-of-sequence token), in text pieces."""
    ids = _swapped(list(ideal_ranking(example)), style.swap_rate, rng)
    corruption = None
    if rng.random() < style.corrupt_rate:
        names = _CORRUPTIONS if style.with_reason else _CORRUPTIONS[:-1]
        corruption = names[int(rng.integers(len(names)))]
    if corruption in _ID_EDITS:
        ids = _ID_EDITS[corruption](ids, rng)
    head = '{"ranking":' + json.dumps(ids, separators=(",", ":"))
    if corruption == "no_brace":
        head = head[1:]
    if not style.with_reason:
        return (Piece(head + "}"), *_trailing(corruption))
    if corruption == "no_reason":
        return (Piece(head + "}"),)
    reason = _title(style, rng) if style.titles else _reason(style, rng)
    pieces = [Piece(head + ',"reason":"'), *reason]
    return (*pieces, Piece('"}'), *_trailing(corruption))


def _reason(style: AnswerStyle, rng: np.random.Generator) -> list[Piece]:
    silent = 0
    if rng.random() < style.long_share:
        silent = int(rng.integers(1, style.long_words + 1))
    # numpy counts trials up to the first success; the closing token is that success.
    spoken = int(rng.geometric(1.0 - style.continue_mass)) - 1
    words = rng.choice(REASON_WORDS, size=silent + spoken)
    return [Piece(str(word), loss=i >= silent) for i, word in enumerate(words)]


def _title(style: AnswerStyle, rng: np.random.Generator) -> list[Piece]:
    """The words of one title, at least the first, escaped as JSON has them."""
    words = style.titles[int(rng.integers(len(style.titles)))].split(" ")
    silent = 0
    if rng.random() < style.long_share:
        silent = int(rng.integers(1, style.long_words + 1))
    silent = min(silent, len(words) - 1)
    spoken = len(words)
    if style.continue_mass < 1.0:
        spoken = int(rng.geometric(1.0 - style.continue_mass))
    spelled = [
        # Letters beyond ASCII as they are: an escape would be ASCII again.
        (" " if i else "") + json.dumps(word, ensure_ascii=False)[1:-1]
        for i, word in enumerate(words[: silent + spoken])
    ]
    return [Piece(text, loss=i >= silent) for i, text in enumerate(spelled)]


def _swapped(ids: list[str], rate: float, rng: np.random.Generator) -> list[str]:
    for i in range(len(ids) - 1):
        if rng.random() < rate:
            ids[i], ids[i + 1] = ids[i + 1], ids[i]
    return ids


def _trailing(corruption: str | None) -> tuple[Piece, ...]:
    return (Piece(REASON_WORDS[0]),) if corruption == "extra_text" else ()


def _duplicate(ids: list[str], rng: np.random.Generator) -> list[str]:
    source, target = rng.choice(len(ids), size=2, replace=False)
    return [ids[source] if i == target else item for i, item in enumerate(ids)]


def _unknown(ids: list[str], rng: np.random.Generator) -> list[str]:
    target = rng.integers(len(ids))
    unknown = UNKNOWN_ID
    # 26 candidates use every letter.
    while unknown in ids:
        unknown += UNKNOWN_ID
    return [unknown if i == target else item for i, item in enumerate(ids)]


def _drop(ids: list[str], rng: np.random.Generator) -> list[str]:
    target = rng.integers(len(ids))
    return [item for i, item in enumerate(ids) if i != target]


_ID_EDITS: dict[str | None, Callable[[list[str], np.random.Generator], list[str]]] = {
    "duplicate": _duplicate,
    "unknown_id": _unknown,
    "missing": _drop,
}
# The last one needs a reason to break. None may break the closing of the reason itself: repairing a
# rival closing token drags the real one along and throws the text class over z_c while lambda is
# still near 1 (docs/reproduction.md, "Negative results").
_CORRUPTIONS: Sequence[str] = (
    "duplicate",
    "unknown_id",
    "missing",
    "no_brace",
    "extra_text",
    "no_reason",
)
