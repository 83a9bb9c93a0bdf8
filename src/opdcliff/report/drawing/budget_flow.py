"""The curve of the budget figure: after how many updates a lambda shows in the parse rate."""

from __future__ import annotations

import numpy as np

from opdcliff.report.drawing.inputs import LockedStudy
from opdcliff.theory import Flow, Population, end_of_room, trajectory
from opdcliff.verification import OnsetEstimator

# Longest budget the flow is followed for.
MOST = 450
# Parse rate below the cliff that the windows reckon with: predictions.upper_plateau of conf.
UPPER_PLATEAU = 0.95
# The pilot's facts that the two curves are drawn for.
NARROW, WIDE = "spread_lo", "spread_hi"
_LAMS = np.linspace(1.0, 1.08, 9)


def flow_rows(study: LockedStudy) -> list[dict[str, object]]:
    """As the locked windows were made: the pilot's spreads and speed, the arm's warm-up, room."""
    (p, b), facts, arm = study.binding, study.lock.pilot["facts"], study.lock.arm("fine_grid")
    settings, estimator = arm.settings, study.tests["T1"].estimator
    assert isinstance(estimator, OnsetEstimator), "T1 is a test of an onset"
    share = (estimator.level or 0.5) / UPPER_PLATEAU
    rows: list[dict[str, object]] = []
    star = Population(p, b, settings["clip"]["strength"], 0.0).lambda_star
    rows.append({"row": "lambda_star", "lam": star})
    for name in (NARROW, WIDE):
        population = Population(p, b, settings["clip"]["strength"], facts[name])
        z_end = end_of_room(settings["rollout"]["max_new_tokens"], share)
        critical = population.critical_lambda()
        # At the critical lambda and below the flow never falls; just above it, soon: that is the
        # edge for any longer budget.
        edge = critical + 0.0005
        rows.append({"row": f"flow, {name}", "lam": edge, "updates": MOST})
        for lam in edge * _LAMS:
            path = trajectory(
                population,
                Flow(speed=facts["speed_lo"]),
                lam,
                updates=MOST,
                warmup_updates=settings["lam"]["warmup_updates"],
                z_end=z_end,
            )
            fell = path[-1] >= z_end
            rows.append(
                {"row": f"flow, {name}", "lam": lam, "updates": len(path) - 1 if fell else np.nan}
            )
    return rows
