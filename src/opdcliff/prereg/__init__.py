"""Predictions before runs: pilot, windows, the lock, and the runs it asks for."""

from __future__ import annotations

from opdcliff.prereg.confirm import run_locked
from opdcliff.prereg.locking import make_lock

__all__ = [
    "make_lock",
    "run_locked",
]
