"""Data frames printed as tables."""

from __future__ import annotations

import math
import os
import textwrap
from typing import TYPE_CHECKING, Any

from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from opdcliff.terminal.layout import Block, Column, arrange
from opdcliff.terminal.output import drop_output

if TYPE_CHECKING:
    import pandas as pd

# Columns that tell the arms of a table of cells apart; the cells of an arm differ in lam and seed.
ARM_KEYS = ["clip", "estimator", "warmup", "budget"]

# Where there is no terminal to ask.
_PLAIN_WIDTH = 80


def console() -> Console:
    """Where tables go: as wide as the terminal; elsewhere COLUMNS wide, or 80 without it."""
    out = _Console()
    return out if out.is_terminal else _Console(width=_plain_width())


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Go on without a reader: what is to be written after this is no less wanted."""
        drop_output()


def print_table(out: Console, title: str, frame: pd.DataFrame, *, digits: int = 4) -> None:
    """Print `frame` with a header of its column names; missing values as a dash.

    No line is longer than `out` is wide: see `arrange` for what becomes of a wide table.
    """
    # Printed apart: as a table's title it would wrap at the table's width.
    print_text(out, title)
    columns = [
        Column(
            str(name),
            [_text(value, digits) for value in frame[name]],
            right=not any(isinstance(value, str) for value in frame[name]),
        )
        for name in frame.columns
    ]
    for block in arrange(columns, out.width):
        out.print(_drawn(block))


def print_text(out: Console, text: str) -> None:
    """Print a sentence, wrapped at its words; a longer one, such as a path, stays whole."""
    lines = textwrap.wrap(text, out.width, break_long_words=False, break_on_hyphens=False)
    out.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def _drawn(block: Block) -> Table:
    table = Table(show_header=block.header)
    for column, width in zip(block.columns, block.widths, strict=True):
        justify: JustifyMethod = "right" if column.right else "left"
        table.add_column(Text(column.header), justify=justify, width=width, overflow="fold")
    for row in zip(*(column.cells for column in block.columns), strict=True):
        # As plain text: an interval such as [inf, inf] would be taken for markup and vanish.
        table.add_row(*map(Text, row))
    return table


def _plain_width() -> int:
    columns = os.environ.get("COLUMNS", "")
    return int(columns) if columns.isdecimal() and int(columns) > 0 else _PLAIN_WIDTH


def with_intervals(calibration: pd.DataFrame) -> pd.DataFrame:
    """A calibration table (see `Calibration.table`) with each number and its interval in one."""
    view = calibration[["class", "offsets", "positions"]].copy()
    for name in (c for c in calibration.columns if f"{c}_lo" in calibration.columns):
        bounds = (calibration[name], calibration[f"{name}_lo"], calibration[f"{name}_hi"])
        view[name] = [
            f"{value:.4f} [{low:.4f}, {high:.4f}]" for value, low, high in zip(*bounds, strict=True)
        ]
    view["binding"] = ["<- binding" if binding else "" for binding in calibration.binding]
    return view


def _text(value: Any, digits: int) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)
