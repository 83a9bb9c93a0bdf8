"""Runs over time, below, at and above the cliff: what moves first."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from opdcliff.report.drawing import style
from opdcliff.report.drawing.inputs import Inputs, LockedStudy
from opdcliff.report.drawing.page import Page, new_figure, panel_title

ARMS = (("fine_grid", "c = 5"), ("small_clip", "c = 2"))
# Multiples of lambda* shown: below the cliff, in the grid cell where it is, above it.
MULTIPLES = (0.9125, 0.9625, 1.0125)
PANELS = {
    "eval/parse_rate": "parse rate\n(64 prompts)",
    "eval/mean_length": "mean length\n(tokens)",
    "train/tail_ratio/text": "tail ratio of\nthe text class",
    "train/beyond_zc": "share of positions\nbeyond z_c",
}
# Share of positions beyond z_c that is taken for a warning, and the parse rate for a fall.
WARNING, FALL = 0.01, 0.5
_KEYS = ["arm", "c", "lam", "multiple", "seed"]


def table(study: LockedStudy, histories: pd.DataFrame) -> pd.DataFrame:
    """The plotted evaluations, and per run the first one past WARNING and past FALL."""
    frames = []
    for arm, _ in ARMS:
        locked = study.lock.arm(arm)
        for multiple in MULTIPLES:
            lam = locked.lams[locked.multiples.index(multiple)]
            part = histories[(histories.arm == arm) & (histories.lam == lam)]
            frames.append(part.assign(multiple=multiple))
    data = pd.concat(frames)[[*_KEYS, "step", *PANELS]]
    warned = data[data["train/beyond_zc"] >= WARNING].groupby(_KEYS).step.min()
    fell = data[(data["eval/parse_rate"] < FALL) & (data.step > 0)]
    # Before it is repaired the student parses little as well: a fall comes after a rise.
    risen = data[data["eval/parse_rate"] >= FALL].groupby(_KEYS).step.min().rename("risen")
    fell = fell.join(risen, on=_KEYS)
    first = fell[fell.step > fell.risen].groupby(_KEYS).step.min()
    return data.join(warned.rename("warned_at"), on=_KEYS).join(first.rename("fell_at"), on=_KEYS)


def build(inputs: Inputs) -> Page:
    """From trajectories.csv of the locked study."""
    study = inputs.locked()
    data = table(study, inputs.trajectories())
    seeds = data.seed.nunique()
    figure = new_figure(
        9.2,
        8.4,
        "Runs over time below, near and above the cliff",
        f"Locked runs, looked at without a prediction (exploratory): {seeds} seeds each, an "
        "evaluation every 20 updates; lambda rises over the first 100 updates. " + warnings(data),
    )
    axes = figure.subplots(len(PANELS), len(ARMS), sharex=True, sharey="row")
    for column, (arm, title) in enumerate(ARMS):
        part = data[data.arm == arm]
        for row, (metric, label) in enumerate(PANELS.items()):
            axis = axes[row, column]
            _lines(axis, part, metric)
            if column == 0:
                axis.set_ylabel(label)
        panel_title(axes[0, column], f"{title} (arm {arm})")
        strength = float(part.c.iloc[0])
        axes[2, column].axhline(strength, color=style.GREY, lw=0.8, ls=":")
        axes[2, column].text(2, strength * 1.08, f"c = {strength:g}", size=7.5, color=style.GREY)
        axes[3, column].axhline(WARNING, color=style.GREY, lw=0.8, ls=":")
        axes[-1, column].set_xlabel("updates")
        axes[0, column].legend(
            loc="lower left", bbox_to_anchor=(0.1, 0.0), fontsize=7.5, handlelength=3.2
        )
    axes[2, 0].set_yscale("log")
    axes[3, 0].set_yscale("symlog", linthresh=0.01)
    axes[3, 0].set_yticks([0, 0.01, 0.1, 1.0], ["0", "1%", "10%", "100%"])
    axes[3, 0].set_ylim(-0.002, 1.5)
    return Page(figure, data, [study.origin])


def _lines(axis: Axes, part: pd.DataFrame, metric: str) -> None:
    for multiple, look in zip(MULTIPLES, style.SERIES, strict=False):
        runs = part[part.multiple == multiple]
        label = f"{multiple:g} lambda*"
        for _, run in runs.groupby("seed"):
            axis.plot(
                run.step,
                run[metric],
                color=look.color,
                ls=look.line,
                lw=0.9,
                alpha=0.8,
                label=label,
            )
            label = ""
            at = "warned_at" if metric == "train/beyond_zc" else "fell_at"
            marked = run[run.step == run[at]] if metric in (*PANELS,)[::3] else run[:0]
            axis.plot(
                marked.step,
                marked[metric],
                look.marker,
                color=look.color,
                ms=5,
                mec="white",
                mew=0.6,
            )


def warnings(data: pd.DataFrame) -> str:
    """How often the warning came before the fall, after it, and without one."""
    runs = data.drop_duplicates(_KEYS)
    fell, warned = runs.fell_at.notna(), runs.warned_at.notna()
    ahead = (runs.warned_at < runs.fell_at).sum()
    lead = (runs.fell_at - runs.warned_at)[fell & warned].median()
    return (
        f"Markers: first share beyond z_c of {WARNING:.0%} or more, first parse rate under "
        f"{FALL:g}. Of {fell.sum()} runs that fell {ahead} were marked before (median lead "
        f"{lead:.0f} updates); of {(~fell).sum()} that stayed {(warned & ~fell).sum()} were marked."
    )
