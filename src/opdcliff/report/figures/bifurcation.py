"""The bifurcation of one position: where the simulated student ends, against lambda."""

from __future__ import annotations

import functools

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from opdcliff.report.drawing import style
from opdcliff.report.drawing.inputs import SIMULATION, Inputs
from opdcliff.report.drawing.page import Page, new_figure, panel_title
from opdcliff.theory import (
    Rule,
    clip_safe_logit,
    even_position,
    fixed_point_logit,
    lambda_star,
    simulate_position,
)

# One position, at masses near those of the default study, and the clip of its fine grid.
P, B, CLIP = 0.86, 0.46, 5.0
ETA, UPDATES = 1.0, 1000
RULES: dict[Rule, str] = {
    "mask": "mask, r > c is dropped",
    "truncate": "truncate, weight min(1, c/r)",
    "none": "no clip",
}
_MULTIPLES = np.linspace(0.6, 1.4, 16)
# Runs drawn over time, as multiples of lambda*.
_PATHS = (0.9, 0.99, 1.01, 1.1)
# Updates of a path that are kept: evenly spaced in their logarithm.
_KEPT = np.unique(np.geomspace(1, UPDATES, 60).astype(int))


@functools.cache
def table() -> pd.DataFrame:
    """Rows "end" (final logit of each rule and lambda) and "path" (logit after some updates)."""
    position, star = even_position(P, B), lambda_star(P, B, CLIP)
    rows: list[dict[str, object]] = []
    for rule in RULES:
        for multiple in _MULTIPLES:
            lam = float(multiple * star)
            run = simulate_position(position, lam=lam, c=CLIP, eta=ETA, updates=UPDATES, rule=rule)
            about = {"row": "end", "rule": rule, "multiple": multiple, "lam": lam}
            rows.append(about | {"z": run.z[-1], "fixed_point": fixed_point_logit(P, B, lam)})
    for multiple in _PATHS:
        run = simulate_position(
            position, lam=multiple * star, c=CLIP, eta=ETA, updates=UPDATES, rule="mask"
        )
        about = {"row": "path", "rule": "mask", "multiple": multiple, "lam": multiple * star}
        rows += [about | {"update": int(n), "z": run.z[n]} for n in _KEPT]
    return pd.DataFrame(rows).assign(z_c=clip_safe_logit(P, CLIP), lambda_star=star)


def build(inputs: Inputs) -> Page:
    """From `theory.simulate` alone."""
    data = table()
    figure = new_figure(
        9.0,
        4.6,
        "One simulated position: below lambda* it rests, above it runs away",
        f"Simulated, not measured: a softmax over two tokens, expected gradient, p = {P:g}, "
        f"b = {B:g}, c = {CLIP:g}, {UPDATES} updates of step {ETA:g} (theory points 7 to 9). Under "
        "the mask the rest point is lost at lambda*; truncation keeps part of the pull and loses "
        "it later; without a clip it is never lost.",
    )
    left, right = figure.subplots(1, 2)
    _ends(left, data[data.row == "end"])
    _paths(right, data[data.row == "path"])
    return Page(figure, data, [SIMULATION])


def _ends(axis: Axes, data: pd.DataFrame) -> None:
    star, boundary = data.lambda_star.iloc[0], data.z_c.iloc[0]
    first = data[data.rule == "mask"]
    axis.plot(first.lam, first.fixed_point, color=style.GREY, lw=0.9, ls=":", label="z*(lambda)")
    for (rule, label), look in zip(RULES.items(), style.SERIES, strict=False):
        part = data[data.rule == rule]
        axis.plot(part.lam, part.z, look.marker, color=look.color, ms=4, mfc="none", label=label)
    axis.axhline(boundary, color=style.BLACK, lw=0.8)
    axis.axvline(star, color=style.BLACK, lw=0.8, ls="--")
    axis.text(data.lam.min(), boundary + 0.1, "clip boundary z_c", size=8)
    axis.text(star - 0.01, data.z.max(), f"lambda* = {star:.3f}", size=8, ha="right", va="top")
    axis.set(xlabel="lambda", ylabel="logit of the modal mass at the end")
    axis.legend(loc="center left", bbox_to_anchor=(0.0, 0.68), fontsize=7.5)
    panel_title(axis, "where it ends")


def _paths(axis: Axes, data: pd.DataFrame) -> None:
    for multiple, look in zip(_PATHS, style.SERIES, strict=False):
        part = data[data.multiple == multiple]
        axis.plot(
            part["update"], part.z, color=look.color, ls=look.line, label=f"{multiple:g} lambda*"
        )
    axis.axhline(data.z_c.iloc[0], color=style.BLACK, lw=0.8)
    axis.set_xscale("log")
    axis.set(xlabel="updates", ylabel="logit of the modal mass")
    axis.legend(loc="upper left", fontsize=8, handlelength=3.2)
    panel_title(axis, "how it gets there under the mask")
