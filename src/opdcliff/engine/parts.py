"""What both engines are made of: the student wrapped for scoring, and its optimizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from opdcliff.rollout import ScoringModule
from opdcliff.settings import OptimConfig, RunConfig


def scoring_module(student: PreTrainedModel, config: RunConfig) -> ScoringModule:
    """The student wrapped for scoring at the rollouts' temperature."""
    kind: type[ScoringModule] = ScoringModule
    if config.engine.gradient_checkpointing:
        kind = _Recomputing
        student.activation_checkpointing_enable({"use_reentrant": False})
        # Only frozen embeddings need that.
        student.disable_input_require_grads()
    return kind(student, config.rollout.temperature, config.engine.score_chunk_tokens)


class _Recomputing(ScoringModule):
    """Scoring that runs the student's layers again in the backward pass, for less memory."""

    def __init__(self, model: PreTrainedModel, *settings: Any) -> None:
        super().__init__(model, *settings)
        layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
        self._modes = {layer: layer.training for layer in layers}
        for layer in layers:
            again = layer._gradient_checkpointing_func
            layer._gradient_checkpointing_func = partial(self._in_its_mode, layer, again)

    def forward(self, *inputs: Any) -> Tensor | tuple[Tensor, ...]:
        self._modes = {layer: layer.training for layer in self._modes}
        # Only a layer in training mode recomputes, and such a layer drops the cache that sampling
        # needs. What it does, dropout above all, is done in the mode that it was in.
        for layer in self._modes:
            layer.training = True
        try:
            return super().forward(*inputs)
        finally:
            for layer, mode in self._modes.items():
                layer.training = mode

    def _in_its_mode(
        self, layer: nn.Module, again: Callable[..., Any], run: Callable[..., Any], *inputs: Any
    ) -> Any:
        """What the library does to run a layer twice, with the layer in the mode it was in."""
        mode = self._modes[layer]

        def run_so(*inputs: Any) -> Any:
            before, layer.training = layer.training, mode
            try:
                return run(*inputs)
            finally:
                layer.training = before

        return again(run_so, *inputs)


def build_optimizer(
    parameters: Sequence[nn.Parameter], config: OptimConfig, *, fused: bool = False
) -> torch.optim.Optimizer:
    """As configured; ZeRO engines wrap the same one. fused: all of a step in one kernel."""
    if config.name == "sgd":
        return torch.optim.SGD(
            parameters, lr=config.lr, weight_decay=config.weight_decay, fused=fused
        )
    return torch.optim.AdamW(
        parameters,
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        weight_decay=config.weight_decay,
        fused=fused,
    )
