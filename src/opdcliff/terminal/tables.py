"""Data frames printed as tables."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    import pandas as pd

# Columns that tell the arms of a table of cells apart; the cells of an arm differ in lam and seed.
ARM_KEYS = ["clip", "estimator", "warmup", "budget"]

# Wide enough for a table in a log, where there is no terminal to ask.
LOG_WIDTH = 180


def console() -> Console:
    """Where tables go: as wide as the terminal, or as a line of a log."""
    out = Console()
    return out if out.is_terminal else Console(width=LOG_WIDTH)


def print_table(out: Console, title: str, frame: pd.DataFrame, *, digits: int = 4) -> None:
    """Print `frame` with a header of its column names; missing values as a dash."""
    # Printed apart: as a table's title it would wrap at the table's width.
    out.print(title, markup=False, highlight=False, soft_wrap=True)
    table = Table()
    for name in frame.columns:
        left = any(isinstance(value, str) for value in frame[name])
        table.add_column(str(name), justify="left" if left else "right", overflow="fold")
    for row in frame.itertuples(index=False):
        # As plain text: an interval such as [inf, inf] would be taken for markup and vanish.
        table.add_row(*(Text(_text(value, digits)) for value in row))
    out.print(table)


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
