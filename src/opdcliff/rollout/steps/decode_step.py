"""One decoding step as a function of tensors alone, made from the library's own model.

A step reads the last token of every row, writes its keys and values into caches of fixed size and
draws the next token. Weights are inputs too, so one compiled step serves all models of a shape:
base, student after every update, the next cell's student.

Axes in names: R rows that still run, K slots of the cache, H key heads, D their width, E end ids.
Slot s of a row holds place s of its left-padded prompt and answer: all rows write the same slot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, StaticLayer

from opdcliff.rollout.draws import draw_tokens

# From `StepInputs.flat` to the drawn tokens and the rows that have ended.
Step = Callable[[list[Tensor]], list[Tensor]]

# Attention implementations whose masks are known here: allowed or not, and what is added.
_MASKED = ("sdpa", "eager")
# End ids are an input of this many places, the last id repeated, so that their number is no shape.
END_PLACES = 8
# How far keys and values may lie from those of the library's own model, relative to the largest.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 5e-2}


class StepError(Exception):
    """A step cannot be made, or not used; its text says why in one line."""


class StepInputs(NamedTuple):
    """What a step reads, in the order of its arguments; all tensors contiguous.

    weights: parameters and buffers in the order of `weights_of`. keys_RHKD, values_RHKD: one per
    layer, written in place. at: the slot to write, int64 scalar. token_R1: the last tokens.
    offset_R1: position of a token less its slot. real_RK: False on slots of padding.
    uniform_R1: float64. ended_R1: rows that have ended, which draw pads. temperature: float64.
    """

    weights: list[Tensor]
    keys_RHKD: list[Tensor]
    values_RHKD: list[Tensor]
    at: Tensor
    token_R1: Tensor
    offset_R1: Tensor
    real_RK: Tensor
    uniform_R1: Tensor
    ended_R1: Tensor
    temperature: Tensor
    end_E: Tensor
    pad: Tensor

    def flat(self) -> list[Tensor]:
        """All tensors in a row."""
        return [*self.weights, *self.keys_RHKD, *self.values_RHKD, *self[3:]]

    @classmethod
    def of(cls, flat: Sequence[Tensor], weights: int) -> StepInputs:
        """Inverse of `flat` for that many weights."""
        small = len(flat) - (len(cls._fields) - 3)
        values = (weights + small) // 2
        held = (list(flat[:weights]), list(flat[weights:values]), list(flat[values:small]))
        return cls(*held, *flat[small:])


def weights_of(model: PreTrainedModel) -> dict[str, Tensor]:
    """Parameters and buffers by name, in a fixed order; tied ones once."""
    return {
        **{name: weight.detach() for name, weight in model.named_parameters()},
        **dict(model.named_buffers()),
    }


class DecodeStep(nn.Module):
    """Token (R, 1) and whether the row has ended by then (R, 1), from `StepInputs`.

    It calls the library's model with weights put in place of its own, which it does not hold.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        # In a list, so that its weights are not those of this module.
        self._model = [model]
        self._names = list(weights_of(model))
        self._added = model.config._attn_implementation == "eager"

    def forward(
        self,
        weights: Sequence[Tensor],
        keys_RHKD: Sequence[Tensor],
        values_RHKD: Sequence[Tensor],
        at: Tensor,
        token_R1: Tensor,
        offset_R1: Tensor,
        real_RK: Tensor,
        uniform_R1: Tensor,
        ended_R1: Tensor,
        temperature: Tensor,
        end_E: Tensor,
        pad: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """See the class; arguments as in `StepInputs`."""
        layers = [_Slots(*held, at) for held in zip(keys_RHKD, values_RHKD, strict=True)]
        slots = torch.arange(real_RK.shape[1], device=real_RK.device)
        mask_R11K = (real_RK & (slots <= at))[:, None, None, :]
        if self._added:
            dtype = keys_RHKD[0].dtype
            least = torch.finfo(dtype).min
            mask_R11K = torch.zeros_like(mask_R11K, dtype=dtype).masked_fill(~mask_R11K, least)
        out: Any = functional_call(
            self._model[0],
            dict(zip(self._names, weights, strict=True)),
            kwargs={
                "input_ids": token_R1,
                "attention_mask": mask_R11K,
                "position_ids": offset_R1 + at,
                "past_key_values": Cache(layers=layers),
                "use_cache": True,
            },
        )
        drawn_R1 = draw_tokens(out.logits[:, -1], uniform_R1, temperature, None)
        drawn_R1 = torch.where(ended_R1, pad, drawn_R1)
        return drawn_R1, ended_R1 | torch.isin(drawn_R1, end_E)


def plain_step(model: PreTrainedModel) -> Step:
    """The step of this model as it is, operation by operation."""
    step, weights = DecodeStep(model), len(weights_of(model))
    return lambda flat: list(step(*StepInputs.of(flat, weights)))


@torch.no_grad()
def run_checked(step: Step, plain: Step, inputs: StepInputs) -> list[Tensor]:
    """What a step gives, once it is seen to be what the model's own operations (`plain`) give.

    Both write the slot `at` of the same caches, one after the other, so that no copy is held.

    Raises:
        StepError: keys and values, ends, or more than a quarter of the draws are others.
    """
    caches = [*inputs.keys_RHKD, *inputs.values_RHKD]
    at = int(inputs.at)
    expected = plain(inputs.flat())
    written = [cache[:, :, at].clone() for cache in caches]
    for cache in caches:
        cache[:, :, at] = 0
    beside = [_beside(cache, at) for cache in caches]
    found = step(inputs.flat())
    bound = _TOLERANCE.get(caches[0].dtype, _TOLERANCE[torch.bfloat16])
    parts = [
        float((own - cache[:, :, at]).abs().max() / own.abs().max().clamp(min=1e-30))
        for own, cache in zip(written, caches, strict=True)
    ]
    same_R1 = expected[0] == found[0]
    # A draw within the rounding of its logits may fall to the neighbour.
    alike = (
        all(apart <= bound for apart in parts)
        and beside == [_beside(cache, at) for cache in caches]
        and torch.equal(expected[1][same_R1], found[1][same_R1])
        and same_R1.double().mean() >= 0.75
    )
    if not alike:
        raise StepError(f"its step gives other numbers (keys and values {max(parts):.1e} off)")
    return found


def _beside(cache_RHKD: Tensor, at: int) -> tuple[float, float]:
    """Sums of the slots before and after one, which a step leaves as they are."""
    around = (cache_RHKD[:, :, :at], cache_RHKD[:, :, at + 1 :])
    before, after = (float(slots.sum(dtype=torch.float64)) for slots in around)
    return before, after


def first_line(error: BaseException) -> str:
    """The kind of an error and the first line of its text."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200] if lines else 'no words'}"


class _Slots(StaticLayer):  # type: ignore[misc]
    """The library's static cache of one layer over tensors that are given."""

    def __init__(self, keys_RHKD: Tensor, values_RHKD: Tensor, at: Tensor) -> None:
        super().__init__(max_cache_len=keys_RHKD.shape[2])
        self.keys, self.values, self.device = keys_RHKD, values_RHKD, keys_RHKD.device
        # The library counts it up in place, once per layer.
        self.cumulative_length = at.clone()
        self.is_initialized = True


@dataclass
class Prefix:
    """What the prompts leave: caches per layer (R, H, L, D), and the scores of the first token."""

    keys_RHLD: list[Tensor]
    values_RHLD: list[Tensor]
    scores_RV: Tensor


def read_prompts(model: PreTrainedModel, ids_RL: Tensor, attention_RL: Tensor) -> Prefix | str:
    """Read the prompts as `generate` does, or say why their cache is none that a step knows."""
    cache = DynamicCache()
    out = model(
        input_ids=ids_RL,
        attention_mask=attention_RL,
        position_ids=(attention_RL.long().cumsum(-1) - 1).clamp(min=0),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    layers = getattr(out.past_key_values, "layers", None)
    if not layers or any(type(layer) is not DynamicLayer for layer in layers):
        return f"{type(model).__name__} keeps something other than keys and values of all tokens"
    return Prefix([x.keys for x in layers], [x.values for x in layers], out.logits[:, -1])


def refusal(model: PreTrainedModel, slots: int) -> str | None:
    """Why a step cannot sample from this model with that many slots, None if it can.

    Sliding windows do, as long as no answer is longer than the window: then none slides.
    """
    attention = model.config._attn_implementation
    if attention not in _MASKED:
        return f"its attention {attention} is none of {', '.join(_MASKED)}"
    if hasattr(model, "peft_config"):
        return "an adapter is on it"
    window = getattr(model.config.get_text_config(), "sliding_window", None)
    if window is not None and slots > window:
        return f"its window of {window} tokens is shorter than {slots} slots"
    return None


def end_places(end_ids: Sequence[int], device: torch.device) -> Tensor:
    """The end ids as a step takes them: `END_PLACES` places, the last id repeated."""
    filled = [*end_ids, *[end_ids[-1]] * (END_PLACES - len(end_ids))]
    return torch.tensor(filled, device=device)
