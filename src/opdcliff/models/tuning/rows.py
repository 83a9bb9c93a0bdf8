"""From lines with answers to token ids and labels, and which of them are held out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from opdcliff.data import AnswerLine
from opdcliff.errors import DataError
from opdcliff.models.batches import IGNORE, Rows
from opdcliff.models.tokens.codec import Codec

# A stream of random numbers of its own, see `batches`.
_HELD_OUT_STREAM = 3


def rows_of(codec: Codec, lines: Sequence[AnswerLine], file: Path, positions: int | None) -> Rows:
    """Ids and labels of each line: the prompt without loss, the answer and the end token with it.

    Prompt and answer are encoded apart, as they are when an answer is sampled.
    positions: how many the model knows, if that is known.

    Raises:
        DataError: a line that does not fit into the positions, whose messages the chat template
            refuses, or whose answer spells the end token; the error names it.
    """
    rows = []
    for line in lines:
        where = f"{file} line {line.number}"
        prompt, answer = _prompt_ids(codec, line, where), codec.answer_ids(line.answer)
        _check_answer(codec, line.answer, answer, where)
        labels = [*answer, codec.end_ids[0]]
        ids = [*prompt, *labels]
        if positions is not None and len(ids) > positions:
            raise DataError(
                f"{where}: prompt and answer have {len(prompt)} + {len(labels)} tokens and the "
                f"model knows {positions} positions; shorten or drop the line, or choose a model "
                "with a longer context"
            )
        rows.append((ids, [IGNORE] * len(prompt) + labels))
    return rows


def _prompt_ids(codec: Codec, line: AnswerLine, where: str) -> list[int]:
    try:
        return codec.prompt_ids(line.as_example())
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


def hold_out(
    lines: Sequence[AnswerLine], share: float, seed: int, file: Path
) -> tuple[list[AnswerLine], list[AnswerLine]]:
    """Lines to train on and lines held out: a `share` of the prompts with all their answers.

    At least one prompt is held out unless `share` is 0.

    Raises:
        DataError: nothing is left to train on.
    """
    prompts = list(dict.fromkeys(line.key for line in lines))
    count = max(1, round(share * len(prompts))) if share else 0
    if count >= len(prompts):
        raise DataError(
            f"{file} has {len(prompts)} distinct prompts and tune.held_out={share:g} leaves none "
            "to train on; add lines, or set tune.held_out=0"
        )
    order = np.random.default_rng([seed, _HELD_OUT_STREAM]).permutation(len(prompts))
    held = {prompts[int(i)] for i in order[:count]}
    return [x for x in lines if x.key not in held], [x for x in lines if x.key in held]


def _check_answer(codec: Codec, text: str, answer: list[int], where: str) -> None:
    if not answer:
        raise DataError(f"{where}: the tokenizer makes no token of the answer; change or drop it")
    end = codec.tokenizer.eos_token
    if end in text:
        raise DataError(
            f"{where}: the answer spells the end token {end}, which is put behind every answer; "
            "leave it out"
        )
