"""Sampling answers with Hugging Face `generate`, reproducibly for any batching.

Every row brings its own uniform numbers, drawn from (seed, stream, running number of the prompt);
a token is the inverse of the cumulative distribution at its number. So an answer depends on the
model, the prompt and those numbers alone: not on the other rows, the ranks or a global generator,
and a resumed run samples what an uninterrupted one would. In bfloat16 the logits themselves vary
with the shape of the batch, so there it takes the same batches for the same answers [M].

This is the backend `generate`; `backends` has the seam for others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)

# Streams keep training, evaluation and calibration samples apart under one seed.
TRAIN_STREAM, EVALUATION_STREAM, CALIBRATION_STREAM, FORCED_STREAM = 11, 12, 13, 14
TEACHER_STREAM = 15

# A batch whose longest answer may have more tokens than this drops its ended rows on the way.
# Shorter ones are decoded whole: at 16 rows the mini study gains nothing from dropping (.94 to 1.05
# of the CPU time), at 256 rows 15 to 35% [M: benchmarks/rollout.py], but where few rows are left
# the last bits of float32 logits change, and recorded runs are to be repeatable to the bit.
WHOLE_UP_TO = 256
# Ended rows are dropped once this share of the batch or less still runs: at most log2(B) times.
RUNNING_SHARE = 0.5


@dataclass(frozen=True)
class Rollout:
    """Sampled answers, aligned at their first token.

    ids_BL: prompt (left-padded) and answer (right-padded); attention_BL: 1 on real tokens.
    mask_BT: 1 on answer tokens, the end token included; T is the longest answer of the batch.
    ended_B: whether the answer reached the end token.
    """

    ids_BL: Tensor
    attention_BL: Tensor
    mask_BT: Tensor
    ended_B: Tensor

    @property
    def completion_BT(self) -> Tensor:
        """Answer tokens, shape (B, T)."""
        return self.ids_BL[:, -self.mask_BT.shape[1] :]

    def lengths(self) -> list[int]:
        """Tokens per answer, the end token included."""
        return [int(n) for n in self.mask_BT.sum(-1).tolist()]

    def answers(self) -> list[list[int]]:
        """Token ids of each answer, the end token included if it was reached."""
        rows = self.completion_BT.tolist()
        return [row[:length] for row, length in zip(rows, self.lengths(), strict=True)]


def uniforms(numbers: Sequence[int], length: int, seed: int, stream: int) -> Tensor:
    """Uniform numbers in [0, 1), shape (B, length), one generator per running number."""
    rows = [np.random.default_rng([seed, stream, n]).random(length) for n in numbers]
    return torch.from_numpy(np.stack(rows))


def draw_tokens(
    scores_BV: Tensor, uniform_B1: Tensor, temperature: float, banned_V: Tensor | None
) -> Tensor:
    """Tokens at the uniform numbers, drawn from softmax(scores / temperature); shape (B, 1).

    Banned tokens and those that the model forbids (-inf) have no part in it. The cumulative sum
    runs in float64: float32 loses the tail of a 150k vocabulary.
    """
    logits_BV = scores_BV.double() / temperature
    if banned_V is not None:
        logits_BV = logits_BV.masked_fill(banned_V, -torch.inf)
    cdf_BV = torch.softmax(logits_BV, dim=-1).cumsum(-1)
    # Scaled by the total, so that rounding in the sum cannot put the draw beyond the end.
    draw_B1 = uniform_B1 * cdf_BV[:, -1:]
    # NaN logits draw the last token: the loss is to report them, not an index error here.
    return torch.searchsorted(cdf_BV, draw_B1, right=True).clamp(max=cdf_BV.shape[1] - 1)


def only(token_B1: Tensor, scores_BV: Tensor) -> Tensor:
    """Scores under which greedy decoding takes those tokens: all others are -inf."""
    return torch.full_like(scores_BV, -torch.inf).scatter(1, token_B1, 0.0)


class InverseCdfSampler(LogitsProcessor):  # type: ignore[misc]
    """Turns greedy decoding of rows in step into `draw_tokens`."""

    def __init__(
        self, uniform_BT: Tensor, prompt_length: int, temperature: float, banned_V: Tensor | None
    ) -> None:
        self._uniform_BT = uniform_BT
        self._prompt_length = prompt_length
        self._temperature = temperature
        self._banned_V = banned_V

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        step = input_ids.shape[1] - self._prompt_length
        uniform_B1 = self._uniform_BT[:, step : step + 1]
        return only(draw_tokens(scores, uniform_B1, self._temperature, self._banned_V), scores)


class MostHaveEnded(StoppingCriteria):  # type: ignore[misc]
    """Stops all rows once `running_share` of them or less have no end token since `start`."""

    def __init__(self, start: int, end_ids: Sequence[int], running_share: float) -> None:
        self._start, self._end_ids, self._running_share = start, end_ids, running_share

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        ended_B = _is_end(input_ids[:, self._start :], self._end_ids).any(-1)
        return ((~ended_B).sum() <= self._running_share * len(ended_B)).expand(len(ended_B))


@torch.no_grad()
def sample(
    model: PreTrainedModel,
    prompt_BL: Tensor,
    attention_BL: Tensor,
    *,
    numbers: Sequence[int],
    seed: int,
    stream: int,
    max_new_tokens: int,
    temperature: float,
    end_ids: Sequence[int],
    pad_id: int,
    banned_V: Tensor | None = None,
    whole_up_to: int = WHOLE_UP_TO,
) -> Rollout:
    """Sample one answer per prompt until all have ended or `max_new_tokens` is reached.

    The model's own generation settings (top-k, top-p, temperature) are not used: the answers must
    come from the distribution they are scored under. The model's training mode is restored.

    With a limit above `whole_up_to`, rows that have ended are dropped whenever half of the batch
    has: a step then computes fewer than twice the rows that still run. Tokens are the same, up to
    draws that fall within the rounding of logits (see the module).
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    # `generate` reads defaults from the model's own generation config; ours must win in full.
    own, model.generation_config = model.generation_config, GenerationConfig()
    try:
        completion_BT = _decode(
            model,
            prompt_BL.to(device),
            attention_BL.to(device),
            uniforms(numbers, max_new_tokens, seed, stream).to(device),
            temperature=temperature,
            end_ids=end_ids,
            pad_id=pad_id,
            banned_V=banned_V,
            running_share=RUNNING_SHARE if max_new_tokens > whole_up_to else None,
        )
    finally:
        model.generation_config = own
        model.train(was_training)
    return as_rollout(prompt_BL.to(device), attention_BL.to(device), completion_BT, end_ids)


