"""Answers of a model, reproducible for any batching, and their log-probs."""

from __future__ import annotations

from opdcliff.rollout.backends import sample
from opdcliff.rollout.sampler import (
    CALIBRATION_STREAM,
    EVALUATION_STREAM,
    FORCED_STREAM,
    TEACHER_STREAM,
    TRAIN_STREAM,
    Rollout,
)
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

__all__ = [
    "CALIBRATION_STREAM",
    "EVALUATION_STREAM",
    "FORCED_STREAM",
    "TEACHER_STREAM",
    "TRAIN_STREAM",
    "ChunkLoss",
    "Rollout",
    "ScoringModule",
    "completion_features",
    "completion_logp",
    "features_logp",
    "has_plain_head",
    "iter_full_logp",
    "loss_chunks",
    "sample",
]
