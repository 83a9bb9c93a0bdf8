"""What both engines are made of: the student wrapped for scoring, and its optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from opdcliff.rollout import ScoringModule
from opdcliff.settings import OptimConfig, RunConfig


def scoring_module(student: PreTrainedModel, config: RunConfig) -> ScoringModule:
    """The student wrapped for scoring at the rollouts' temperature."""
    kind = ScoringModule
    if config.engine.gradient_checkpointing:
        kind = _Recomputing
        student.activation_checkpointing_enable({"use_reentrant": False})
        # Only frozen embeddings need that.
        student.disable_input_require_grads()
    return kind(student, config.rollout.temperature, config.engine.score_chunk_tokens)


class _Recomputing(ScoringModule):
    """Scoring that runs the student's layers again in the backward pass, for less memory."""

    def forward(self, *inputs: Any) -> Tensor | tuple[Tensor, ...]:
        layers = [m for m in self.model.modules() if isinstance(m, GradientCheckpointingLayer)]
        modes = [layer.training for layer in layers]
        # Only a layer in training mode recomputes, and such a layer drops the cache that sampling
        # needs. What it contains, dropout above all, stays in the mode it is in.
        for layer in layers:
            layer.training = True
        try:
            return super().forward(*inputs)
        finally:
            for layer, mode in zip(layers, modes, strict=True):
                layer.training = mode


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
