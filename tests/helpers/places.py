"""Folders that tests hand to other processes."""

from __future__ import annotations

from pathlib import Path

# On PYTHONPATH a process finds the modules beside this one.
HELPERS = str(Path(__file__).parent)
