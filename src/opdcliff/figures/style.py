"""One style for all figures: colour-blind safe, readable in grey, the same bytes every time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

# Okabe-Ito colours; markers and line styles tell the series apart without them.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#555555"

RC: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "legend.framealpha": 0.8,
    "legend.edgecolor": "none",
    "figure.dpi": 150,
    "svg.hashsalt": "opd-cliff",
    "svg.fonttype": "none",
}


def save(figure: Figure, data: pd.DataFrame, folder: Path, name: str, provenance: str) -> None:
    """Write `name`.png, .svg and .csv (the plotted numbers), with provenance in the metadata."""
    with mpl.rc_context(RC):
        figure.savefig(folder / f"{name}.png", metadata={"Description": provenance})
        figure.savefig(folder / f"{name}.svg", metadata={"Description": provenance, "Date": None})
    data.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")
