"""The table that closes `opdcliff train`: its cells, and the onset if they form a grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from rich.console import Console

from opdcliff.settings import GridCell
from opdcliff.study.jobs import JobResult
from opdcliff.study.summary import onset_table, onset_view
from opdcliff.terminal import print_table
from opdcliff.theory import LEVEL

# Settings that the columns of a row show anyway.
_SHOWN = {"clip", "seed", "lam.value"}
# What `onset_table` tells arms and seeds apart by; in a grid over anything else it would mix them.
_ARM = _SHOWN | {"lam.of_threshold", "lam.warmup_updates", "lambda", "optim.estimator"}


def print_cells(cells: Sequence[GridCell], results: Sequence[JobResult], console: Console) -> None:
    """Print one row per cell that has an outcome, and where the records lie."""
    done = [
        (cell, result.row)
        for cell, result in zip(cells, results, strict=True)
        if result.row is not None
    ]
    if not done:
        return
    varied = [dict(word.split("=", 1) for word in cell.varied) for cell, _ in done]
    rows = [_view(row, names) for (_, row), names in zip(done, varied, strict=True)]
    reused = sum(result.reused for result in results)
    note = f", {reused} of them finished before and reused" if reused else ""
    print_table(console, f"{len(done)} of {len(results)} cells{note}", pd.DataFrame(rows))
    if set().union(*varied) <= _ARM:
        onsets = onset_table(pd.DataFrame([row for _, row in done]))
        if not onsets.empty:
            title = f"Observed onset (parse rate crosses {LEVEL:g}) beside the prediction"
            print_table(console, title, onset_view(onsets))
    folders = sorted({str(result.folder) for result in results if result.folder})
    for folder in folders:
        console.print(f"records in {folder}", markup=False, highlight=False, soft_wrap=True)


def _view(row: dict[str, Any], varied: dict[str, str]) -> dict[str, Any]:
    """The columns that fit a page; the record has them all."""
    ndcg = [name for name in row if name.startswith("ndcg") and name.endswith("_parsed")]
    return {
        "clip": row["clip"],
        "seed": row["seed"],
        **{name: value for name, value in varied.items() if name not in _SHOWN},
        "lambda": row["lam"],
        "lambda*": row["lambda_star"],
        "status": row["status"],
        "updates": row["updates"],
        "parse_rate": row["parse_rate"],
        "95%": f"[{row['parse_lo']:.2f}, {row['parse_hi']:.2f}]",
        **{name: row[name] for name in ndcg},
        "truncated": row["truncated"],
        "length": row["mean_length"],
        "residual": row["residual"],
    }
