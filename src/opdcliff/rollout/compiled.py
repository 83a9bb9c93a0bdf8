"""Sampling with a compiled step over a cache of fixed size; the tokens are those of `reference`.

A step compiled once (`steps.step_package`) draws, for all rows at a time (`steps.loop`). Logits
differ from the reference's in their last bits, so in float32 the tokens are the same but for draws
within that rounding.

Where there is no step for a model, or it does not fit the call, the reference samples.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from opdcliff.rollout import reference
from opdcliff.rollout.draws import Rollout
from opdcliff.rollout.steps.decode_step import END_PLACES, refusal
from opdcliff.rollout.steps.loop import Growth, roll
from opdcliff.rollout.steps.step_package import step_of

GROWTH = Growth(64)


def why_not(model: PreTrainedModel, slots: int, banned_V: Tensor | None = None) -> str | None:
    """Why the reference samples from this model in this process, None if a compiled step does."""
    if banned_V is not None:
        return "some tokens are banned"
    reason = refusal(model, slots)
    if reason is not None:
        return reason
    step = step_of(model)
    return step if isinstance(step, str) else None


def sample(
    model: PreTrainedModel,
    prompt_BL: Tensor,
    attention_BL: Tensor,
    *,
    banned_V: Tensor | None = None,
    **options: Any,
) -> Rollout:
    """Sample one answer per prompt; arguments and result as `reference.sample`."""
    slots = prompt_BL.shape[1] + options["max_new_tokens"]
    if len(options["end_ids"]) <= END_PLACES and why_not(model, slots, banned_V) is None:
        step = step_of(model)
        assert not isinstance(step, str), "why_not has just looked"
        return roll(model, step, prompt_BL, attention_BL, growth=GROWTH, **options)
    return reference.sample(model, prompt_BL, attention_BL, banned_V=banned_V, **options)
