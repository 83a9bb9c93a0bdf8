"""Calibration: p, b and lambda* per token class, and per offset of the class that binds."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from opdcliff.report.drawing import style
from opdcliff.report.drawing.inputs import Inputs
from opdcliff.report.drawing.page import Page, new_figure, panel_title
from opdcliff.theory import threshold

DATA = {
    "mini": "opdcliff study protocol=quick",
    "amazon_fashion": "opdcliff study protocol=quick data=amazon_fashion data.path=FOLDER",
}
_MASSES = (0.1, 0.5, 0.9, 0.99, 0.999, 0.9999)
# lambda* beyond this is drawn as an arrow: what it is stands in the table.
_MOST = 2.6
_COLUMNS = [
    *("data", "class", "offsets", "positions", "tail_needed", "binding"),
    *("p", "p_lo", "p_hi", "b", "b_lo", "b_hi"),
    *("lambda_star_c5", "lambda_star_c5_lo", "lambda_star_c5_hi"),
    *("lambda_star_c2", "lambda_star_c2_lo", "lambda_star_c2_hi"),
]


def build(inputs: Inputs) -> Page:
    """From calibration.csv of the quick study on both data sets."""
    studies = {name: inputs.study(name, "quick", command) for name, command in DATA.items()}
    data = pd.concat(
        [study.table("calibration").assign(data=name) for name, study in studies.items()],
        ignore_index=True,
    )[_COLUMNS]
    figure = new_figure(
        9.6,
        7.0,
        "Calibration: p, b and lambda* per token class and offset",
        "Measured on the warm start's own prefixes before any distillation; exploratory. "
        "Medians over positions, bars: 95% over prompts. Shaded: the row that binds. Bold: "
        "classes whose tail the contract needs; the others' thresholds are crossed without loss "
        "(theory, point 11).",
    )
    counts = [len(data[data.data == name]) for name in DATA]
    axes = figure.subplots(len(DATA), 2, height_ratios=counts, sharex="col", squeeze=False)
    for row, name in enumerate(DATA):
        part = data[data.data == name].reset_index(drop=True)
        _masses(axes[row, 0], part)
        _thresholds(axes[row, 1], part)
        panel_title(axes[row, 0], name)
    axes[0, 0].legend(loc="lower left", bbox_to_anchor=(0.35, 1.0), ncols=2, fontsize=8)
    axes[0, 1].legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2, fontsize=8)
    axes[-1, 0].set_xlabel("mass on the modal class (logit scale)")
    axes[-1, 1].set_xlabel(f"lambda* (arrow: above {_MOST:g})")
    return Page(figure, data, [study.origin for study in studies.values()])


def _rows(axis: Axes, part: pd.DataFrame, *, named: bool) -> None:
    axis.set_ylim(len(part) - 0.4, -0.6)
    for y in np.flatnonzero(part.binding):
        axis.axhspan(y - 0.45, y + 0.45, color=style.PALE, alpha=0.8, lw=0)
    labels = [
        f"{row['class']}, {row.offsets}" if row.offsets != "all" else f"{row['class']}, all"
        for _, row in part.iterrows()
    ]
    axis.set_yticks(range(len(part)), labels if named else [""] * len(part), fontsize=8)
    for tick, needed in zip(axis.get_yticklabels(), part.tail_needed, strict=True):
        tick.set_fontweight("bold" if needed else "normal")
    axis.tick_params(axis="y", length=0)


def _masses(axis: Axes, part: pd.DataFrame) -> None:
    _rows(axis, part, named=True)
    for name, label, look in (
        ("p", "p, teacher", style.SERIES[0]),
        ("b", "b, warm start", style.SERIES[1]),
    ):
        low, middle, high = (
            threshold.logit(part[name + end].to_numpy()) for end in ("_lo", "", "_hi")
        )
        axis.errorbar(
            middle,
            np.arange(len(part)),
            xerr=[middle - low, high - middle],
            fmt=look.marker,
            color=look.color,
            ms=5,
            capsize=2,
            label=label,
        )
    axis.set_xticks([float(threshold.logit(m)) for m in _MASSES], [f"{m:g}" for m in _MASSES])


def _thresholds(axis: Axes, part: pd.DataFrame) -> None:
    _rows(axis, part, named=False)
    axis.set_xlim(1.0, _MOST)
    for c, look, aside in ((5, style.SERIES[0], -0.12), (2, style.SERIES[1], 0.12)):
        low, middle, high = (
            part[f"lambda_star_c{c}{end}"].to_numpy() for end in ("_lo", "", "_hi")
        )
        y, inside = np.arange(len(part)) + aside, middle <= _MOST
        axis.errorbar(
            middle[inside], y[inside],
            xerr=[(middle - low)[inside], np.minimum(high, _MOST)[inside] - middle[inside]],
            fmt=look.marker, color=look.color, ms=5, capsize=2, label=f"c = {c}",
        )  # fmt: skip
        axis.plot(np.full((~inside).sum(), _MOST - 0.02), y[~inside], ">", color=look.color, ms=6)
