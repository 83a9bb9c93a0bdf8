"""The cliff: parse rate and NDCG against lambda, with the predicted and the observed onset."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from opdcliff.figures import style

_MARKERS = "osv^Dp*h"


def draw_cliff(
    cells: pd.DataFrame,
    onsets: pd.DataFrame,
    calibration: pd.DataFrame,
    folder: Path,
    *,
    provenance: str,
) -> None:
    """One panel per arm: every seed's final parse rate, NDCG on parsed answers, lambda*, onset.

    cells, onsets, calibration: the tables of `summary.Summary`. Writes cliff.png, .svg, .csv.
    """
    arms = list(cells.groupby(["clip", "estimator", "warmup"], sort=False))
    ndcg = next(column for column in cells.columns if column.endswith("_parsed"))
    with mpl.rc_context(dict(style.RC)):
        figure = Figure(figsize=(3.6 * len(arms), 3.4), layout="constrained")
        axes = figure.subplots(1, len(arms), sharey=True, squeeze=False)[0]
        for axis, ((clip, estimator, warmup), arm) in zip(axes, arms, strict=True):
            _panel(axis, arm, ndcg)
            _prediction(axis, arm, calibration)
            _observation(axis, onsets, (clip, estimator, warmup))
            axis.set_title(f"clip {clip}, {estimator}, warm-up {warmup}")
            axis.set_xlabel("lambda")
        axes[0].set_ylabel("strict parse rate, NDCG")
        axes[0].legend(loc="lower left", fontsize=7)
        columns = ["clip", "estimator", "warmup", "lam", "lambda_star", "seed", "parse_rate", ndcg]
        style.save(figure, cells[columns], folder, "cliff", provenance)


def _panel(axis: Axes, arm: pd.DataFrame, ndcg: str) -> None:
    mean = arm.groupby("lam")[["parse_rate", ndcg]].mean()
    axis.plot(mean.index, mean.parse_rate, color=style.BLUE, lw=1, label="parse rate, mean")
    axis.plot(mean.index, mean[ndcg], color=style.GREEN, lw=1, ls="--", label="NDCG, parsed only")
    for marker, (seed, part) in zip(_MARKERS, arm.groupby("seed"), strict=False):
        axis.plot(
            part.lam,
            part.parse_rate,
            marker,
            color=style.BLUE,
            ms=4,
            alpha=0.7,
            label=f"parse rate, seed {seed}",
        )
        axis.plot(part.lam, part[ndcg], "+", color=style.GREEN, ms=5, alpha=0.7)
    axis.set_ylim(-0.03, 1.05)


def _prediction(axis: Axes, arm: pd.DataFrame, calibration: pd.DataFrame) -> None:
    strength = arm.c.iloc[0]
    binding = calibration[calibration.binding]
    column = f"lambda_star_c{strength:g}"
    if binding.empty or column not in binding:
        return
    row = binding.iloc[0]
    axis.axvspan(row[f"{column}_lo"], row[f"{column}_hi"], color=style.ORANGE, alpha=0.2, lw=0)
    axis.axvline(
        row[column], color=style.ORANGE, lw=1.5, label=f"predicted lambda* = {row[column]:.3f}"
    )


def _observation(axis: Axes, onsets: pd.DataFrame, arm: tuple[object, object, object]) -> None:
    if onsets.empty:
        return
    clip, estimator, warmup = arm
    mine = onsets[
        (onsets.clip == clip) & (onsets.estimator == estimator) & (onsets.warmup == warmup)
    ]
    for row in mine.itertuples():
        low, high = row.onset - row.onset_lo, row.onset_hi - row.onset
        axis.errorbar(
            [row.onset],
            [0.5],
            xerr=[[low], [high]],
            fmt="x",
            color=style.GREY,
            capsize=3,
            label=f"observed onset {row.onset:.3f}",
        )
