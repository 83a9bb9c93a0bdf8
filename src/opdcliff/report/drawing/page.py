"""A figure with its heading, its numbers and where they come from; what all figures share."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from opdcliff.report.drawing import style

# Inches: the height of a line of small print, and what the heading takes.
_LINE, _HEAD, _EDGE = 0.125, 0.34, 0.1
# Characters of small print in an inch of width.
_PER_INCH = 20.5


@dataclass(frozen=True)
class Page:
    """A figure, the table of exactly the plotted numbers, and the provenance of each input."""

    figure: Figure
    table: pd.DataFrame
    origins: Sequence[str]

    @property
    def provenance(self) -> str:
        """One line for the files' metadata."""
        return "; ".join(dict.fromkeys(self.origins))


def new_figure(width: float, height: float, title: str, note: str) -> Figure:
    """A figure in inches with a heading and, under it, what is locked and what exploratory."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.text(_EDGE / width, 1 - 0.08 / height, title, va="top", size=11.5, weight="bold")
    lines = textwrap.wrap(note, int(width * 15))
    figure.text(
        _EDGE / width,
        1 - _HEAD / height,
        "\n".join(lines),
        va="top",
        size=8.5,
        color=style.GREY,
        linespacing=1.2,
    )
    head = _HEAD + 0.17 * len(lines) + 0.1
    _reserve(figure, bottom=0.0, top=head / height)
    return figure


@style.own_style()
def write_page(page: Page, folder: Path, name: str) -> None:
    """Write `name`.png, .svg, .csv, the provenance at the foot and in the metadata."""
    figure = page.figure
    width, height = figure.get_size_inches()
    lines = textwrap.wrap(page.provenance, int((width - 2 * _EDGE) * _PER_INCH))
    figure.text(
        _EDGE / width,
        0.06 / height,
        "\n".join(lines),
        va="bottom",
        size=6,
        color=style.GREY,
        linespacing=1.25,
    )
    _reserve(figure, bottom=(_LINE * len(lines) + 0.1) / height, top=None)
    style.save(figure, page.table, folder, name, page.provenance)


def _reserve(figure: Figure, *, bottom: float, top: float | None) -> None:
    """Keep the axes out of the heading and the foot."""
    engine = figure.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine), "new_figure makes one"
    old = engine.get()["rect"]
    height = 1.0 - top if top is not None else old[3]
    engine.set(rect=(0.0, bottom, 1.0, height - bottom))


def panel_title(axis: Axes, text: str) -> None:
    """A panel's own heading."""
    axis.set_title(text, fontsize=9.5)


def each(table: pd.DataFrame) -> Iterable[Any]:
    """The rows of a table as named tuples, whose fields have no static type."""
    return table.itertuples()


def onset_bar(
    axis: Axes, y: float, low: float, high: float, point: float, look: style.Series
) -> None:
    """An onset as a horizontal bar over its grid cell [low, high], with a marker at the point.

    Where the crossing lies outside the grid one side is infinite: the bar then ends in an arrow at
    the edge of the axis and has no marker. The limits of the axis must have been set.
    """
    left, right = axis.get_xlim()
    start, end = max(low, left), min(high, right)
    axis.plot([start, end], [y, y], color=look.color, lw=1.6, solid_capstyle="butt")
    for value, edge, arrow in ((low, start, "<"), (high, end, ">")):
        mark = arrow if math.isinf(value) else "|"
        axis.plot([edge], [y], mark, color=look.color, ms=7, clip_on=False)
    if not math.isnan(point):
        axis.plot([point], [y], look.marker, color=look.color, ms=6, mec="white", mew=0.6)
    else:
        axis.annotate(
            "a seed does not cross on the grid",
            (end if math.isinf(high) else start, y),
            (0, 4),
            textcoords="offset points",
            ha="right" if math.isinf(high) else "left",
            size=7,
        )
