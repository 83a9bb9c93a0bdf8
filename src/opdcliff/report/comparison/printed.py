"""The verb `compare`: counts, onsets, a file with every number and a picture."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from rich.console import Console

from opdcliff.report.comparison.compare import Agreement, Comparison
from opdcliff.report.comparison.picture import draw_comparison
from opdcliff.report.comparison.tables import ONSETS
from opdcliff.storage import write_text_atomic
from opdcliff.terminal import print_table

FILE = "comparison.csv"


def write_comparison(found: Comparison, folder: Path) -> None:
    """Write comparison.csv, comparison.png and comparison.svg beside one's own tables."""
    table = found.numbers.to_csv(index=False, float_format="%.6g")
    write_text_atomic(folder / FILE, table)
    draw_comparison(found, folder)


def print_comparison(found: Comparison, console: Console) -> None:
    """Print counts by table and column, and the onsets with both values and the tolerance."""
    print_table(console, "Numbers here against the committed ones", counts(found))
    onsets = headline(found)
    if not onsets.empty:
        print_table(console, "Onsets", onsets)


def counts(found: Comparison) -> pd.DataFrame:
    """How many numbers of each column are of which verdict; a line for a table of the same bits."""
    rows = []
    for table, numbers in found.numbers.groupby("table", sort=False):
        same = bool((numbers.verdict == Agreement.SAME).all())
        for column, group in [("all", numbers)] if same else numbers.groupby("column", sort=False):
            about = {"table": table, "column": str(column).removeprefix("eval/")}
            said = {str(v): int((group.verdict == v).sum()) for v in Agreement}
            rows.append(about | said)
    lines = pd.DataFrame(rows)
    judged = found.count(Agreement.NOT_JUDGED) == 0
    return lines.drop(columns=[str(Agreement.NOT_JUDGED)]) if judged else lines


def headline(found: Comparison) -> pd.DataFrame:
    """The mean onset of each arm: here, committed, and the values allowed."""
    numbers = found.numbers
    rows = numbers[(numbers.table == ONSETS) & (numbers.column == "onset")]
    return pd.DataFrame(
        {
            "arm": row["row"],
            "here": row["ours"],
            "committed": row["committed"],
            "allowed": f"{row['low']:.4f} to {row['high']:.4f}",
            "": row["verdict"],
        }
        for row in rows.to_dict("records")
    )
