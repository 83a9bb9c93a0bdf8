"""The command line: one verb a function, errors as one line."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "main",
]


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code (see opdcliff.errors)."""
    # Not at the top: `python -m opdcliff.cli.command` would find its module loaded, and warn.
    from opdcliff.cli.command import main as run
    from opdcliff.processes import spare_imports

    spare_imports()
    return run(arguments)
