"""Folders that tests hand to other processes."""

from __future__ import annotations

import os
from pathlib import Path

# On PYTHONPATH a process finds the modules beside this one.
HELPERS = str(Path(__file__).parent)


def with_helpers() -> dict[str, str]:
    """This environment, with the modules beside this one to be found."""
    path = os.pathsep.join(filter(None, (HELPERS, os.environ.get("PYTHONPATH", ""))))
    return {**os.environ, "PYTHONPATH": path}
