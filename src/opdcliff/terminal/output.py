"""Standard output whose reader may leave, as `| head` does."""

from __future__ import annotations

import os
import sys


class _State:
    dropped = False


def drop_output() -> None:
    """Send to nowhere what is printed from now on, and what Python still holds of it."""
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, sys.stdout.fileno())
    os.close(sink)
    _State.dropped = True


def output_dropped() -> bool:
    """Whether that has happened in this process."""
    return _State.dropped
