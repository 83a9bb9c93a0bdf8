"""The threshold lambda*(p, b, c): its level lines, and its limits."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from opdcliff.report.drawing import style
from opdcliff.report.drawing.inputs import THEORY, Inputs
from opdcliff.report.drawing.page import Page, new_figure, panel_title
from opdcliff.report.figures.geometry import PAIRS
from opdcliff.theory import threshold

STRENGTHS = (2.0, 5.0, 10.0)
LEVELS = (1.1, 1.22, 1.5, 2.0, 3.0)
# Where a level's number stands, so that none meets another.
_HEIGHTS = (0.15, 0.3, 0.46, 0.62, 0.78)
_BASES = np.linspace(0.05, 0.98, 32)
# Logit of the largest p shown.
_RIGHT = 12.5
_CLIPS = np.geomspace(1.02, 20.0, 25)


def table() -> pd.DataFrame:
    """Level lines (panel "level": p at which lambda* is that level) and lambda* against c."""
    rows = [
        {
            "panel": "level",
            "c": c,
            "b": b,
            "p": threshold.modal_mass_for(level, float(b), c),
            "lambda_star": level,
        }
        for c in STRENGTHS
        for level in LEVELS
        for b in _BASES
    ]
    rows += [
        {
            "panel": "clip",
            "c": c,
            "b": b,
            "p": p,
            "lambda_star": threshold.lambda_star(p, b, float(c)),
        }
        for p, b in PAIRS
        for c in _CLIPS
    ]
    data = pd.DataFrame(rows)
    return data[threshold.logit(data.p.to_numpy()) < _RIGHT].reset_index(drop=True)


def build(inputs: Inputs) -> Page:
    """From `theory` alone."""
    data = table()
    figure = new_figure(
        11,
        4.1,
        "lambda* falls with the teacher's mass p, rises with the warm start's b and the clip c",
        "Closed form, theory point 4 [S, D]. Level lines of lambda*; limits: infinite as b -> p, 1 "
        "as p -> 1 or c -> 1. Nothing here is measured.",
    )
    axes = figure.subplots(1, 4, width_ratios=(1, 1, 1, 1.15))
    for axis, c in zip(axes, STRENGTHS, strict=False):
        _levels(axis, data[(data.panel == "level") & (data.c == c)], c)
    axes[0].set_ylabel("warm start's mass b")
    _limit(axes[3], data[data.panel == "clip"])
    return Page(figure, data, [THEORY])


def _levels(axis: Axes, lines: pd.DataFrame, c: float) -> None:
    z = np.linspace(-3.0, 13.0, 60)
    axis.fill_between(z, threshold.sigmoid(z), 1.0, color=style.PALE, alpha=0.7, lw=0, hatch="///")
    for level, height, look in zip(LEVELS, _HEIGHTS, style.SERIES, strict=True):
        line = lines[lines.lambda_star == level]
        if line.empty:
            continue
        z = threshold.logit(line.p.to_numpy())
        axis.plot(z, line.b, color=look.color, ls=look.line, lw=1.3)
        axis.text(
            float(np.interp(height, line.b, z)),
            height,
            f"{level:g}",
            size=7.5,
            clip_on=True,
            ha="center",
            va="center",
            color=look.color,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
        )
    axis.text(-2.6, 0.98, "p <= b:\nno threshold", size=7.5, va="top")
    masses = [0.1, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999]
    axis.set_xticks(
        threshold.logit(masses), [f"{mass:g}" for mass in masses], fontsize=7, rotation=45
    )
    axis.set(xlim=(-2.9, _RIGHT), ylim=(0.0, 1.0), xlabel="teacher's mass p (logit scale)")
    panel_title(axis, f"c = {c:g}")


def _limit(axis: Axes, data: pd.DataFrame) -> None:
    for (p, b), look in zip(PAIRS, style.SERIES, strict=False):
        line = data[(data.p == p) & (data.b == b)]
        label = f"p = {p:g}, b = {b:g}"
        axis.plot(line.c, line.lambda_star, color=look.color, ls=look.line, label=label)
    axis.axhline(1.0, color=style.GREY, lw=0.8, ls=":")
    axis.set_xscale("log")
    axis.set_xticks([1, 2, 5, 10, 20], ["1", "2", "5", "10", "20"])
    axis.minorticks_off()
    axis.set(xlabel="clip strength c", ylabel="lambda*", xlim=(1, 21))
    axis.legend(loc="upper left", fontsize=7.5, handlelength=3.2)
    panel_title(axis, "lambda* = 1 in the limit c = 1")
