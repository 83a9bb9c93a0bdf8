"""Memory of a run per rank before it starts."""

from __future__ import annotations

from opdcliff.planning.report import report

__all__ = [
    "report",
]
