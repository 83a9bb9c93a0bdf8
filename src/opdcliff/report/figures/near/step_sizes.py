"""Onset against step size, batch and warm-up at one p, and beside the paper's start at another."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from opdcliff.report.drawing import style
from opdcliff.report.drawing.inputs import Inputs
from opdcliff.report.drawing.page import Page, each, new_figure, panel_title


@dataclass(frozen=True)
class Steps:
    """The settings of one repetition of experiment=onset_steps."""

    lr: float = 5e-4
    prompts: int = 16
    warmup: int = 100
    updates: int = 200

    @property
    def words(self) -> str:
        """As one types them."""
        return (
            f"optim.lr={self.lr:g} rollout.prompts_per_update={self.prompts} "
            f"lam.warmup_updates={self.warmup} optim.updates={self.updates}"
        )


# Warm-up and budget grow as the step shrinks, so that lr times updates stays.
STEPS: Mapping[str, Steps] = {
    "base": Steps(),
    "lr_quarter": Steps(lr=1.25e-4, warmup=400, updates=800),
    "lr_half": Steps(lr=2.5e-4, warmup=200, updates=400),
    "lr_double": Steps(lr=1e-3, warmup=50, updates=100),
    "prompts_8": Steps(prompts=8),
    "prompts_64": Steps(prompts=64),
    "warmup_25": Steps(warmup=25),
    "warmup_400": Steps(warmup=400, updates=500),
}
# Panels: their setting, its label, and the repetitions that differ in it from the base.
PANELS = {
    "lr": ("optim.lr, at equal lr times updates", ("lr_quarter", "lr_half", "base", "lr_double")),
    "prompts": ("prompts an update", ("prompts_8", "base", "prompts_64")),
    "warmup": ("warm-up, updates", ("warmup_25", "base", "warmup_400")),
}
# The part of the shares that is drawn.
_SHARES = (0.9, 1.01)
_START = "near_paper_start"
# Its arms in the order they are drawn, by estimator and warm-up, and what was predicted of them.
STARTS = {
    ("sampled", 150): ("sampled,\nwarm-up", f"{_START}_sampled_warm_up"),
    ("full", 0): ("full,\nplain", f"{_START}_full_plain"),
    ("sampled", 0): ("sampled,\nplain", None),
}
_START_CLIP = 2.0
# A panel is as wide as it has settings.
_WIDTHS = (*(len(names) for _, names in PANELS.values()), len(STARTS))
_NOTHING = (math.nan, math.nan)


def table(inputs: Inputs) -> tuple[pd.DataFrame, list[str]]:
    """Onset, its grid cells and prediction over lambda*, a row per repetition; the origins."""
    rows, origins = [], []
    for name, steps in STEPS.items():
        protocol = f"onset_steps_{name}"
        study = inputs.study(
            "mini",
            protocol,
            f"opdcliff study experiment=onset_steps protocol.name={protocol} {steps.words}",
        )
        (c,) = study.table("cells").c.unique()
        window = inputs.prediction(protocol)[float(c)]
        about = {"study": protocol, "lr": steps.lr, "prompts": steps.prompts}
        rows += [_row(about, found, window) for found in study.table("onsets").to_dict("records")]
        origins.append(study.origin)
    start = inputs.study("mini", _START, f"opdcliff study experiment={_START}")
    for found in start.table("onsets").to_dict("records"):
        _, predicted = STARTS[str(found["estimator"]), int(found["warmup"])]
        window = inputs.prediction(predicted)[_START_CLIP] if predicted else _NOTHING
        rows.append(_row({"study": _START}, found, window))
    return pd.DataFrame(rows), [*origins, start.origin]


def _row(
    about: dict[str, Any], found: Mapping[Any, Any], window: tuple[float, float]
) -> dict[str, Any]:
    star = found["lambda_star"]
    kept = ("estimator", "warmup", "budget", "seeds", "lambda_star")
    over = {name: found[name] / star for name in ("onset", "bracket_lo", "bracket_hi")}
    low, high = window
    predicted = {"predicted_lo": low / star, "predicted_hi": high / star}
    return about | {name: found[name] for name in kept} | over | predicted


def build(inputs: Inputs) -> Page:
    """From onsets.csv of the exploratory studies, and results/predictions."""
    data, origins = table(inputs)
    figure = new_figure(
        11.4,
        4.6,
        "The onset moves with the optimizer, not only with p, b and c",
        "Exploratory. Shares of lambda*. Bars: the grid cells that hold the onsets of the seeds; "
        "marks: by interpolation, triangles: below the grid. Orange: predicted from two pilot runs "
        "at the same settings, below the cliff; of a plain start it leaves the picture. p = .86: "
        "c = 5, three seeds; p = .98: c = 2, two.",
    )
    axes = figure.subplots(1, len(_WIDTHS), sharey=True, width_ratios=_WIDTHS)
    of_steps = data[data.study != _START]
    for axis, (setting, (label, names)) in zip(axes, PANELS.items(), strict=False):
        part = of_steps.set_index("study").loc[[f"onset_steps_{name}" for name in names]]
        ticks = [f"{value:g}" for value in part[setting]]
        _panel(axis, part, ticks)
        axis.set_xlabel(label)
    starts = data[data.study == _START].set_index(["estimator", "warmup"]).loc[list(STARTS)]
    _panel(axes[-1], starts, [label for label, _ in STARTS.values()])
    axes[-1].set_xlabel("estimator and start")
    panel_title(axes[-1], "p = .98")
    panel_title(axes[0], "p = .86")
    axes[0].set(ylabel="onset over lambda*", ylim=_SHARES)
    return Page(figure, data, origins)


def _panel(axis: Axes, data: pd.DataFrame, ticks: list[str]) -> None:
    axis.axhline(1.0, color=style.BLACK, lw=0.9)
    for x, row in enumerate(each(data)):
        axis.plot(
            [x, x],
            [row.predicted_lo, row.predicted_hi],
            color=style.ORANGE,
            lw=9,
            alpha=0.3,
            solid_capstyle="butt",
        )
        if math.isfinite(row.onset):
            spans = [[row.onset - row.bracket_lo], [row.bracket_hi - row.onset]]
            axis.errorbar([x], [row.onset], yerr=spans, fmt="o", color=style.BLUE, capsize=3, ms=5)
        else:
            axis.plot([x], [row.bracket_hi], "v", color=style.BLUE, ms=7)
    axis.set_xticks(range(len(ticks)), ticks)
    axis.set_xlim(-0.5, len(ticks) - 0.5)
