"""The command line: one verb a function, errors as one line."""

from __future__ import annotations

from opdcliff.cli.command import main

__all__ = [
    "main",
]
