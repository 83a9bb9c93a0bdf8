"""How far the onset falls short of lambda*, over settings that are ever nearer to p = 1."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from scipy.special import logit

from opdcliff.report.drawing import style
from opdcliff.report.drawing.inputs import EXPLORATORY, LOCKED, Inputs
from opdcliff.report.drawing.page import Page, each, new_figure
from opdcliff.report.figures.small_clip import QUICK
from opdcliff.theory import lambda_star

# Locks with the tests of an onset that have the warm-up and budget of their base arm.
LOCKS = {"mini": ("T1", "T3"), "near": ("T1", "T3"), "near_p99": ("T1",)}
# Exploratory studies of the same recipe, with the prediction that was committed before their runs.
STUDIES = {
    "quick": (QUICK, None),
    "near_quick": ("opdcliff study experiment=near_quick", "near_quick"),
    "near_p98": ("opdcliff study experiment=near_p98", "near_p98"),
}
# Lines of equal shortfall, in logits.
LOGITS = (0.05, 0.1, 0.15)
# Marks nearer than this, in percent per logit and percent, crowd each other's labels.
_BESIDE = (3.0, 0.6)


def table(inputs: Inputs) -> tuple[pd.DataFrame, list[str]]:
    """A row per setting: p, b, c, onset and prediction, and both as shortfalls; the origins."""
    rows, origins = [], []
    for name, tests in LOCKS.items():
        study = inputs.locked(name)
        for test in tests:
            found, c = study.verdicts["tests"][test], study.tests[test].design.strength
            assert c is not None, "locked onset tests have a clip"
            about = {"study": name, "evidence": LOCKED, "c": c}
            rows.append(
                _row(about, study.binding, found["mean"], found["interval"], found["window"])
            )
        origins.append(study.origin)
    for name, (command, predicted) in STUDIES.items():
        other = inputs.study("mini", name, command)
        strengths = other.table("cells").groupby("clip").c.first()
        binding = other.binding()
        said = {} if predicted is None else inputs.prediction(predicted)
        for row in other.table("onsets").to_dict("records"):
            c = float(strengths[row["clip"]])
            about = {"study": name, "evidence": EXPLORATORY, "c": c}
            window = said.get(c, (math.nan, math.nan))
            between = (row["onset_lo"], row["onset_hi"])
            rows.append(_row(about, (binding.p, binding.b), row["onset"], between, window))
        origins.append(other.origin)
    return pd.DataFrame(rows).dropna(subset="onset"), origins


def _row(
    about: dict[str, Any],
    binding: tuple[float, float],
    onset: float,
    between: tuple[float, float],
    window: tuple[float, float],
) -> dict[str, Any]:
    p, b = binding
    gap, star = float(logit(p) - logit(b)), lambda_star(p, b, about["c"])
    # A shortfall of one logit, in percent of lambda*: it takes 1 / gap of lambda.
    percent = 100.0 / (star * gap)
    short = {
        name: percent * gap * (star - lam)
        for name, lam in (
            ("percent", onset),
            ("percent_lo", between[1]),
            ("percent_hi", between[0]),
            ("predicted_lo", window[1]),
            ("predicted_hi", window[0]),
        )
    }
    masses = {"p": p, "b": b, "lambda_star": star, "onset": onset}
    return about | masses | {"percent_per_logit": percent, "logits": gap * (star - onset)} | short


def build(inputs: Inputs) -> Page:
    """From verdicts and locks, onsets.csv of the exploratory studies, and results/predictions."""
    data, origins = table(inputs)
    figure = new_figure(
        7.8,
        5.2,
        "How far short of lambda* the onset falls",
        "Towards p = 1 to the left: there a logit is less of lambda*. Squares: locked; circles: "
        "exploratory. Orange: predicted below the cliff before the runs (locked windows are half a "
        "grid step wider). Dotted: equal shortfalls in logits. Error bars: 95% interval of a lock, "
        "range of the seeds else.",
    )
    axis = figure.subplots()
    edge = 1.12 * float(data.percent_per_logit.max())
    for logits in LOGITS:
        axis.plot([0, edge], [0, logits * edge], color=style.GREY, lw=0.8, ls=":")
        axis.annotate(f"{logits:g} logits", (edge, logits * edge), size=7, color=style.GREY)
    axis.axhline(0.0, color=style.BLACK, lw=0.9)
    for row in each(data):
        _draw(axis, row)
        _label(axis, row, data)
    axis.set(
        xlim=(0, edge),
        xlabel="percent of lambda* that a logit takes: 100 / (z_c - logit b)",
        ylabel="onset short of lambda*, percent",
    )
    return Page(figure, data, origins)


def _draw(axis: Axes, row: Any) -> None:
    x = row.percent_per_logit
    look = style.SERIES[1 if row.evidence == LOCKED else 0]
    if math.isfinite(row.predicted_lo):
        predicted = [row.predicted_lo, row.predicted_hi]
        axis.plot([x, x], predicted, color=style.ORANGE, lw=9, alpha=0.3, solid_capstyle="butt")
    down, up = row.percent - row.percent_lo, row.percent_hi - row.percent
    bars = [[down], [up]] if np.isfinite([down, up]).all() else None
    marker = "s" if row.evidence == LOCKED else "o"
    axis.errorbar([x], [row.percent], yerr=bars, fmt=marker, color=look.color, capsize=3, ms=5)


def _label(axis: Axes, row: Any, data: pd.DataFrame) -> None:
    """Right of a mark; left of it where another is at its right; between two above all bars."""
    x = row.percent_per_logit
    away = data.percent_per_logit - x
    beside = (data.percent - row.percent).abs() < _BESIDE[1]
    right = bool((beside & away.between(0, _BESIDE[0], inclusive="neither")).any())
    left = bool((beside & away.between(-_BESIDE[0], 0, inclusive="neither")).any())
    look: dict[str, Any] = {"textcoords": "offset points", "size": 7}
    words = f"{row.study}, c = {row.c:g}\np = {row.p:.3f}"
    if right and left:
        top = float(data.predicted_hi[away.abs() < _BESIDE[0]].max())
        line = {"arrowstyle": "-", "color": style.GREY, "lw": 0.6}
        axis.annotate("", (x, row.percent), xytext=(x, top), arrowprops=line)
        axis.annotate(words, (x, top), xytext=(0, 3), ha="center", **look)
    else:
        side = -7 if right else 7
        axis.annotate(
            words, (x, row.percent), xytext=(side, 4), ha="right" if right else "left", **look
        )
