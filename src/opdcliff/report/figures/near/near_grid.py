"""The near-deterministic cliff: parse rates around lambda* at p = .98, two clips, every run."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from opdcliff.report.drawing import style
from opdcliff.report.drawing.inputs import Inputs, LockedStudy
from opdcliff.report.drawing.page import Page, new_figure, panel_title
from opdcliff.report.drawing.seed_marks import beside, onset_bar
from opdcliff.theory import threshold

PROTOCOL = "near"
# Each arm with the test of its predicted window and the closed form to the letter.
ARMS = {"fine_grid": ("T1", "T1_exact"), "small_clip": ("T3", "T3_exact")}
# lambda between neighbouring seeds of a point.
_ASIDE = 0.0012


def table(study: LockedStudy) -> pd.DataFrame:
    """Per arm: rows "run", "lambda_star", "window NAME" and "onset" (likeliest mean, interval)."""
    p, b = study.binding
    frames = []
    for arm, tests in ARMS.items():
        runs, design = study.arm(arm), study.tests[tests[0]].design
        assert design.strength is not None, "a locked test has a clip"
        star = threshold.lambda_star(p, b, design.strength)
        facts = [{"row": "lambda_star", "lam": star}]
        for name in tests:
            found = study.verdicts["tests"][name]
            (lo, hi), outcome = found["window"], found["outcome"]
            facts.append({"row": f"window {name}", "lo": lo, "hi": hi, "outcome": outcome})
        lo, hi = found["interval"]
        facts.append({"row": "onset", "lam": found["mean"], "lo": lo, "hi": hi})
        measured = pd.DataFrame(
            {
                "row": "run",
                "lam": runs.lam,
                "seed": runs.seed,
                "parse_rate": runs["eval/parse_rate"],
            }
        )
        both = pd.concat([measured, pd.DataFrame(facts)], ignore_index=True)
        frames.append(both.assign(arm=arm, c=design.strength))
    return pd.concat(frames, ignore_index=True)


def build(inputs: Inputs) -> Page:
    """From cells.csv, verdicts.json and the lock."""
    study = inputs.locked(PROTOCOL)
    data = table(study)
    figure = new_figure(
        7.8,
        4.4,
        "The cliff of nearly deterministic text",
        f"Locked blind: p = {study.binding[0]:.3f}, {len(study.lock.seeds)} seeds, found by "
        "bisection of grids 1.5% of lambda* apart, so that a seed is run at three lambdas. Orange: "
        "the window predicted from a pilot; hatched: the grid cell of lambda* itself; bar: the "
        f"interval of the onset from grid cells. Integrity {study.verdicts['integrity']}.",
    )
    axes = figure.subplots(1, len(ARMS), sharey=True)
    for axis, (arm, part) in zip(axes, data.groupby("arm", sort=False), strict=True):
        _panel(axis, part, ARMS[str(arm)])
    axes[0].set_ylabel("strict parse rate")
    return Page(figure, data, [study.origin])


def _panel(axis: Axes, part: pd.DataFrame, tests: tuple[str, str]) -> None:
    window, exact = (part[part.row == f"window {name}"].iloc[0] for name in tests)
    axis.axvspan(window.lo, window.hi, color=style.ORANGE, alpha=0.2, lw=0)
    axis.axvspan(exact.lo, exact.hi, facecolor="none", edgecolor=style.GREY, hatch="//", lw=0.4)
    star = float(part[part.row == "lambda_star"].lam.iloc[0])
    axis.axvline(star, color=style.BLACK, lw=1.2, ls="--")
    runs = part[part.row == "run"]
    axis.plot(beside(runs, _ASIDE), runs.parse_rate, "o", color=style.BLUE, ms=4, alpha=0.8)
    onset_bar(axis, part[part.row == "onset"].iloc[0])
    axis.set(ylim=(-0.03, 1.05), xlabel="lambda")
    strength = float(part.c.iloc[0])
    panel_title(
        axis,
        f"c = {strength:g}, lambda* = {star:.3f}\n{tests[0]} {window.outcome}, "
        f"{tests[1]} {exact.outcome}",
    )
