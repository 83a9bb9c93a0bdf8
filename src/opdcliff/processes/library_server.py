"""Loads the workers' libraries; only the process that workers are forked from imports this.

Clusters send SIGTERM to every process, and before it SIGUSR1 or SIGUSR2. Were this one to end by
it, the study would take its workers for dead while they save where they are. A terminal sends
SIGINT to every process: the study says what comes of it, not this one.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal

from opdcliff.processes.collector import spare_imports

# What takes workers longest to import. transformers imports its parts only when asked for them.
_LIBRARIES = (
    "hydra.core.hydra_config",
    "pandas",
    "rich.console",
    "scipy.stats",
    "torch",
    "transformers.models.qwen3.modeling_qwen3",
    "transformers.models.auto.modeling_auto",
)


def _as_any_process() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


_at_interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
# Of the time limit that these announce workers learn by SIGTERM.
for _number in (signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(_number, signal.SIG_IGN)
# A worker answers the signal by itself, see `workers._begin`.
os.register_at_fork(after_in_child=_as_any_process)
spare_imports()
for _name in _LIBRARIES:
    importlib.import_module(_name)
# What follows ignores it as well, and gives this to workers.
signal.signal(signal.SIGINT, _at_interrupt)
# Workers share what is never looked at.
gc.freeze()
