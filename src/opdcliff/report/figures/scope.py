"""Scope: how far the onset lies from lambda* on other tasks, sizes, families and contracts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from opdcliff.report.drawing import style
from opdcliff.report.drawing.inputs import EXPLORATORY, LOCKED, Inputs
from opdcliff.report.drawing.page import Page, each, new_figure, onset_bar
from opdcliff.report.figures.small_clip import QUICK
from opdcliff.report.figures.small_clip import table as locked_table

AMAZON = "opdcliff study protocol=quick data=amazon_fashion data.path=FOLDER"
# Data set, study, what it varies, and the command that makes it.
STUDIES = (
    ("mini", "quick", "the quick study", QUICK),
    ("amazon_fashion", "quick", "task: Amazon Fashion, real rows", AMAZON),
    ("mini", "scope_llama", "family: Llama", "opdcliff study experiment=scope_llama"),
    ("mini", "scope_half", "size: about a third", "opdcliff study experiment=scope_half"),
    ("mini", "scope_2x", "size: about twice", "opdcliff study experiment=scope_2x"),
)
RANKING_ONLY = "scope_ranking_only"
_MAKES_IT = (
    f"opdcliff train -m experiment={RANKING_ONLY}` and `opdcliff collect protocol={RANKING_ONLY}"
)
_KEPT = ("lambda_star", "onset", "bracket_lo", "bracket_hi")


def build(inputs: Inputs) -> Page:
    """From onsets.csv of all studies, the locked verdicts, and the runs of the second contract."""
    study = inputs.locked()
    rows = [
        {
            "what": f"locked study, c = {row['c']:g}",
            "evidence": LOCKED,
            "seeds": len(study.lock.seeds),
        }
        | {key: row[key] for key in _KEPT}
        for row in locked_table(study, {}).to_dict("records")[::-1]
    ]
    origins = [study.origin]
    for data_name, name, what, command in STUDIES:
        other = inputs.study(data_name, name, command)
        strengths = other.table("cells").groupby("clip").c.first()
        for row in other.table("onsets").to_dict("records"):
            about = {"what": f"{what}, c = {strengths[row['clip']]:g}", "evidence": EXPLORATORY}
            rows.append(about | {"seeds": row["seeds"]} | {key: row[key] for key in _KEPT})
        origins.append(other.origin)
    contract = inputs.grid(RANKING_ONLY, _MAKES_IT)
    rows.append(_without_threshold(contract.table("cells")))
    data = _percent(pd.DataFrame(rows))
    return Page(_draw(data), data, [*origins, contract.origin])


def _without_threshold(runs: pd.DataFrame) -> dict[str, Any]:
    """The contract without free text: nothing is predicted, the lowest parse rate is told."""
    return {
        "what": "contract: ranking only",
        "evidence": EXPLORATORY,
        "seeds": runs.seed.nunique(),
        "largest_lam": runs.lam.max(),
        "lowest_parse_rate": runs["eval/parse_rate"].min(),
    }


def _percent(data: pd.DataFrame) -> pd.DataFrame:
    for name in _KEPT[1:]:
        data[f"{name}_percent"] = 100.0 * (data[name] / data.lambda_star - 1.0)
    return data


def _draw(data: pd.DataFrame) -> Any:
    figure = new_figure(
        8.6,
        0.34 * len(data) + 2.0,
        "Where the onset lies, against lambda*",
        "Squares: locked, 8 seeds; circles: exploratory. Bar: the grid cells of the seeds' "
        "crossings, an arrow where the grid ends first; marker: mean onset.",
    )
    axis = figure.subplots()
    bounds = data[["bracket_lo_percent", "bracket_hi_percent"]].to_numpy()
    finite = bounds[np.isfinite(bounds)]
    axis.set_xlim(min(finite.min(), -8.0) - 1.5, max(finite.max(), 0.0) + 2.5)
    axis.set_ylim(len(data) - 0.4, -0.6)
    axis.axvline(0.0, color=style.BLACK, lw=0.9, ls=":")
    for y, row in enumerate(each(data)):
        if math.isnan(row.lambda_star):
            axis.text(
                axis.get_xlim()[0] + 0.3,
                y,
                f"no threshold predicted; up to lambda = {row.largest_lam:g} the lowest parse rate "
                f"of a run is {row.lowest_parse_rate:.2f}",
                size=8,
                va="center",
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},
            )
            continue
        look = style.SERIES[1 if row.evidence == LOCKED else 0]
        onset_bar(axis, y, row.bracket_lo_percent, row.bracket_hi_percent, row.onset_percent, look)
    labels = [f"{row.what}, {row.seeds} seed{'s' if row.seeds > 1 else ''}" for row in each(data)]
    axis.set_yticks(range(len(data)), labels, fontsize=8)
    axis.tick_params(axis="y", length=0)
    axis.set_xlabel("onset against lambda*, percent")
    return figure
