"""Settled students, locked before any run, beside the runs: every run at two clips and without."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from opdcliff.report.drawing import style
from opdcliff.report.drawing.inputs import Inputs, LockedStudy
from opdcliff.report.drawing.page import Page, new_figure, panel_title
from opdcliff.report.drawing.seed_marks import beside, onset_bar
from opdcliff.storage import decode_floats
from opdcliff.verification import PARSE_RATE

# Locks, and what a row is called.
PROTOCOLS = {
    "preview_mini": "mini, step 5e-4",
    "preview_mini_small_step": "mini, step 2.5e-4",
    "preview_orders": "answers to a schema",
}
ARMS = ("fine_grid", "small_clip", "no_clip")
# Of a grid step, between neighbouring seeds of a point.
_APART = 0.06
_COLUMNS = ["lam", "margin", "parse_rate", "parse_lo", "parse_hi"]


def table(study: LockedStudy) -> pd.DataFrame:
    """Per arm: rows "predicted", "run", and of its test "window" and "onset" (mean, interval)."""
    sampled = pd.DataFrame(decode_floats(study.lock.previews or []))
    frames = []
    for arm in ARMS:
        design = study.tests[f"P_{arm}"].design
        strength = np.inf if design.strength is None else design.strength
        curve = sampled[(sampled.c == strength) & sampled.lam.isin(design.lams or [])][_COLUMNS]
        runs = study.arm(arm)
        measured = pd.DataFrame(
            {"lam": runs.lam, "seed": runs.seed, "parse_rate": runs[PARSE_RATE]}
        )
        found = study.verdicts["tests"][f"P_{arm}"]
        (lo, hi), (low, high) = found["window"], found["interval"]
        facts = pd.DataFrame(
            [
                {"row": "window", "lo": lo, "hi": hi, "outcome": found["outcome"]},
                {"row": "onset", "lam": found["mean"], "lo": low, "hi": high},
            ]
        )
        parts = [curve.assign(row="predicted"), measured.assign(row="run"), facts]
        frames.append(pd.concat(parts, ignore_index=True).assign(arm=arm, c=strength))
    return pd.concat(frames, ignore_index=True)


def build(inputs: Inputs) -> Page:
    """From cells.csv, verdicts.json and the locks."""
    studies = {name: inputs.locked(name) for name in PROTOCOLS}
    tables = {name: table(study) for name, study in studies.items()}
    figure = new_figure(
        10.2,
        2.4 + 2.3 * len(PROTOCOLS),
        "Settled students, sampled and locked before any run, beside the runs",
        "Lines: parse rates sampled at the fixed point and, dashed, at the margin of a pilot; "
        "shaded: between the two, with 95% intervals over prompts. Orange: the locked window, the "
        "grid cells in which they fall. Dots: every run at its end; bisection runs about three "
        "lambdas a seed. Bar: the interval of the onset over seeds, from grid cells.",
    )
    axes = figure.subplots(len(PROTOCOLS), len(ARMS), sharey=True, squeeze=False)
    for row, (name, said) in zip(axes, PROTOCOLS.items(), strict=True):
        for axis, (_, part) in zip(row, tables[name].groupby("arm", sort=False), strict=True):
            _panel(axis, part, said)
        row[0].set_ylabel("strict parse rate")
    for axis in axes[-1]:
        axis.set_xlabel("lambda")
    data = pd.concat([part.assign(protocol=name) for name, part in tables.items()])
    return Page(figure, data.reset_index(drop=True), [s.origin for s in studies.values()])


def _panel(axis: Axes, part: pd.DataFrame, said: str) -> None:
    curve, runs = part[part.row == "predicted"], part[part.row == "run"]
    window, onset = (part[part.row == name].iloc[0] for name in ("window", "onset"))
    plain = curve[curve.margin == 0.0].sort_values("lam")
    wide = curve[curve.margin == curve.margin.max()].sort_values("lam")
    axis.axvspan(window.lo, min(window.hi, plain.lam.max()), color=style.ORANGE, alpha=0.2, lw=0)
    axis.fill_between(plain.lam, wide.parse_lo, plain.parse_hi, color=style.GREY, alpha=0.2, lw=0)
    axis.plot(plain.lam, plain.parse_rate, color=style.BLACK, lw=1.2)
    axis.plot(wide.lam, wide.parse_rate, color=style.BLACK, lw=1.2, ls="--")
    apart = _APART * float(np.diff(plain.lam).min())
    axis.plot(beside(runs, apart), runs.parse_rate, "o", color=style.BLUE, ms=4, alpha=0.8)
    onset_bar(axis, onset)
    strength = float(part.c.iloc[0])
    clip = f"c = {strength:g}" if np.isfinite(strength) else "no clip"
    axis.set(ylim=(-0.04, 1.05))
    panel_title(axis, f"{said}, {clip}\n{window.outcome}")
