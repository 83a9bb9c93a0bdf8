"""Sampling on CUDA with a step replayed as a graph; the draws are those of `reference`.

The operations are the library's own, over a cache of fixed size (`steps.graph_step`), so nothing is
compiled and no file is kept. In float32 the tokens are the reference's but for draws within the
rounding of logits; in bfloat16 they are those of this backend. NOT YET RUN ON A CARD: the loop, the
capture's bookkeeping and the ways back are tested on a CPU, where a stand-in replays.

Where a step cannot be replayed, the reference samples, and a warning says why, once.
"""

from __future__ import annotations

import warnings
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from opdcliff.rollout import reference
from opdcliff.rollout.draws import Rollout
from opdcliff.rollout.steps.decode_step import END_PLACES, StepError, first_line, refusal
from opdcliff.rollout.steps.graph_step import GraphStep, kind_of
from opdcliff.rollout.steps.loop import Growth, roll

# Further than for a compiled step, since every growth is a capture; what one costs on a card was
# not measured. Kernels of attention that take a mask want rows of multiples of 8.
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
        except Exception as error:
            # Models fail to be captured in as many ways as there are: routing of experts waits for
            # the card, states of other layers are no keys and values.
            cause = _began_with(error)
            if "out of memory" in str(cause):
                raise
            reason = str(cause) if isinstance(cause, StepError) else first_line(cause)
            told = f"its step cannot be replayed as a graph ({reason})"
            _failed[kind_of(model)] = told
            warnings.warn(f"answers are sampled by the slower reference path: {told}", stacklevel=2)
    return reference.sample(model, prompt_BL, attention_BL, banned_V=banned_V, **options)


def _began_with(error: BaseException) -> BaseException:
    """What a failed capture reports is its own end; the cause lies behind it."""
    while error.__context__ is not None:
        error = error.__context__
    return error