def _decode(
    model: PreTrainedModel,
    ids_RL: Tensor,
    attention_RL: Tensor,
    uniform_BT: Tensor,
    *,
    temperature: float,
    end_ids: Sequence[int],
    pad_id: int,
    banned_V: Tensor | None,
    running_share: float | None,
) -> Tensor:
    """Completions, shape (B, longest); R are the rows that still run."""
    (rows, width), limit = ids_RL.shape, uniform_BT.shape[1]
    completion_BT = ids_RL.new_full((rows, limit), pad_id)
    row_R = torch.arange(rows, device=ids_RL.device)
    done, cache = 0, dict[str, Any]()
    while True:
        stopping = StoppingCriteriaList()
        if running_share is not None:
            start = width + done
            stopping.append(MostHaveEnded(start, end_ids, running_share))
        out = model.generate(
            ids_RL,
            attention_mask=attention_RL,
            generation_config=GenerationConfig(
                max_new_tokens=limit - done,
                do_sample=False,
                eos_token_id=list(end_ids),
                pad_token_id=pad_id,
                use_cache=True,
                return_dict_in_generate=True,
            ),
            logits_processor=LogitsProcessorList(
                [InverseCdfSampler(uniform_BT[row_R], width, temperature, banned_V)]
            ),
            stopping_criteria=stopping,
            **cache,
        )
        new_RT = out.sequences[:, width + done :]
        completion_BT[row_R, done : done + new_RT.shape[1]] = new_RT
        done += new_RT.shape[1]
        running = (~_is_end(new_RT, end_ids).any(-1)).nonzero()[:, 0]
        if done == limit or not len(running):
            return completion_BT[:, :done]
        out.past_key_values.batch_select_indices(running)
        cache = {"past_key_values": out.past_key_values}
        row_R, ids_RL = row_R[running], out.sequences[running]
        new_attention = attention_RL.new_ones(len(running), new_RT.shape[1])
        attention_RL = torch.cat([attention_RL[running], new_attention], dim=1)


def as_rollout(
    prompt_BL: Tensor,
    prompt_attention_BL: Tensor,
    completion_BT: Tensor,
    end_ids: Sequence[int],
) -> Rollout:
    """Prompts and completions put together; what follows a first end token is no answer."""
    is_end_BT = _is_end(completion_BT, end_ids)
    # An answer token is one with no end token before it.
    mask_BT = (is_end_BT.long().cumsum(-1) - is_end_BT.long()) == 0
    return Rollout(
        ids_BL=torch.cat([prompt_BL, completion_BT], dim=1),
        attention_BL=torch.cat([prompt_attention_BL, mask_BT.long()], dim=1),
        mask_BT=mask_BT,
        ended_B=is_end_BT.any(-1),
    )


def _is_end(ids: Tensor, end_ids: Sequence[int]) -> Tensor:
    return torch.isin(ids, ids.new_tensor(list(end_ids)))
