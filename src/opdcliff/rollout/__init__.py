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
    ScoringModule,
    completion_full_logp,
    completion_logp,
    has_plain_head,
    iter_full_logp,
)

__all__ = [
    "CALIBRATION_STREAM",
    "EVALUATION_STREAM",
    "FORCED_STREAM",
    "TEACHER_STREAM",
    "TRAIN_STREAM",
    "Rollout",
    "ScoringModule",
    "completion_full_logp",
    "completion_logp",
    "has_plain_head",
    "iter_full_logp",
    "sample",
]
