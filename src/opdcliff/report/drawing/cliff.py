"""The cliff: parse rate and NDCG against lambda, with the predicted and the observed onset."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from opdcliff.report.drawing import style
from opdcliff.terminal import ARM_KEYS
from opdcliff.theory import LEVEL

if TYPE_CHECKING:
    from opdcliff.study import Summary

_MARKERS = "osv^Dp*h"


@style.beside_tables("cliff.png")
def draw_study(summary: Summary, folder: Path) -> None:
    """`draw_cliff` of a study's written tables; nothing where no cell has an outcome."""
    if summary.cells.empty:
        return
    draw_cliff(
        summary.cells,
        summary.onsets,
        summary.calibration,
        folder,
        level=LEVEL,
        provenance=f"models {summary.identity[:12]}, {len(summary.cells)} cells",
    )


def draw_cliff(
    cells: pd.DataFrame,
    onsets: pd.DataFrame,
    calibration: pd.DataFrame,
    folder: Path,
    *,
    level: float,
    provenance: str,
) -> None:
    """One panel per arm: every seed's final parse rate, NDCG of answers that rank, lambda*, onset.

    cells, onsets, calibration: the tables of `summary.Summary`. level: the parse rate whose
    crossing is the onset. Writes cliff.png, .svg, .csv.
    """
    arms = list(cells.groupby(ARM_KEYS, sort=False))
    # None where the contract ranks nothing.
    ndcg = next((column for column in cells.columns if column.endswith("_parsed")), None)
    with style.own_style():
        figure = Figure(figsize=(3.8 * len(arms), 4.4), layout="constrained")
        axes = figure.subplots(1, len(arms), sharey=True, squeeze=False)[0]
        for axis, (key, arm) in zip(axes, arms, strict=True):
            clip, estimator, warmup, budget = key
            _panel(axis, arm, ndcg)
            _prediction(axis, arm, calibration)
            _observation(axis, onsets, key, level)
            axis.set_title(
                f"clip {clip}, {estimator}, warm-up {warmup}, budget {budget}", fontsize=9
            )
            axis.set_xlabel("lambda")
            # Each panel has its own: the predicted and the observed number stand in it.
            axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=2, fontsize=7)
        axes[0].set_ylabel("strict parse rate" if ndcg is None else "strict parse rate, NDCG")
        columns = [*ARM_KEYS, "lam", "lambda_star", "seed", "parse_rate"]
        columns += [] if ndcg is None else [ndcg]
        style.save(figure, cells[columns], folder, "cliff", provenance)


def _panel(axis: Axes, arm: pd.DataFrame, ndcg: str | None) -> None:
    mean = arm.groupby("lam").mean(numeric_only=True)
    axis.plot(mean.index, mean.parse_rate, color=style.BLUE, lw=1, label="parse rate, mean")
    if ndcg is not None:
        axis.plot(mean.index, mean[ndcg], color=style.GREEN, lw=1, ls="--", label="NDCG, parsed")
        axis.plot(arm.lam, arm[ndcg], "+", color=style.GREEN, ms=5, alpha=0.7)
    for marker, (seed, part) in zip(itertools.cycle(_MARKERS), arm.groupby("seed"), strict=False):
        axis.plot(
            part.lam,
            part.parse_rate,
            marker,
            color=style.BLUE,
            ms=4,
            alpha=0.7,
            label=f"parse rate, seed {seed}",
        )
    axis.set_ylim(-0.03, 1.05)


def _prediction(axis: Axes, arm: pd.DataFrame, calibration: pd.DataFrame) -> None:
    strength = arm.c.iloc[0]
    binding = calibration[calibration.binding]
    column = f"lambda_star_c{strength:g}"
    if binding.empty or column not in binding:
        return
    star, low, high = (float(binding.iloc[0][column + end]) for end in ("", "_lo", "_hi"))
    # The interval may reach infinity, where p <= b in some of the resamples.
    high = min(high, max(star, float(arm.lam.max())))
    axis.axvspan(low, high, color=style.ORANGE, alpha=0.2, lw=0)
    axis.axvline(star, color=style.ORANGE, lw=1.5, label=f"predicted lambda* = {star:.3f}")


def _observation(axis: Axes, onsets: pd.DataFrame, key: tuple[object, ...], level: float) -> None:
    if onsets.empty:
        return
    mine = onsets[(onsets[ARM_KEYS] == list(key)).all(axis=1)]
    numbers = mine[["onset", "onset_lo", "onset_hi"]].dropna(subset=["onset"])
    for onset, low, high in numbers.to_numpy(dtype=float):
        axis.errorbar(
            [onset],
            [level],
            xerr=[[onset - low], [high - onset]],
            fmt="x",
            color=style.GREY,
            capsize=3,
            label=f"observed onset {onset:.3f}",
        )
