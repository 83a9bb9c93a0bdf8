"""The road from raw rows to a verdict: its steps in order, how far one is, what comes next."""

from __future__ import annotations

from opdcliff.road.looking import look
from opdcliff.road.memory import recall
from opdcliff.road.table import print_road
from opdcliff.road.walk import on_road

__all__ = ["look", "on_road", "print_road", "recall"]
