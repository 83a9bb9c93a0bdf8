"""Answers of a model, reproducible for any batching, and their log-probs."""

from __future__ import annotations

from opdcliff.rollout.backends import sample
from opdcliff.rollout.draws import (
    CALIBRATION_STREAM,
    EVALUATION_STREAM,
    FORCED_STREAM,
    TEACHER_STREAM,
    TRAIN_STREAM,
    Rollout,
    as_rollout,
    draw_tokens,
    is_end,
    uniforms,
)
from opdcliff.rollout.positions import even_positions
from opdcliff.rollout.scoring import (
    ChunkLoss,
    ScoringModule,
    completion_features,
    completion_logp,
    features_logp,
    has_plain_head,
    iter_full_logp,
    loss_chunks,
)
from opdcliff.rollout.steps.decode_step import StepError, refusal
from opdcliff.rollout.steps.step_package import build_step, offer_step, step_facts
from opdcliff.rollout.vllm_engine import engine_version, offer_memory

__all__ = [
    "CALIBRATION_STREAM",
    "EVALUATION_STREAM",
    "FORCED_STREAM",
    "TEACHER_STREAM",
    "TRAIN_STREAM",
    "ChunkLoss",
    "Rollout",
    "ScoringModule",
    "StepError",
    "as_rollout",
    "build_step",
    "completion_features",
    "completion_logp",
    "draw_tokens",
    "engine_version",
    "even_positions",
    "features_logp",
    "has_plain_head",
    "is_end",
    "iter_full_logp",
    "loss_chunks",
    "offer_memory",
    "offer_step",
    "refusal",
    "sample",
    "step_facts",
    "uniforms",
]
