"""Reference answers for supervised fine-tuning: clean for the teacher, noisy for the warm start.

Rankings with a reason, if the contract has one; or the fields of an order (`orders`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import numpy as np

from opdcliff.data.answer_style import (
    REASON_WORDS,
    AnswerStyle,
    Piece,
    draw_corruption,
    draw_title,
    draw_words,
)
from opdcliff.data.example import Example
from opdcliff.data.orders import draw_fields

UNKNOWN_ID = "Z"


def ideal_ranking(example: Example) -> tuple[str, ...]:
    """Candidate ids by falling grade; ties keep the prompt's order."""
    order = sorted(range(len(example.grades)), key=lambda i: -example.grades[i])
    return tuple(example.candidates[i] for i in order)


def draw_answer(
    example: Example, style: AnswerStyle, rng: np.random.Generator
) -> tuple[Piece, ...]:
    """One reference answer (without the end-of-sequence token), in text pieces."""
    if not example.candidates:
        return draw_fields(example, style, rng)
    ids = _swapped(list(ideal_ranking(example)), style.swap_rate, rng)
    names = _CORRUPTIONS if style.with_reason else _CORRUPTIONS[:-1]
    corruption = draw_corruption(names, style, rng)
    if corruption in _ID_EDITS:
        ids = _ID_EDITS[corruption](ids, rng)
    head = '{"ranking":' + json.dumps(ids, separators=(",", ":"))
    if corruption == "no_brace":
        head = head[1:]
    if not style.with_reason:
        return (Piece(head + "}"), *_trailing(corruption))
    if corruption == "no_reason":
        return (Piece(head + "}"),)
    reason = draw_title(style, rng) if style.titles else draw_words(style, rng)
    pieces = [Piece(head + ',"reason":"'), *reason]
    return (*pieces, Piece('"}'), *_trailing(corruption))


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
