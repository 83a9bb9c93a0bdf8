"""The preview's picture: parse rate over lambda, predicted and of runs, one curve a clip."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from opdcliff.report.drawing import style


@style.beside_tables("preview.png")
def draw_preview(
    table: pd.DataFrame,
    stars: Mapping[tuple[str, float], float],
    floors: Mapping[str, float],
    folder: Path,
    beside: pd.DataFrame | None = None,
) -> None:
    """Write preview.png, .svg and .csv: a curve a clip with its band, lambda*, floors, runs.

    table: `Preview.table`. stars: lambda* per rule and strength, a line in the colour of its curve.
    beside: `Agreement.table`; the means of runs are open marks, with their least and most.
    """
    with style.own_style():
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        axis = figure.subplots()
        clips = list(table.groupby(["rule", "c"], sort=False))
        several = len({rule for (rule, _), _ in clips} - {"none"}) > 1
        for look, ((rule, c), part) in zip(itertools.cycle(style.SERIES), clips, strict=False):
            strength = float(str(c))
            label = "no clip" if math.isinf(strength) else f"c = {strength:g}"
            _curve(axis, part, look, f"{rule}, {label}" if several else label)
            if beside is not None:
                _runs(axis, beside[(beside.rule == rule) & (beside.c == c)], look)
            star = stars.get((str(rule), strength), math.inf)
            if math.isfinite(star):
                axis.axvline(star, color=look.color, lw=1, ls=":")
                axis.text(star, 1.04, f"{star:.2f}", color=look.color, ha="center", size=7)
        for name, rate in floors.items():
            axis.axhline(rate, color=style.GREY, lw=0.7, ls="--")
            last, words = float(table.lam.max()), name.replace("_", " ")
            axis.text(last, rate, words, size=7, ha="right", va="bottom")
        axis.set(xlabel="lambda", ylabel="parse rate", ylim=(-0.03, 1.1))
        made = "no run made" if beside is None else "open marks: runs, least to most"
        axis.set_title(f"Settled students: predicted, {made} (dotted: lambda*)", fontsize=9.5)
        axis.legend(fontsize=8, handlelength=3.4)
        style.save(figure, table, folder, "preview", "settled students, predicted: no run made")


def _curve(axis: Axes, part: pd.DataFrame, look: style.Series, label: str) -> None:
    plain = part[part.margin == 0.0].sort_values("lam")
    wide = part[part.margin == part.margin.max()].sort_values("lam")
    axis.plot(plain.lam, plain.parse_rate, look.marker, ls=look.line, color=look.color, label=label)
    axis.fill_between(plain.lam, wide.parse_lo, plain.parse_hi, color=look.color, alpha=0.12)


def _runs(axis: Axes, runs: pd.DataFrame, look: style.Series) -> None:
    spans = [runs.seen - runs.least, runs.most - runs.seen]
    axis.errorbar(
        runs.lam, runs.seen, yerr=spans, fmt=look.marker, color=look.color, mfc="white", ms=8, lw=1
    )
