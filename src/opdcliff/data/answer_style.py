"""How reference answers are drawn: their style, their pieces, and text whose length is geometric.

The reason is a run of filler words: at every offset it goes on with probability `continue_mass` and
closes with the rest, which makes "continue" a position class with one modal mass at all offsets
(docs/theory.md, points 10 to 12). With `titles` it is an item title instead, whole or cut behind
one of its words, and the modal mass is another one at every position. An answer is built from text
pieces that are tokenized one by one, so that the token boundaries of a training answer are those a
model emits.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

REASON_WORDS = (" soft", " warm", " light", " neat")


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


def draw_corruption(
    names: Sequence[str], style: AnswerStyle, rng: np.random.Generator
) -> str | None:
    """The one place in which an answer breaks the contract; None for a clean one."""
    if rng.random() < style.corrupt_rate:
        return names[int(rng.integers(len(names)))]
    return None


def draw_words(style: AnswerStyle, rng: np.random.Generator) -> list[Piece]:
    """Filler words, some behind a silent run of them."""
    silent = _silent(style, rng)
    # numpy counts trials up to the first success; the closing token is that success.
    spoken = int(rng.geometric(1.0 - style.continue_mass)) - 1
    words = rng.choice(REASON_WORDS, size=silent + spoken)
    return [Piece(str(word), loss=i >= silent) for i, word in enumerate(words)]


def draw_title(style: AnswerStyle, rng: np.random.Generator) -> list[Piece]:
    """The words of one title, at least the first, escaped as JSON has them."""
    words = style.titles[int(rng.integers(len(style.titles)))].split(" ")
    silent = min(_silent(style, rng), len(words) - 1)
    spoken = len(words)
    if style.continue_mass < 1.0:
        spoken = int(rng.geometric(1.0 - style.continue_mass))
    spelled = [
        # Letters beyond ASCII as they are: an escape would be ASCII again.
        (" " if i else "") + json.dumps(word, ensure_ascii=False)[1:-1]
        for i, word in enumerate(words[: silent + spoken])
    ]
    return [Piece(text, loss=i >= silent) for i, text in enumerate(spelled)]


def _silent(style: AnswerStyle, rng: np.random.Generator) -> int:
    """Words at the start of a text that carry no loss."""
    if rng.random() < style.long_share:
        return int(rng.integers(1, style.long_words + 1))
    return 0
