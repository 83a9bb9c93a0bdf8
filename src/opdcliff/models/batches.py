"""From data sets to token ids: the batches models are trained and measured on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch

from opdcliff.data import AnswerStyle, Example, draw_answer
from opdcliff.models.tokens.codec import Codec
from opdcliff.models.tokens.train_bpe import pad_left

# Distinct streams of random numbers for distinct purposes under one seed.
ORDER_STREAM, ANSWER_STREAM = 1, 2
IGNORE = -100
# Of every row, its input ids, and its labels: IGNORE where a token carries no loss.
Rows = list[tuple[list[int], list[int]]]
Item = TypeVar("Item")


def prompt_batch(codec: Codec, examples: Sequence[Example]) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompt ids and attention mask, shape (B, L), padded on the left."""
    return pad_left([codec.prompt_ids(e) for e in examples], codec.pad_id)


def batch_of_update(
    examples: Sequence[Item], size: int, update: int, seed: int
) -> list[tuple[int, Item]]:
    """The examples of one update with their running number over the run.

    Epochs are fresh permutations; the batch depends on (seed, update) alone, so a resumed run
    meets the same prompts without any stored position.
    """
    count = len(examples)
    numbers = range(update * size, (update + 1) * size)
    permutations = {
        epoch: np.random.default_rng([seed, ORDER_STREAM, epoch]).permutation(count)
        for epoch in {number // count for number in numbers}
    }
    return [(n, examples[int(permutations[n // count][n % count])]) for n in numbers]


def sft_batches(
    codec: Codec,
    examples: Sequence[Example],
    style: AnswerStyle,
    *,
    steps: int,
    batch_size: int,
    seed: int,
) -> Iterator[Rows]:
    """For each step, (input ids, labels) of every row; prompt and silent pieces carry IGNORE."""
    end = codec.end_ids[0]
    for step in range(steps):
        rng = np.random.default_rng([seed, ANSWER_STREAM, step])
        rows = []
        for _, example in batch_of_update(examples, batch_size, step, seed):
            ids = codec.prompt_ids(example)
            labels = [IGNORE] * len(ids)
            for piece in draw_answer(example, style, rng):
                tokens = codec.answer_ids(piece.text)
                ids += tokens
                labels += tokens if piece.loss else [IGNORE] * len(tokens)
            rows.append(([*ids, end], [*labels, end]))
        yield rows
