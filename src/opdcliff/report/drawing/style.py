"""One style for all figures: colour-blind safe, readable in grey.

CSV and PNG are the same bytes every time; in an SVG the ids of some clip paths, which matplotlib
takes from memory addresses, may differ between processes.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from opdcliff.storage import in_words, told

_log = logging.getLogger(__name__)

# Okabe-Ito colours; markers and line styles tell the series apart without them.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#555555"
PURPLE, AMBER, BLACK, PALE = "#CC79A7", "#E69F00", "#000000", "#DDDDDD"


class Series(NamedTuple):
    """How one series looks: no two share a marker or a line, and neighbours differ in lightness."""

    color: str
    marker: str
    line: Any


SERIES = (
    Series(BLUE, "o", "-"),
    Series(ORANGE, "s", (0, (5, 1.5))),
    Series(PURPLE, "^", (0, (1.2, 1.2))),
    Series(AMBER, "D", (0, (6, 1.5, 1.2, 1.5))),
    Series(BLACK, "v", (0, (3, 1, 1, 1, 1, 1))),
)

_RC: dict[Any, Any] = {
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


@contextlib.contextmanager
def own_style() -> Iterator[None]:
    """Draw and save in this block: matplotlib's defaults and our style, no file of the user's."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_RC)
        yield


@contextlib.contextmanager
def beside_tables(picture: str) -> Iterator[None]:
    """A picture of numbers that are written already: one that fails is a warning, no error."""
    try:
        yield
    except Exception as error:  # whatever a library of fonts or formats does, the tables are whole
        reason = in_words(error) if isinstance(error, OSError) else told(error)
        _log.warning("%s could not be drawn (%s); its tables are written", picture, reason)


def save(figure: Figure, data: pd.DataFrame, folder: Path, name: str, provenance: str) -> None:
    """Write `name`.png, .svg and .csv (the plotted numbers), with provenance in the metadata."""
    data.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")
    with own_style():
        figure.savefig(folder / f"{name}.png", metadata={"Description": provenance})
        figure.savefig(folder / f"{name}.svg", metadata={"Description": provenance, "Date": None})
