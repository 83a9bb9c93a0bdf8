"""Settled students beside runs: parse rates predicted without training, and what was seen."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from opdcliff.report.drawing import style
from opdcliff.report.drawing.inputs import Inputs, Study
from opdcliff.report.drawing.page import Page, new_figure, panel_title

# Previews by protocol, the words that make each, and what a panel is called.
PREVIEWS = {
    "quick": ("protocol=quick optim.estimator=full preview.margin=null", "p = .86"),
    "near_quick": (
        "experiment=near_quick optim.estimator=full preview.margin=null",
        "p = .95",
    ),
    "preview_near": (
        "experiment=preview_near optim.estimator=full preview.margin=null",
        "p = .95, predicted first",
    ),
    "preview_near_large_step": (
        "experiment=preview_near_large_step optim.estimator=full preview.margin=null",
        "p = .95, step 1e-3, predicted first",
    ),
    "preview_orders_large": (
        "experiment=preview_orders_large optim.estimator=full preview.margin=null",
        "schema, step 1e-3, predicted first",
    ),
    "titles_onset": ("experiment=titles_onset", "titles, step 5e-4"),
    "titles_onset_small_step": ("experiment=titles_onset_small_step", "titles, step 2.5e-4"),
    "scope_ranking_only": (
        "protocol.name=scope_ranking_only data.contract=ranking_only",
        "ranking alone, step 5e-4",
    ),
    "scope_ranking_only_large_step": (
        "protocol.name=scope_ranking_only_large_step data.contract=ranking_only optim.lr=1e-3 "
        "lam.warmup_updates=50 optim.updates=100",
        "ranking alone, step 1e-3",
    ),
}
# Rows, and panels in one; the panel of onsets takes what is left of the last row.
_ROWS, _IN_A_ROW = 3, 4
# Of the onsets, two more than there are colours.
_LOOKS = (*style.SERIES, style.Series(style.GREY, "P", "-"), style.Series(style.GREY, "X", "-"))
_COLUMNS = ["rule", "c", "lam", "margin", "parse_rate", "parse_lo", "parse_hi"]


def table_of(study: Study) -> pd.DataFrame:
    """Predicted points, runs and onsets of one preview, told apart by the column `kind`."""
    frames = {
        "predicted": study.table("preview")[_COLUMNS],
        "seen": study.table("beside"),
        "onset": study.table("onsets"),
    }
    return pd.concat([frame.assign(kind=kind) for kind, frame in frames.items()])


def build(inputs: Inputs) -> Page:
    """From results/previews/."""
    studies = {
        name: inputs.preview(name, f"opdcliff preview {words} source=table")
        for name, (words, _) in PREVIEWS.items()
    }
    data = pd.concat(
        [table_of(study).assign(preview=name) for name, study in studies.items()],
        ignore_index=True,
    )
    figure = new_figure(
        12.6,
        9.6,
        "The settled student, sampled from teacher and warm start, beside runs",
        "Exploratory: where it does not say predicted first, the runs were made before the "
        "predictions. Lines: predicted parse rates, their bands from the fixed point itself down "
        "to the margin of a pilot where one was made (not for titles and ranking), with 95% "
        "intervals over prompts. Open marks: final rates of runs, mean over seeds, least to most.",
    )
    grid = figure.add_gridspec(_ROWS, _IN_A_ROW)
    first: Axes | None = None
    for number, (name, (_, title)) in enumerate(PREVIEWS.items()):
        axis = figure.add_subplot(grid[divmod(number, _IN_A_ROW)], sharey=first)
        first = first or axis
        _panel(axis, data[data.preview == name])
        panel_title(axis, title)
        if number % _IN_A_ROW == 0:
            axis.set_ylabel("strict parse rate")
    assert first is not None, "there are previews"
    first.set_ylim(-0.04, 1.05)
    _onsets(figure.add_subplot(grid[-1, len(PREVIEWS) % _IN_A_ROW :]), data[data.kind == "onset"])
    return Page(figure, data, [study.origin for study in studies.values()])


def _panel(axis: Axes, data: pd.DataFrame) -> None:
    predicted, seen = data[data.kind == "predicted"], data[data.kind == "seen"]
    clips = list(predicted.groupby(["rule", "c"], sort=False, dropna=False))
    for look, ((rule, c), part) in zip(style.SERIES, clips, strict=False):
        plain = part[part.margin == 0.0].sort_values("lam")
        wide = part[part.margin == part.margin.max()].sort_values("lam")
        label = "no clip" if rule == "none" else f"c = {float(str(c)):g}"
        axis.plot(plain.lam, plain.parse_rate, ls=look.line, color=look.color, label=label)
        axis.fill_between(plain.lam, wide.parse_lo, plain.parse_hi, color=look.color, alpha=0.15)
        runs = seen[(seen.rule == rule) & ((seen.c == c) | (rule == "none"))]
        spans = [runs.seen - runs.least, runs.most - runs.seen]
        axis.errorbar(
            runs.lam,
            runs.seen,
            yerr=spans,
            fmt=look.marker,
            color=look.color,
            mfc="white",
            ms=6,
            lw=1,
        )
    axis.set_xlabel("lambda")
    axis.legend(loc="center left", fontsize=7.5)


def _onsets(axis: Axes, onsets: pd.DataFrame) -> None:
    """Where runs fall, against the prediction: from its margin to the fixed point itself.

    Of a curve that does not fall in the grid of its runs only the margin's onset is there.
    """
    found = onsets.dropna(subset=["with_margin", "seen"])
    values = found[["predicted", "with_margin", "seen"]]
    ends = (float(values.min().min()) - 0.05, float(values.max().max()) + 0.05)
    axis.plot(ends, ends, color=style.GREY, lw=0.8, ls=":")
    for look, (name, part) in zip(_LOOKS, found.groupby("preview", sort=False), strict=False):
        label = PREVIEWS[str(name)][1]
        axis.hlines(part.seen, part.with_margin, part.predicted, color=look.color, lw=1.2)
        axis.plot(part.predicted, part.seen, look.marker, color=look.color, mfc="white", ms=5)
        axis.plot(
            part.with_margin, part.seen, look.marker, ls="", color=look.color, ms=5, label=label
        )
    axis.set(xlabel="predicted (filled: with margin)", ylabel="onset of runs")
    axis.legend(loc="lower right", fontsize=7)
    panel_title(axis, "onsets; dotted: equal")
