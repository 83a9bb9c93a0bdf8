"""Where plain gradient steps show the cliff on three budgets, beside what the clock predicted."""

from __future__ import annotations

import numpy as np
import pandas as pd

from opdcliff.report.drawing import style
from opdcliff.report.drawing.inputs import Inputs, LockedStudy
from opdcliff.report.drawing.page import Page, each, new_figure
from opdcliff.theory import Flow, Population, end_of_room, onset_on_budget, threshold
from opdcliff.verification import LockedTest, OnsetEstimator

PROTOCOL = "near_budget"
# Parse rate below the cliff that the windows reckon with: predictions.upper_plateau of conf.
UPPER_PLATEAU = 0.85
# Budgets the law is drawn at.
_BUDGETS = np.array([80, 100, 125, 160, 200, 260, 340, 450, 600, 900])


def table(study: LockedStudy) -> pd.DataFrame:
    """Rows "test" (window, interval, likeliest mean), "seed" (its grid cell) and "law"."""
    tests = [test for test in study.tests.values() if isinstance(test.estimator, OnsetEstimator)]
    rows: list[dict[str, object]] = []
    for test in sorted(tests, key=lambda test: test.design.updates or 0):
        found = study.verdicts["tests"][test.id]
        about = {"test": test.id, "updates": test.design.updates}
        (lo, hi), (low, high) = found["window"], found["interval"]
        rows.append(
            about
            | {"row": "test", "outcome": found["outcome"], "lam": found["mean"]}
            | {"window_lo": lo, "window_hi": hi, "lo": low, "hi": high}
        )
        rows += [about | {"row": "seed", "lam": point} for point in found["points"]]
    return pd.DataFrame(rows + _law(study, tests[0]))


def _law(study: LockedStudy, test: LockedTest) -> list[dict[str, object]]:
    """The onset on each budget at the pilot's slowest and fastest clock."""
    estimator = test.estimator
    assert isinstance(estimator, OnsetEstimator), "a test of an onset"
    (p, b), facts = study.binding, study.lock.pilot["facts"]
    settings = study.lock.arm(test.design.arm).settings
    strength, room = settings["clip"]["strength"], settings["rollout"]["max_new_tokens"]
    z_end = end_of_room(room, (estimator.level or 0.5) / UPPER_PLATEAU)
    rows: list[dict[str, object]] = [
        {"row": "lambda_star", "lam": threshold.lambda_star(p, b, strength)}
    ]
    for name, spread in (("eta_lo", "spread_lo"), ("eta_hi", "spread_hi")):
        flow = Flow(eta=facts[name], rest=facts["rest"], room=room)
        for updates in _BUDGETS:
            lam = onset_on_budget(
                Population(p, b, strength, facts[spread]),
                flow,
                updates=int(updates),
                warmup_updates=settings["lam"]["warmup_updates"],
                z_end=z_end,
            )
            rows.append({"row": f"law, {name}", "updates": updates, "lam": lam})
    return rows


def build(inputs: Inputs) -> Page:
    """From verdicts.json and the lock; the curves from `spread`."""
    study = inputs.locked(PROTOCOL)
    data = table(study)
    tests = data[data.row == "test"]
    seeds = len(study.lock.seeds)
    said = ", ".join(f"{row.test} {row.outcome}" for row in each(tests))
    figure = new_figure(
        7.4,
        5.0,
        "Onset against the budget of plain gradient steps",
        f"Locked: c = 2, p = {study.binding[0]:.3f}, {seeds} seeds a budget; windows by the clock "
        f"of a pilot below the cliff. {said}. Lines: the law at the pilot's slowest and fastest "
        "clock. Bars: windows; error bars: intervals from grid cells; dashes: seeds.",
    )
    axis = figure.subplots()
    for name, look in (("eta_lo", style.SERIES[1]), ("eta_hi", style.SERIES[2])):
        law = data[data.row == f"law, {name}"]
        words = f"law, {'slowest' if name == 'eta_lo' else 'fastest'} clock of the pilot"
        axis.plot(law.updates, law.lam, color=look.color, ls=look.line, lw=1.2, label=words)
    for row in each(tests):
        window = [row.window_lo, row.window_hi]
        axis.plot(
            [row.updates] * 2, window, color=style.ORANGE, lw=8, alpha=0.3, solid_capstyle="butt"
        )
        if np.isfinite([row.lam, row.lo, row.hi]).all():
            axis.errorbar(
                [row.updates],
                [row.lam],
                yerr=[[row.lam - row.lo], [row.hi - row.lam]],
                fmt="o",
                color=style.BLUE,
                capsize=4,
                ms=5,
                mec="white",
            )
    each_seed = data[data.row == "seed"]
    axis.plot(each_seed.updates * 1.04, each_seed.lam, "_", color=style.GREY, ms=7)
    star = float(data[data.row == "lambda_star"].lam.iloc[0])
    axis.axhline(star, color=style.GREY, lw=0.9, ls=":")
    axis.text(80, star - 0.03, f"lambda* = {star:.3f}", size=8, color=style.GREY, va="top")
    axis.set(xlabel="updates", ylabel="lambda", xscale="log")
    ticks = [int(row.updates) for row in each(tests)]
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    axis.minorticks_off()
    axis.legend(loc="upper right", fontsize=8, handlelength=3.4)
    return Page(figure, data, [study.origin])
