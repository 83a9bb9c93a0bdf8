"""Imported by the process that workers are forked from, and by no other: libraries, and no wish.

Clusters send SIGTERM to every process. Were this one to end by it, the study would take its workers
for dead while they save where they are.
"""

from __future__ import annotations

import os
import signal

import pandas  # noqa: F401
import scipy.stats  # noqa: F401
import torch  # noqa: F401
import transformers  # noqa: F401


def _as_any_process() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


signal.signal(signal.SIGTERM, signal.SIG_IGN)
# A worker answers the signal by itself, see `workers._begin`.
os.register_at_fork(after_in_child=_as_any_process)
