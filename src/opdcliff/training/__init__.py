"""On-policy distillation: objective, update, loop, evaluation, checkpoints, one process or many."""

from __future__ import annotations

from opdcliff.training.baselines import BASELINES
from opdcliff.training.checkpoints.resume import (
    about_run,
    drop_checkpoints_after,
    find_start,
    remove_checkpoints,
)
from opdcliff.training.evaluation.answers import EVALUATION_BATCH, evaluate_model, gain_of
from opdcliff.training.evaluation.metrics import Judged, answer_metrics, judge
from opdcliff.training.evaluation.references import references
from opdcliff.training.evaluation.run_evaluation import class_rows
from opdcliff.training.job import Job, Place
from opdcliff.training.loop import RunOutcome, evaluated_at
from opdcliff.training.ranks import train_on_ranks
from opdcliff.training.run import train_here

__all__ = [
    "BASELINES",
    "EVALUATION_BATCH",
    "Job",
    "Judged",
    "Place",
    "RunOutcome",
    "about_run",
    "answer_metrics",
    "class_rows",
    "drop_checkpoints_after",
    "evaluate_model",
    "evaluated_at",
    "find_start",
    "gain_of",
    "judge",
    "references",
    "remove_checkpoints",
    "train_here",
    "train_on_ranks",
]
