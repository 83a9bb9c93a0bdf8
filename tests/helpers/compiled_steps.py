"""Decoding steps for tests: the model called as a compiled step is, without a compiler."""

from __future__ import annotations

from torch import Tensor
from transformers import PreTrainedModel

from opdcliff.rollout.decode_step import DecodeStep, weights_of
from opdcliff.rollout.step_package import CompiledStep


def uncompiled(model: PreTrainedModel) -> CompiledStep:
    """A stand-in for `step_of`: the same function of the same tensors, run line by line."""
    step = DecodeStep(model)
    weights, layers = len(weights_of(model)), model.config.get_text_config().num_hidden_layers

    def run(flat: list[Tensor]) -> list[Tensor]:
        keys, rest = weights + layers, weights + 2 * layers
        return list(step(flat[:weights], flat[weights:keys], flat[keys:rest], *flat[rest:]))

    return run
