"""A rerun over the committed study: parse rates, onsets, every number in parts of its tolerance."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from opdcliff.report.drawing import style
from opdcliff.terminal import ARM_KEYS

if TYPE_CHECKING:
    from opdcliff.report.comparison.compare import Comparison

_OURS, _THEIRS = style.BLUE, style.GREY
# Past this many tolerances a number is drawn at the edge.
_EDGE = 2.0
# An axis of lambda is at least about twice this share of lambda wide.
_NARROW = 0.05


@style.beside_tables("comparison.png")
def draw_comparison(found: Comparison, folder: Path) -> None:
    """Write comparison.png and .svg: a panel per arm, one of all differences."""
    theirs, ours = found.committed.typed["cells"], found.ours.typed["cells"]
    arms = list(theirs.groupby(ARM_KEYS, sort=False))
    with style.own_style():
        figure = Figure(figsize=(3.4 * len(arms) + 3.8, 4.4), layout="constrained")
        axes = figure.subplots(1, len(arms) + 1, squeeze=False)[0]
        for axis, (key, arm) in zip(axes, arms, strict=False):
            _curves(axis, arm, ours[(ours[ARM_KEYS] == list(key)).all(axis=1)])
            _onsets(axis, found, list(key))
            axis.set_title(f"clip {key[0]}", fontsize=9)
            axis.set_xlabel("lambda")
            axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, fontsize=7)
        axes[0].set_ylabel("strict parse rate")
        _differences(axes[-1], found.numbers)
        provenance = f"{found.name}: a rerun (over) and the committed study (behind)"
        figure.savefig(folder / "comparison.png", metadata={"Description": provenance})
        figure.savefig(
            folder / "comparison.svg", metadata={"Description": provenance, "Date": None}
        )


def _curves(axis: Axes, theirs: pd.DataFrame, ours: pd.DataFrame) -> None:
    for runs, color, mark, name in (
        (theirs, _THEIRS, "o", "committed"),
        (ours, _OURS, "x", "here"),
    ):
        mean = runs.groupby("lam").parse_rate.mean()
        axis.plot(mean.index, mean, color=color, lw=1, label=f"{name}, mean")
        size = 7 if runs is theirs else 5
        axis.plot(
            runs.lam, runs.parse_rate, mark, color=color, ms=size, alpha=0.7, label=f"{name}, seeds"
        )
    axis.set_ylim(-0.03, 1.05)
    axis.locator_params(axis="x", nbins=5)
    low, high = axis.get_xlim()
    if high - low < _NARROW * high:
        # One lambda here and nearly the same there: digits of a tick would overlap.
        axis.set_xlim(low - _NARROW * high, high + _NARROW * high)


def _onsets(axis: Axes, found: Comparison, key: list[object]) -> None:
    """Both onsets as bars over the interval of their seeds, and the tolerance behind them."""
    for tables, color, y, name in (
        (found.committed, _THEIRS, 0.53, "committed"),
        (found.ours, _OURS, 0.47, "here"),
    ):
        onsets = tables.typed["onsets"]
        if onsets.empty:
            return
        mine = onsets[(onsets[ARM_KEYS] == key).all(axis=1)]
        bars = mine[["onset", "onset_lo", "onset_hi"]].dropna().to_numpy(dtype=float)
        for onset, low, high in bars:
            ends = [[max(onset - low, 0.0)], [max(high - onset, 0.0)]]
            label = f"onset {name}: {onset:.3f}"
            axis.errorbar([onset], [y], xerr=ends, fmt="d", color=color, capsize=3, label=label)
    numbers = found.numbers
    arm = f"{key[0]} {key[1]} w{key[2]:.0f} n{key[3]:.0f}"
    chosen = (numbers.table == "onsets") & (numbers.row == arm) & (numbers.column == "onset")
    for low, high in numbers[chosen][["low", "high"]].to_numpy(dtype=float):
        if math.isfinite(low) and math.isfinite(high):
            axis.axvspan(low, high, color=style.PALE, alpha=0.5, lw=0, label="tolerance of onset")


def _differences(axis: Axes, numbers: pd.DataFrame) -> None:
    """Each number's difference in parts of what is allowed to that side, by table and column."""
    parts = differences(numbers)
    names = list(dict.fromkeys(parts.group))
    for number, name in enumerate(names):
        values = parts.part[parts.group == name].to_numpy(dtype=float)
        # Spread over the height of the line, the same every time.
        y = number + np.linspace(-0.3, 0.3, len(values))
        outside = np.abs(values) > 1
        for chosen, color, mark in ((~outside, _OURS, "."), (outside, style.ORANGE, "s")):
            shown = np.clip(values[chosen], -_EDGE, _EDGE)
            axis.plot(shown, y[chosen], mark, color=color, ms=3, alpha=0.7)
    axis.axvspan(-1, 1, color=style.PALE, alpha=0.5, lw=0)
    axis.axvline(0, color=_THEIRS, lw=0.8)
    axis.set_xlim(-_EDGE - 0.1, _EDGE + 0.1)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.set_yticks(range(len(names)), names, fontsize=6)
    axis.set_xlabel("(here - committed) / tolerance")
    axis.set_title("every number; orange: outside", fontsize=9)


def _kind(column: str) -> str:
    """Bounds of a number, clips, seeds and kinds of failure stand in one line each."""
    plain = re.sub(r"(_lo|_hi|_c[\d.]+| \d+)+$", "", column.removeprefix("eval/"))
    return "failures" if plain.startswith("fail/") else plain


def differences(numbers: pd.DataFrame) -> pd.DataFrame:
    """Columns group (table, kind of column) and part: the difference in parts of what is allowed.

    Numbers that are no numbers, or of which nothing is claimed, have no part and are left out.
    """
    ours, theirs = (pd.to_numeric(numbers[c], errors="coerce") for c in ("ours", "committed"))
    room = (numbers.high - theirs).where(ours >= theirs, theirs - numbers.low)
    part = ((ours - theirs) / room).where(ours != theirs, 0.0)
    group = numbers.table + " " + numbers.column.map(_kind)
    known = np.isfinite(ours) & np.isfinite(theirs) & np.isfinite(room) & np.isfinite(part)
    found: pd.DataFrame = pd.DataFrame({"group": group, "part": part})[known]
    return found
