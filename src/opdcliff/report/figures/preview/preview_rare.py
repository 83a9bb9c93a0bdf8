"""Runs without a clip beside settled students, whose rarest entries moved or did not."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from opdcliff.report.drawing import style
from opdcliff.report.drawing.inputs import Inputs, Study
from opdcliff.report.drawing.page import Page, new_figure, panel_title

# Protocols: what a panel is called, and the words of its previews.
PROTOCOLS = {
    "preview_mini": ("mini", "optim.estimator=full source=table"),
    "preview_orders": ("answers to a schema", "optim.estimator=full source=table"),
    "preview_mini_wide": ("mini, five times the parameters", "optim.estimator=full"),
    "preview_titles": ("item titles", "source=table"),
}
# Mass below which entries stay, in the folders of that name.
RARE = 1e-5
_KINDS = {
    "": ("all entries settled", "-", style.GREY),
    "_rare": (f"under {RARE:g} held", "--", style.BLACK),
}
_COLUMNS = ["lam", "parse_rate", "parse_lo", "parse_hi", "truncated_rate"]


def table_of(study: Study) -> pd.DataFrame:
    """Without a clip: rows "predicted" at each lambda, and "seen" of the runs."""
    predicted, seen = study.table("preview"), study.table("beside")
    frames = {
        "predicted": predicted[predicted.rule == "none"][_COLUMNS],
        "seen": seen[seen.rule == "none"][["lam", "seen", "least", "most", "seeds"]],
    }
    return pd.concat([frame.assign(row=row) for row, frame in frames.items()])


def build(inputs: Inputs) -> Page:
    """From results/previews/: each protocol twice, with and without its rarest entries."""
    studies: dict[tuple[str, str], Study] = {}
    for name, (_, words) in PROTOCOLS.items():
        for kind in _KINDS:
            rare = f" preview.rare={RARE:g}" if kind else ""
            command = f"opdcliff preview experiment={name} {words}{rare}"
            studies[name, kind] = inputs.preview(name + kind, command)
    tables = [
        table_of(study).assign(preview=name, kind=kind.strip("_"))
        for (name, kind), study in studies.items()
    ]
    data = pd.concat(tables, ignore_index=True)
    figure = new_figure(
        12.6,
        3.9,
        "Without a clip: what runs make of entries that the warm start hardly holds",
        "Lines: parse rates of settled students with 95% intervals over prompts, all entries "
        f"settled, and those of less than {RARE:g} in the warm start held where they are. Marks: "
        "final rates of runs, mean over seeds, least to most. Exploratory: both lines of the third "
        "panel were sampled before its runs, the dashed ones of the others after.",
    )
    axes = figure.subplots(1, len(PROTOCOLS), sharey=True)
    for axis, (name, (said, _)) in zip(axes, PROTOCOLS.items(), strict=True):
        _panel(axis, data[data.preview == name])
        panel_title(axis, said)
        axis.set_xlabel("lambda")
    axes[0].set(ylabel="strict parse rate", ylim=(-0.04, 1.05))
    axes[0].legend(loc="upper right", fontsize=7.5)
    return Page(figure, data, [study.origin for study in studies.values()])


def _panel(axis: Axes, data: pd.DataFrame) -> None:
    for kind, (label, line, color) in _KINDS.items():
        curve = data[(data.row == "predicted") & (data.kind == kind.strip("_"))].sort_values("lam")
        axis.plot(curve.lam, curve.parse_rate, ls=line, color=color, label=label)
        axis.fill_between(curve.lam, curve.parse_lo, curve.parse_hi, color=color, alpha=0.12, lw=0)
    runs = data[(data.row == "seen") & (data.kind == "")]
    spans = [runs.seen - runs.least, runs.most - runs.seen]
    axis.errorbar(runs.lam, runs.seen, yerr=spans, fmt="o", color=style.BLUE, ms=4.5, label="runs")
