"""The loop around a decoding step: all rows at a time, over a cache that grows as answers do.

The prompts are read by the library's model as `generate` reads them; from the second token on a
step draws. Rows that ended are dropped whenever half have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from opdcliff.rollout.draws import Rollout, as_rollout, draw_tokens, uniforms
from opdcliff.rollout.steps.decode_step import (
    Step,
    StepError,
    StepInputs,
    end_places,
    read_prompts,
    weights_of,
)

# Rows are dropped down to this many: fewer cost a step about the same.
LEAST_ROWS = 4


@dataclass(frozen=True)
class Growth:
    """How a cache grows: by `slots`, all of which every step reads, to a multiple."""

    slots: int
    multiple: int = 1

    def of(self, held: int, left: int) -> int:
        """Slots to add to those that are held, with `left` tokens to come."""
        added = min(self.slots, left)
        return added + -(held + added) % self.multiple


@torch.no_grad()
def roll(
    model: PreTrainedModel,
    step: Step,
    prompt_BL: Tensor,
    attention_BL: Tensor,
    *,
    growth: Growth,
    numbers: Sequence[int],
    seed: int,
    stream: int,
    max_new_tokens: int,
    temperature: float,
    end_ids: Sequence[int],
    pad_id: int,
) -> Rollout:
    """Sample one answer per prompt with a step; for a model whose cache it knows (`refusal`).

    Arguments as `reference.sample`; end_ids: at most `END_PLACES`.
    """
    device = next(model.parameters()).device
    prompt_BL, attention_BL = prompt_BL.to(device), attention_BL.to(device)
    uniform_BT = uniforms(numbers, max_new_tokens, seed, stream).to(device)
    was_training = model.training
    model.eval()
    try:
        completion_BT = _decode(
            model,
            step,
            prompt_BL,
            attention_BL,
            uniform_BT,
            growth=growth,
            temperature=temperature,
            end_ids=end_ids,
            pad_id=pad_id,
        )
    finally:
        model.train(was_training)
    rollout = as_rollout(prompt_BL, attention_BL, completion_BT, end_ids)
    return replace(rollout, compiled=True)


def _decode(
    model: PreTrainedModel,
    step: Step,
    prompt_BL: Tensor,
    attention_BL: Tensor,
    uniform_BT: Tensor,
    *,
    growth: Growth,
    temperature: float,
    end_ids: Sequence[int],
    pad_id: int,
) -> Tensor:
    """Completions, shape (B, longest); for a model whose cache a step knows (`refusal`)."""
    prefix = read_prompts(model, prompt_BL, attention_BL)
    if isinstance(prefix, str):
        raise StepError(prefix)
    (rows, width), limit = prompt_BL.shape, uniform_BT.shape[1]
    new = prompt_BL.new_tensor
    end_E, pad = end_places(end_ids, prompt_BL.device), new(pad_id)
    completion_BT = prompt_BL.new_full((rows, limit), pad_id)
    room = growth.of(width, limit)
    token_R1 = draw_tokens(prefix.scores_RV, uniform_BT[:, :1], temperature, None)
    completion_BT[:, :1] = token_R1
    last = StepInputs(
        list(weights_of(model).values()),
        [_with_room(keys, room) for keys in prefix.keys_RHLD],
        [_with_room(values, room) for values in prefix.values_RHLD],
        new(width),
        token_R1,
        attention_BL.sum(-1, keepdim=True) - width,
        _with_slots(attention_BL.bool(), room),
        uniform_BT[:, :1],
        torch.isin(token_R1, end_E),
        uniform_BT.new_tensor(temperature),
        end_E,
        pad,
    )
    # As large as what `last` begins with.
    del prefix
    row_R = torch.arange(rows, device=prompt_BL.device)
    if rows == 1:
        # A compiled step is for two rows and more.
        row_R = row_R.expand(2)
        last = _of_rows(last, row_R)
    uniform_TR1 = uniform_BT.T[:, row_R, None].contiguous()
    slot_T = torch.arange(width, width + limit, device=prompt_BL.device)
    for place in range(1, limit):
        running = len(row_R) - int(last.ended_R1.sum())
        if not running:
            return completion_BT[:, :place]
        if 2 * running <= len(row_R) and len(row_R) > LEAST_ROWS:
            kept = last.ended_R1[:, 0].logical_not().nonzero()[:, 0]
            kept = kept.expand(2) if running == 1 else kept
            last, row_R = _of_rows(last, kept), row_R[kept]
            uniform_TR1 = uniform_TR1[:, kept].contiguous()
        if width + place > last.real_RK.shape[1]:
            last = _grown(last, growth.of(last.real_RK.shape[1], limit - place))
        last = last._replace(at=slot_T[place - 1], uniform_R1=uniform_TR1[place])
        token_R1, ended_R1 = step(last.flat())
        last = last._replace(token_R1=token_R1, ended_R1=ended_R1)
        completion_BT[row_R, place] = token_R1[:, 0]
    return completion_BT


def _of_rows(last: StepInputs, kept: Tensor) -> StepInputs:
    return last._replace(
        keys_RHKD=[keys[kept] for keys in last.keys_RHKD],
        values_RHKD=[values[kept] for values in last.values_RHKD],
        token_R1=last.token_R1[kept],
        offset_R1=last.offset_R1[kept],
        real_RK=last.real_RK[kept],
        ended_R1=last.ended_R1[kept],
    )


def _grown(last: StepInputs, slots: int) -> StepInputs:
    return last._replace(
        keys_RHKD=[_with_room(keys, slots) for keys in last.keys_RHKD],
        values_RHKD=[_with_room(values, slots) for values in last.values_RHKD],
        real_RK=_with_slots(last.real_RK, slots),
    )


def _with_room(cache_RHKD: Tensor, slots: int) -> Tensor:
    # Zeros, not whatever lies in memory: a masked slot is still multiplied, by 0.
    return F.pad(cache_RHKD, (0, 0, 0, slots)).contiguous()


def _with_slots(real_RK: Tensor, slots: int) -> Tensor:
    return F.pad(real_RK, (0, slots), value=True)
