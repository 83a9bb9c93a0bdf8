"""Marks that figures of seeds share: runs beside each other, and an onset with its interval."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from opdcliff.report.drawing import style


def beside(runs: pd.DataFrame, apart: float) -> pd.Series[Any]:
    """lambda of every run, seeds of a point `apart` in lambda: equal rates do not hide."""
    order = runs.groupby("lam").seed.rank()
    moved: pd.Series[Any] = runs.lam + (order - 0.5 * (order.max() + 1)) * apart
    return moved


def onset_bar(axis: Axes, onset: pd.Series[Any]) -> None:
    """An onset (lam) and its interval (lo, hi), if all three are finite."""
    if not np.isfinite([onset.lam, onset.lo, onset.hi]).all():
        return
    axis.errorbar(
        [onset.lam],
        [0.5],
        xerr=[[onset.lam - onset.lo], [onset.hi - onset.lam]],
        fmt="D",
        color=style.GREEN,
        capsize=4,
        ms=5,
    )
