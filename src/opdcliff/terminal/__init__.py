"""What a person sees while waiting: progress with time left, and tables as wide as the terminal."""

from __future__ import annotations

from opdcliff.terminal.output import drop_output, output_dropped
from opdcliff.terminal.progress import Stage
from opdcliff.terminal.tables import ARM_KEYS, console, print_table, print_text, with_intervals

__all__ = [
    "ARM_KEYS",
    "Stage",
    "console",
    "drop_output",
    "output_dropped",
    "print_table",
    "print_text",
    "with_intervals",
]
