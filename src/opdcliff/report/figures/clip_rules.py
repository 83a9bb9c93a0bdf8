"""Clip rules side by side: which of them has a cliff, and where."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from opdcliff.report.drawing import style
from opdcliff.report.drawing.inputs import Inputs, Study
from opdcliff.report.drawing.page import Page, new_figure, panel_title

STUDIES = {
    "clip_rules": "clips on pi_T/pi_S (full estimator)",
    "policy_ratio_rules": "beside clips on pi_theta/pi_old (sampled, stale)",
}
# The options of the group `clip` by the name of their rule.
RULES = {
    "c5": "mask, c = 5",
    "truncate": "truncate, c = 5",
    "two_sided": "two-sided mask, c = 5",
    "none_": "no clip",
    "ppo": "PPO",
    "aspo": "ASPO",
}
_LOOKS = {"c5": 0, "truncate": 1, "two_sided": 2, "none_": 3, "ppo": 1, "aspo": 4}
_KEPT = ["clip", "lam", "seed", "status", "parse_rate", "truncated", "mean_length"]


def table(studies: dict[str, Study]) -> pd.DataFrame:
    """Every run: lambda as a multiple of lambda*(c = 5), parse rate, and why it did not parse."""
    frames = []
    for name, study in studies.items():
        cells, star = study.table("cells"), float(study.binding().lambda_star_c5)
        frames.append(
            cells[_KEPT].assign(study=name, lambda_star_c5=star, multiple=cells.lam / star)
        )
    return pd.concat(frames, ignore_index=True)


def build(inputs: Inputs) -> Page:
    """From results/studies/mini/clip_rules and results/studies/mini/policy_ratio_rules."""
    studies = {
        name: inputs.study("mini", name, f"opdcliff study experiment={name}") for name in STUDIES
    }
    data = table(studies)
    figure = new_figure(
        9.6,
        4.9,
        "Parse rate under each clip rule",
        "Exploratory. The closed form is about the mask on pi_T/pi_S; the other rules are run "
        "at the same lambdas. Points are runs, lines their means over seeds. PPO and ASPO clip "
        "another ratio, which leaves 1 only with several updates per batch (here 4); the closed "
        "form says nothing about it. Dotted: lambda* at c = 5.",
    )
    axes = figure.subplots(1, len(STUDIES), sharey=True)
    for axis, (name, title) in zip(axes, STUDIES.items(), strict=True):
        _panel(axis, data[data.study == name])
        panel_title(axis, title)
    axes[0].set(ylabel="strict parse rate", ylim=(-0.03, 1.05))
    return Page(figure, data, [study.origin for study in studies.values()])


def _panel(axis: Axes, data: pd.DataFrame) -> None:
    for clip, runs in data.groupby("clip", sort=False):
        look = style.SERIES[_LOOKS[str(clip)]]
        mean = runs.groupby("multiple").parse_rate.mean()
        axis.plot(
            mean.index,
            mean,
            color=look.color,
            ls=look.line,
            lw=1.2,
            marker=look.marker,
            ms=0,
            label=None,
        )
        axis.plot(runs.multiple, runs.parse_rate, look.marker, color=look.color, ms=4, alpha=0.75)
        axis.plot(
            [], [], color=look.color, ls=look.line, marker=look.marker, ms=4, label=RULES[str(clip)]
        )
    axis.axvline(1.0, color=style.GREY, lw=0.9, ls=":")
    axis.set_xlabel("lambda / lambda*(c = 5)")
    # Under the axes: the lines may pass anywhere.
    axis.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2, fontsize=8, handlelength=3.4
    )
