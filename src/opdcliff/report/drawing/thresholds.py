"""Thresholds of single positions: how much lies under each lambda, by prefix and weighting."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from opdcliff.report.drawing import style
from opdcliff.report.drawing.page import Page, new_figure, panel_title, write_page

_TITLES = {"plain": "every position counts alike", "tail": "weighted by the teacher's tail 1 - p"}
_LABELS = {
    "warm_start": "warm start's answers",
    "forced": "its texts forced to go on",
    "teacher": "teacher's answers",
}
# The axis ends at most this many times as far from 1 as the largest lambda* of medians.
_FARTHEST = 6.0


@style.beside_tables("thresholds.png")
def draw_thresholds(
    curves: pd.DataFrame, medians: pd.DataFrame, folder: Path, *, c: float, note: str, origin: str
) -> None:
    """Write thresholds.svg, .png and .csv: the share of positions with a threshold below lambda.

    curves: columns source, weighting, share, threshold; medians: of_medians per source, marked as
    vertical lines. A curve that ends below 1 leaves the positions without an upper threshold.
    """
    with style.own_style():
        figure = new_figure(
            9.6, 4.4, f"Thresholds of single positions at c = {c:g}", note + ". Vertical: lambda* "
            "of the medians of p and b. What a curve leaves at the right has a threshold beyond "
            "the axis, or none (p <= b).",
        )  # fmt: skip
        axes = figure.subplots(1, len(_TITLES), sharey=True)
        stars = medians.drop_duplicates("source").set_index("source").of_medians
        limits = _limits(curves, stars)
        for axis, (weighting, title) in zip(axes, _TITLES.items(), strict=True):
            _panel(axis, curves[curves.weighting == weighting], stars, limits)
            panel_title(axis, title)
        axes[0].set(ylabel="share with a threshold at or below lambda", ylim=(0.0, 1.02))
        axes[1].legend(loc="lower right", fontsize=8)
        folder.mkdir(parents=True, exist_ok=True)
        table = curves.assign(of_medians=curves.source.map(stars))
        write_page(Page(figure, table, [f"calibration {origin}"]), folder, "thresholds")


def _limits(curves: pd.DataFrame, stars: pd.Series[float]) -> tuple[float, float]:
    """From the lowest thresholds to the highest finite ones, with a margin."""
    inside = curves[(curves["share"] > 0.02) & (curves["share"] < 0.9)].threshold
    inside = inside[np.isfinite(inside)]
    if inside.empty:
        return 1.0, 2.0
    low = float(inside.min())
    known = stars[np.isfinite(stars)]
    farthest = 1.0 + _FARTHEST * (float(known.max()) - 1.0) if len(known) else 3.0
    high = max(min(float(inside.max()), farthest), low + 0.02)
    margin = 0.08 * (high - low)
    return max(1.0, low - margin), high + margin


def _panel(
    axis: Axes, curves: pd.DataFrame, stars: pd.Series[float], limits: tuple[float, float]
) -> None:
    groups = curves.groupby("source", sort=False)
    for look, (source, curve) in zip(style.SERIES, groups, strict=False):
        inside = curve[np.isfinite(curve.threshold)]
        axis.plot(
            inside.threshold, inside["share"], color=look.color, ls=look.line, lw=1.4,
            drawstyle="steps-post", label=_LABELS.get(str(source), str(source)),
        )  # fmt: skip
        if np.isfinite(stars[source]):
            axis.axvline(stars[source], color=look.color, ls=look.line, lw=0.8, alpha=0.7)
    axis.set(xlim=limits, xlabel="lambda")
