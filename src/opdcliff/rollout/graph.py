"""Sampling on CUDA with a step replayed as a graph; the draws are those of `reference`.

The operations are the library's own, over a cache of fixed size (`steps.graph_step`), so nothing is
compiled and no file is kept. In float32 the tokens are the reference's but for draws within the
rounding of logits; in bfloat16 they are those of this backend. NOT YET RUN ON A CARD: the loop, the
capture's bookkeeping and the ways back are tested on a CPU, where a stand-in replays.

Where a step cannot be captured, the reference samples, and a warning says why, once.
"""

from __future__ import annotations

import warnings
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from opdcliff.rollout import reference
from opdcliff.rollout.draws import Rollout
from opdcliff.rollout.steps.decode_step import END_PLACES, StepError, refusal
from opdcliff.rollout.steps.graph_step import GraphStep, kind_of
from opdcliff.rollout.steps.loop import Growth, roll

# A capture costs about two steps: fewer of them than a compiled step grows. Kernels of attention
# that take a mask want its rows to be multiples of 8 long.
GROWTH = Growth(256, multiple=64)
DEVICES = ("cuda",)
# Kinds of models whose step could not be captured in this process, with the reason.
_failed: dict[str, str] = {}


def why_not(model: PreTrainedModel, slots: int, banned_V: Tensor | None = None) -> str | None:
    """Why the reference samples from this model in this process, None if a graph does."""
    first = next(model.parameters())
    if first.device.type not in DEVICES:
        return f"graphs are for {', '.join(DEVICES)}, its weights are on {first.device.type}"
    if banned_V is not None:
        return "some tokens are banned"
    if hasattr(first, "ds_id"):
        return "its weights are sharded, and gathered by hooks that no graph can hold"
    return refusal(model, slots) or _failed.get(kind_of(model))


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
        try:
            return roll(model, GraphStep(model), prompt_BL, attention_BL, growth=GROWTH, **options)
        except StepError as error:
            _failed[kind_of(model)] = str(error)
            warnings.warn(
                f"answers are sampled by the slower reference path: {error}", stacklevel=2
            )
    return reference.sample(model, prompt_BL, attention_BL, banned_V=banned_V, **options)
