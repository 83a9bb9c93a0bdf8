"""The fine grid of the locked study: parse rate and NDCG@1 around lambda*, every seed."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from opdcliff.report.drawing import style
from opdcliff.report.drawing.inputs import Inputs, LockedStudy
from opdcliff.report.drawing.page import Page, new_figure, panel_title
from opdcliff.report.drawing.seed_marks import beside
from opdcliff.theory import threshold

ARM = "fine_grid"
# Test of the spread-corrected window, and the closed form to the letter.
TESTS = ("T1", "T1_exact")
# lambda between neighbouring seeds of a point, so that equal rates do not hide each other.
_ASIDE = 0.0016


def table(study: LockedStudy) -> pd.DataFrame:
    """Rows "run" (metrics of each run), "window" and "onset" (lo, hi, and the mean as value)."""
    runs = study.arm(ARM)
    frames = [
        pd.DataFrame(
            {
                "row": "run",
                "lam": runs.lam,
                "seed": runs.seed,
                "parse_rate": runs["eval/parse_rate"],
                "ndcg1_parsed": runs["eval/ndcg1_parsed"],
                "ndcg1_all": runs["eval/ndcg1_all"],
            }
        )
    ]
    p, b = study.binding
    facts = [{"row": "lambda_star", "value": threshold.lambda_star(p, b, _strength(study))}]
    for name in TESTS:
        found = study.verdicts["tests"][name]
        (lo, hi), outcome = found["window"], found["outcome"]
        facts.append({"row": f"window {name}", "lo": lo, "hi": hi, "outcome": outcome})
    lo, hi = found["interval"]
    facts.append({"row": "onset", "value": found["mean"], "lo": lo, "hi": hi})
    facts += [{"row": "onset of a seed", "value": point} for point in found["points"]]
    return pd.concat([*frames, pd.DataFrame(facts)], ignore_index=True)


def build(inputs: Inputs) -> Page:
    """From cells.csv, verdicts.json and the lock."""
    study = inputs.locked()
    data = table(study)
    level = study.tests[TESTS[0]].estimator
    runs = data[data.row == "run"]
    seeds = runs.seed.nunique()
    figure = new_figure(
        7.6,
        6.6,
        "Fine grid: parse rate and NDCG@1 around lambda*",
        f"Locked study, arm {ARM}: c = 5, 200 updates, {seeds} seeds, 256 test prompts each. Seeds "
        "of a lambda stand side by side; lines are their means.",
    )
    strip, parse, ndcg = figure.subplots(3, 1, sharex=True, height_ratios=(1.15, 2.2, 1.6))
    _strip(strip, data)
    _points(parse, runs, "parse_rate", style.SERIES[0], "strict parse rate")
    parse.axhline(getattr(level, "level", 0.5), color=style.GREY, lw=0.7, ls=":")
    parse.set(ylabel="strict parse rate", ylim=(-0.03, 1.05))
    _points(ndcg, runs, "ndcg1_parsed", style.SERIES[1], "of answers that parse")
    _points(
        ndcg, runs, "ndcg1_all", style.SERIES[2], "of all answers; one that does not parse counts 0"
    )
    ndcg.set(ylabel="NDCG@1", xlabel="lambda", ylim=(-0.03, 1.08))
    ndcg.legend(loc="center left", fontsize=8, handlelength=3.2)
    star = float(data[data.row == "lambda_star"].value.iloc[0])
    for axis in (strip, parse, ndcg):
        axis.axvline(star, color=style.BLACK, lw=1.2, ls="--", zorder=0)
    parse.text(star + 0.002, 0.62, f"lambda* = {star:.3f}\nclosed form", size=8, va="center")
    parse.text(runs.lam.min() - 0.008, 0.52, "level of the onset", size=7.5, color=style.GREY)
    ndcg.set_xlim(runs.lam.min() - 0.012, runs.lam.max() + 0.025)
    ndcg.set_xticks(sorted(runs.lam.unique()), [f"{x:.3f}" for x in sorted(runs.lam.unique())])
    return Page(figure, data, [study.origin])


def _strength(study: LockedStudy) -> float:
    return float(study.lock.arm(ARM).settings["clip"]["strength"])


def _strip(axis: Axes, data: pd.DataFrame) -> None:
    """Windows and what was observed, one line each."""
    labels = []
    names = [*(f"window {name}" for name in TESTS), "onset"]
    for y, name in zip((2, 1, 0), names, strict=True):
        row = data[data.row == name].iloc[0]
        bar = name != "onset"
        axis.plot(
            [row.lo, row.hi],
            [y, y],
            color=style.ORANGE if bar else style.BLUE,
            lw=7 if bar else 2,
            alpha=0.45 if bar else 1.0,
            solid_capstyle="butt",
        )
        labels.append(f"{name}: {row.outcome}" if bar else f"onset {row.value:.4f}, 95% interval")
    found = data[data.row == "onset"].iloc[0]
    axis.plot([found.value], [0], "o", color=style.BLUE, ms=6, mec="white")
    seeds = data[data.row == "onset of a seed"].value
    axis.plot(seeds, np.full(len(seeds), -0.75), "|", color=style.GREY, ms=6)
    for height, label in zip((2.0, 1.0, 0.0, -0.75), [*labels, "onset of each seed"], strict=True):
        axis.text(0.01, height, label, size=8, va="center", transform=axis.get_yaxis_transform())
    axis.set_yticks([])
    axis.set_ylim(-1.2, 2.5)
    axis.spines["left"].set_visible(False)
    panel_title(axis, "locked windows and the observed onset")


def _points(axis: Axes, runs: pd.DataFrame, column: str, look: style.Series, label: str) -> None:
    mean = runs.groupby("lam")[column].mean()
    axis.plot(mean.index, mean, color=look.color, ls=look.line, lw=1, marker="", label=label)
    axis.plot(beside(runs, _ASIDE), runs[column], look.marker, color=look.color, ms=3.6, alpha=0.75)
