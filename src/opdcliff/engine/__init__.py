"""The one seam to devices and ranks: plain torch, DeepSpeed ZeRO, and what starts ranks."""

from __future__ import annotations

from opdcliff.engine.launch_command import (
    for_ranks,
    forks_ranks,
    free_port,
    launch_command,
    launch_environment,
    require_launcher,
)
from opdcliff.engine.open import open_engine
from opdcliff.engine.protocol import Engine
from opdcliff.engine.state import PARAMETER, State, load_parameters, trained

__all__ = [
    "PARAMETER",
    "Engine",
    "State",
    "for_ranks",
    "forks_ranks",
    "free_port",
    "launch_command",
    "launch_environment",
    "load_parameters",
    "open_engine",
    "require_launcher",
    "trained",
]
