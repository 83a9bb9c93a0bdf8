"""Predictions before runs: pilot, windows, the lock, and the runs it asks for."""

from __future__ import annotations

from opdcliff.prereg.confirm import run_locked
from opdcliff.prereg.counting import RUNNING, Progress, progress
from opdcliff.prereg.locking import make_lock
from opdcliff.prereg.predict import Predicted, predict

__all__ = [
    "RUNNING",
    "Predicted",
    "Progress",
    "make_lock",
    "predict",
    "progress",
    "run_locked",
]
