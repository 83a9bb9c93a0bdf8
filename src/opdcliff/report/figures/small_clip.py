"""Predicted against observed onset over all clips: one pair (p, b), nothing refitted."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from opdcliff.report.drawing import style
from opdcliff.report.drawing.inputs import EXPLORATORY, LOCKED, Inputs, LockedStudy, Study
from opdcliff.report.drawing.page import Page, each, new_figure, panel_title
from opdcliff.theory import threshold

CLIPS = "opdcliff study experiment=clips"
QUICK = "opdcliff study protocol=quick"
_LOOKS = {"mini": 0, "quick": 2, "clips": 1}


def table(study: LockedStudy, others: dict[str, Study]) -> pd.DataFrame:
    """One row per clip and study: lambda*, onset, its interval, its grid cell, a locked window."""
    rows: list[dict[str, Any]] = []
    for name, arm in (("T1", "fine_grid"), ("T3", "small_clip")):
        found, c = study.verdicts["tests"][name], study.tests[name].design.strength
        assert c is not None, "locked onset tests have a clip"
        rows.append(
            {"study": "mini", "evidence": LOCKED, "arm": arm, "c": c}
            | {"lambda_star": threshold.lambda_star(*study.binding, c), "onset": found["mean"]}
            | dict(zip(("onset_lo", "onset_hi"), found["interval"], strict=True))
            | dict(zip(("bracket_lo", "bracket_hi"), found["bracket"], strict=True))
            | dict(zip(("window_lo", "window_hi"), found["window"], strict=True))
        )
    for name, other in others.items():
        strengths = other.table("cells").groupby("clip").c.first()
        for row in other.table("onsets").to_dict("records"):
            kept = ("lambda_star", "onset", "onset_lo", "onset_hi", "bracket_lo", "bracket_hi")
            about = {"study": name, "evidence": EXPLORATORY, "arm": row["clip"]}
            rows.append(about | {"c": strengths[row["clip"]]} | {key: row[key] for key in kept})
    return pd.DataFrame(rows).sort_values(["c", "study"], ignore_index=True)


def build(inputs: Inputs) -> Page:
    """From the locked study, results/studies/mini/quick and results/studies/mini/clips."""
    study = inputs.locked()
    others = {
        "clips": inputs.study("mini", "clips", CLIPS),
        "quick": inputs.study("mini", "quick", QUICK),
    }
    data = table(study, others)
    figure = new_figure(
        9.4,
        4.8,
        "Predicted against observed onset over all clips, from one pair (p, b)",
        "p and b were measured once, at no clip in particular. c = 5 and c = 2 of study mini are "
        "locked, all others exploratory. Bars: grid cells of the crossings; grey boxes: locked "
        "windows, lambda* corrected for the spread of positions; arrow: the grid ends first.",
    )
    left, right = figure.subplots(1, 2)
    _identity(left, data)
    _error(right, data)
    return Page(figure, data, [study.origin, *(other.origin for other in others.values())])


def _identity(axis: Axes, data: pd.DataFrame) -> None:
    edge = (data.lambda_star.min() - 0.15, data.lambda_star.max() + 0.15)
    axis.plot(edge, edge, color=style.BLACK, lw=0.9, ls=":")
    axis.set(xlim=edge, ylim=edge, xlabel="predicted lambda*", ylabel="observed onset")
    for row in each(data):
        _bar(axis, float(row.lambda_star), row, lambda value: value)
    for c, same in data.groupby("c"):
        x = same.lambda_star.iloc[0]
        label = axis.annotate(f"c = {c:g}", (x + 0.05, x - 0.12), size=8)
        label.set_in_layout(False)
    panel_title(axis, "dotted: observed = predicted")


def _error(axis: Axes, data: pd.DataFrame) -> None:
    strengths = sorted(data.c.unique())
    finite = data[["bracket_lo", "bracket_hi"]].to_numpy() / data[["lambda_star"]].to_numpy() - 1
    low, high = finite[np.isfinite(finite)].min(), finite[np.isfinite(finite)].max()
    axis.set_ylim(100 * min(low, -0.06) - 1, 100 * max(high, 0.0) + 4)
    axis.set_xlim(-0.5, len(strengths) - 0.3)
    axis.axhline(0.0, color=style.BLACK, lw=0.9, ls=":")
    seen: set[str] = set()
    for row in each(data):
        star = float(row.lambda_star)
        aside = {"mini": 0.0, "quick": 0.22, "clips": 0.0}[str(row.study)]
        x = strengths.index(row.c) + aside
        if not math.isnan(row.window_lo):
            lo, hi = (100 * (value / star - 1) for value in (row.window_lo, row.window_hi))
            axis.fill_between([x - 0.13, x + 0.13], lo, hi, color=style.PALE, lw=0, zorder=0)
        label = f"{row.study} ({row.evidence})" if row.study not in seen else None
        seen.add(str(row.study))
        _bar(axis, x, row, lambda value, star=star: 100 * (value / star - 1), label)
    axis.set_xticks(range(len(strengths)), [f"c = {c:g}" for c in strengths])
    axis.set_ylabel("observed against lambda*, percent")
    axis.legend(loc="upper right", fontsize=7.5)
    panel_title(axis, "the same in percent off lambda*")


def _bar(axis: Axes, x: float, row: Any, scale: Any, label: str | None = None) -> None:
    """Grid cell and point; a side without an end is an arrow, and such an onset has no marker."""
    look = style.SERIES[_LOOKS[str(row.study)]]
    bottom, top = axis.get_ylim()
    ends = [scale(row.bracket_lo), scale(row.bracket_hi)]
    shown = [max(ends[0], bottom), min(ends[1], top)]
    axis.plot([x, x], shown, color=look.color, lw=1.5, solid_capstyle="butt")
    marks: dict[str, Any] = {"color": look.color, "ms": 6}
    for end, at, arrow in zip(ends, shown, ("v", "^"), strict=True):
        axis.plot([x], [at], arrow if math.isinf(end) else "_", clip_on=False, **marks)
    point = [] if math.isnan(row.onset) else [scale(row.onset)]
    axis.plot([x] * len(point), point, look.marker, mec="white", mew=0.7, label=label, **marks)
