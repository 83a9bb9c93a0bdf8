"""From data sets to token ids: the batches models are trained and measured on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch

from opdcliff.data import AnswerStyle, Example, draw_answer
from opdcliff.models.tokenization import encode, pad_left

# Distinct streams of random numbers for distinct purposes under one seed.
ORDER_STREAM, ANSWER_STREAM = 1, 2
IGNORE = -100
# Of every row, its input ids, and its labels: IGNORE where a token carries no loss.
Rows = list[tuple[list[int], list[int]]]
Item = TypeVar("Item")


def prompt_batch(tokenizer: Any, examples: Sequence[Example]) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompt ids and attention mask, shape (B, L), padded on the left."""
    return pad_left([encode(tokenizer, e.prompt) for e in examples], tokenizer.pad_token_id)


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
    tokenizer: Any,
    examples: Sequence[Example],
    style: AnswerStyle,
    *,
    steps: int,
    batch_size: int,
    seed: int,
) -> Iterator[Rows]:
    """For each step, (input ids, labels) of every row; prompt and silent pieces carry IGNORE."""
    for step in range(steps):
        rng = np.random.default_rng([seed, ANSWER_STREAM, step])
        rows = []
        for _, example in batch_of_update(examples, batch_size, step, seed):
            ids = encode(tokenizer, example.prompt)
            labels = [IGNORE] * len(ids)
            for piece in draw_answer(example, style, rng):
                tokens = encode(tokenizer, piece.text)
                ids += tokens
                labels += tokens if piece.loss else [IGNORE] * len(tokens)
            rows.append(([*ids, tokenizer.eos_token_id], [*labels, tokenizer.eos_token_id]))
        yield rows
