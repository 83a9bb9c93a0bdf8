"""Onset against the number of updates: twice the budget, the plain start, the flow's curve."""

from __future__ import annotations

import pandas as pd

from opdcliff.report.drawing import style
from opdcliff.report.drawing.budget_flow import MOST, NARROW, WIDE, flow_rows
from opdcliff.report.drawing.inputs import EXPLORATORY, LOCKED, Inputs, LockedStudy
from opdcliff.report.drawing.page import Page, new_figure


def table(study: LockedStudy) -> pd.DataFrame:
    """Onsets per arm and seed, and the updates after which the flow has fallen at each lambda."""
    rows = []
    for arm, test in (("fine_grid", "T1"), ("extended", "T2")):
        found = study.verdicts["tests"][test]
        about = {"row": arm, "evidence": LOCKED, "updates": _budget(study, arm)}
        (lo, hi), (low, high) = found["interval"], found["bracket"]
        rows.append(
            about
            | {"lam": found["mean"], "lo": lo, "hi": hi, "bracket_lo": low, "bracket_hi": high}
        )
        rows += [about | {"row": f"{arm}, seed", "lam": point} for point in found["points"]]
    for found in study.verdicts["exploratory"]:
        about = {
            "row": found["arm"],
            "evidence": EXPLORATORY,
            "updates": _budget(study, found["arm"]),
        }
        low, high = found["bracket_lo"], found["bracket_hi"]
        rows.append(
            about
            | {"lam": found["onset"], "lo": found["low"], "hi": found["high"]}
            | {"bracket_lo": low, "bracket_hi": high}
        )
        points = [float(point) for point in found["points"].split()]
        rows += [about | {"row": f"{found['arm']}, seed", "lam": point} for point in points]
    return pd.DataFrame(rows + flow_rows(study))


def build(inputs: Inputs) -> Page:
    """From verdicts.json and the lock; the curves from `spread`."""
    study = inputs.locked()
    data = table(study)
    flow = data[data.row.str.startswith("flow") & (data.updates < MOST)]
    slowest = flow.updates.max()
    figure = new_figure(
        7.4,
        5.0,
        "Onset against the number of updates",
        "c = 5, 8 seeds. By the flow a run past its critical lambda has fallen after "
        f"{slowest:.0f} updates at most (warm-up: 100), so 200 suffice: this shows that nothing "
        "drifts, and is no test of the finite-budget formula. Bars: grid cells of the "
        "crossings; error bars: 95% intervals; dashes: seeds.",
    )
    axis = figure.subplots()
    axis.set(xlabel="updates", ylabel="lambda", xlim=(70, 475), ylim=(1.63, 1.99))
    looks = {"fine_grid": 0, "extended": 1, "plain_start": 2}
    words = {
        "fine_grid": "200 updates (locked, T1)",
        "extended": "400 updates (locked, T2)",
        "plain_start": "200 updates, no lambda warm-up (exploratory)",
    }
    for arm, number in looks.items():
        look, row = style.SERIES[number], data[data.row == arm].iloc[0]
        seeds = data[data.row == f"{arm}, seed"]
        axis.plot(
            [row.updates] * 2,
            [row.bracket_lo, row.bracket_hi],
            color=look.color,
            lw=5,
            alpha=0.25,
            solid_capstyle="butt",
        )
        axis.errorbar(
            [row.updates],
            [row.lam],
            yerr=[[row.lam - row.lo], [row.hi - row.lam]],
            fmt=look.marker,
            color=look.color,
            capsize=4,
            ms=6,
            mec="white",
            label=words[arm],
        )
        axis.plot(seeds.updates + 7, seeds.lam, "_", color=look.color, ms=7)
    for name, number in ((NARROW, 3), (WIDE, 4)):
        look, curve = style.SERIES[number], data[data.row == f"flow, {name}"]
        spread = study.lock.pilot["facts"][name]
        axis.plot(
            curve.updates,
            curve.lam,
            color=look.color,
            ls=look.line,
            lw=1.3,
            label=f"flow, spread {spread:.3f}: falls above and right of the line",
        )
    star = data[data.row == "lambda_star"].lam.iloc[0]
    axis.axhline(star, color=style.GREY, lw=0.9, ls=":")
    axis.text(472, star + 0.004, f"lambda* = {star:.3f}", ha="right", size=8, color=style.GREY)
    axis.legend(loc="lower right", fontsize=7.5, handlelength=3.4)
    return Page(figure, data, [study.origin])


def _budget(study: LockedStudy, arm: str) -> int:
    return int(study.lock.arm(arm).settings["optim"]["updates"])
