"""Sampling with Hugging Face `generate`: the path that every faster one is held against.

The draws are those of `draws.draw_tokens`; `generate` decodes greedily under scores that leave one
token. This is the backend `reference`; `backends` has the seam for others.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, TypeGuard

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
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from opdcliff.rollout.draws import Rollout, as_rollout, draw_tokens, is_end, uniforms

# A batch whose longest answer may have more tokens than this drops its ended rows on the way.
# Shorter ones are decoded whole: at 16 rows the mini study gains nothing from dropping (.94 to 1.05
# of the CPU time), at 256 rows 15 to 35% [M: benchmarks/rollout.py], but where few rows are left
# the last bits of float32 logits change, and recorded runs are to be repeatable to the bit.
WHOLE_UP_TO = 256
# Ended rows are dropped once this share of the batch or less still runs: at most log2(B) times.
RUNNING_SHARE = 0.5
# Layers of a cache that give rows away. Subclasses are none of them: those that hold the states of
# linear attention or of a convolution as well would keep all rows of these, without a word.
_OF_ROWS = (DynamicLayer, DynamicSlidingWindowLayer)


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
        ended_B = is_end(input_ids[:, self._start :], self._end_ids).any(-1)
        return ((~ended_B).sum() <= self._running_share * len(ended_B)).expand(len(ended_B))


class _KeepsRowsError(Exception):
    """Rows were to be dropped and the cache that the model made does not give them away."""


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
    draws that fall within the rounding of logits (see the module). A model whose cache does not
    give rows away (linear attention, state space) is decoded whole.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    # `generate` reads defaults from the model's own generation config; ours must win in full.
    own, model.generation_config = model.generation_config, GenerationConfig()
    inputs = (
        prompt_BL.to(device),
        attention_BL.to(device),
        uniforms(numbers, max_new_tokens, seed, stream).to(device),
    )
    decode = partial(
        _decode,
        model,
        *inputs,
        temperature=temperature,
        end_ids=end_ids,
        pad_id=pad_id,
        banned_V=banned_V,
    )
    drops = max_new_tokens > whole_up_to and _gives_rows(DynamicCache(config=model.config))
    try:
        try:
            completion_BT = decode(running_share=RUNNING_SHARE if drops else None)
        except _KeepsRowsError:
            # The model made a cache of its own; the draws are the same again.
            completion_BT = decode(running_share=None)
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
        running = (~is_end(new_RT, end_ids).any(-1)).nonzero()[:, 0]
        if done == limit or not len(running):
            return completion_BT[:, :done]
        held = getattr(out, "past_key_values", None)
        if not _gives_rows(held):
            raise _KeepsRowsError
        held.batch_select_indices(running)
        cache = {"past_key_values": held}
        row_R, ids_RL = row_R[running], out.sequences[running]
        new_attention = attention_RL.new_ones(len(running), new_RT.shape[1])
        attention_RL = torch.cat([attention_RL[running], new_attention], dim=1)


def _gives_rows(cache: Any) -> TypeGuard[Cache]:
    layers: list[Any] = getattr(cache, "layers", None) or []
    return len(layers) > 0 and all(type(layer) in _OF_ROWS for layer in layers)
