"""From lines with answers to token ids and labels, and which of them are held out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from opdcliff.data import AnswerLine
from opdcliff.errors import DataError
from opdcliff.models.batches import IGNORE, Rows
from opdcliff.models.tokenization import encode
from opdcliff.storage import short

# A stream of random numbers of its own, see `batches`.
_HELD_OUT_STREAM = 3


def rows_of(tokenizer: Any, lines: Sequence[AnswerLine], file: Path, positions: int | None) -> Rows:
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
        prompt, answer = prompt_ids(tokenizer, line, where), encode(tokenizer, line.answer)
        _check_answer(tokenizer, answer, where)
        labels = [*answer, tokenizer.eos_token_id]
        ids = [*prompt, *labels]
        if positions is not None and len(ids) > positions:
            raise DataError(
                f"{where}: prompt and answer have {len(prompt)} + {len(labels)} tokens and the "
                f"model knows {positions} positions; shorten or drop the line, or choose a model "
                "with a longer context"
            )
        rows.append((ids, [IGNORE] * len(prompt) + labels))
    return rows


def prompt_ids(tokenizer: Any, line: AnswerLine, where: str) -> list[int]:
    """What the model sees of a line before its answer: the prompt as it is, messages templated.

    Raises:
        DataError: there is no template, or it refuses the messages.
    """
    if isinstance(line.prompt, str):
        return encode(tokenizer, line.prompt)
    if not getattr(tokenizer, "chat_template", None):
        raise DataError(
            f"{where}: messages need a chat template and the tokenizer has none; give prompt "
            "instead, or add chat_template.jinja to the model's folder"
        )
    messages = [dict(message) for message in line.prompt]
    try:
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    except Exception as error:
        raise DataError(
            f"{where}: the chat template refuses the messages ({short(str(error))}); change them"
        ) from error
    return encode(tokenizer, text)


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


def _check_answer(tokenizer: Any, answer: list[int], where: str) -> None:
    if not answer:
        raise DataError(f"{where}: the tokenizer makes no token of the answer; change or drop it")
    if tokenizer.eos_token_id in answer:
        raise DataError(
            f"{where}: the answer spells the end token {tokenizer.eos_token}, which is put behind "
            "every answer; leave it out"
        )
