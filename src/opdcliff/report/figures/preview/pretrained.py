"""A pretrained model past its lambda*: what was predicted before the runs, and how they ended."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes

from opdcliff.report.drawing import style
from opdcliff.report.drawing.inputs import Inputs, Study
from opdcliff.report.drawing.page import Page, new_figure, panel_title
from opdcliff.report.drawing.seed_marks import beside

_COLUMNS = ["lam", "margin", "parse_rate", "parse_lo", "parse_hi"]
# Seeds of a lambda stand this far apart.
_APART = 0.012


@dataclass(frozen=True)
class Task:
    """A panel: its title, the study with its command, the preview, and a prediction by pilots."""

    title: str
    data: str
    study: str
    command: str
    preview: str
    preview_command: str
    pilots: str | None = None

    def read(self, inputs: Inputs) -> tuple[pd.DataFrame, list[str]]:
        """Runs, settled students, pilots' interval and lambda*, told apart by `kind`; origins."""
        study = inputs.study(self.data, self.study, self.command)
        settled = inputs.preview(self.preview, self.preview_command, first="preview.csv")
        cells = study.table("cells")
        c = float(cells.c.iloc[0])
        runs = cells[["lam", "seed", "parse_rate", "parse_lo", "parse_hi"]].assign(kind="run")
        parts = [_settled(settled, c), runs.sort_values(["lam", "seed"])]
        marks = [("lambda*", float(cells.lambda_star.iloc[0]))]
        if self.pilots is not None:
            marks += [("pilots", end) for end in inputs.prediction(self.pilots)[c]]
        parts.append(pd.DataFrame(marks, columns=["kind", "lam"]))
        table = pd.concat(parts, ignore_index=True).assign(task=self.title)
        return table, [study.origin, settled.origin]


def _settled(preview: Study, c: float) -> pd.DataFrame:
    table = preview.table("preview")
    clipped = table[(table.rule == "mask") & (table.c == c)]
    return clipped[_COLUMNS].assign(kind="settled").sort_values(["margin", "lam"])


TASKS = (
    Task(
        "generated lists: positions alike",
        "mini",
        "smollm2_mini_small_step",
        "opdcliff study experiment=smollm2_mini protocol.name=smollm2_mini_small_step",
        "smollm2_mini",
        "opdcliff preview experiment=smollm2_mini",
        "smollm2_mini",
    ),
    Task(
        "Amazon titles: positions differ",
        "amazon_titles",
        "smollm2_titles_mini",
        "opdcliff study experiment=smollm2_titles_mini data.path=FOLDER",
        "smollm2_titles_mini",
        "opdcliff preview experiment=smollm2_titles_mini data.path=FOLDER",
    ),
)


def build(inputs: Inputs) -> Page:
    """From results/studies, results/previews and results/predictions."""
    read = [task.read(inputs) for task in TASKS]
    data = pd.concat([table for table, _ in read], ignore_index=True)
    figure = new_figure(
        9.0,
        4.2,
        "A pretrained model, SmolLM2-135M, at c = 2: predicted, and as runs ended",
        "Exploratory. Line and band: settled students with 95% intervals over prompts, down to a "
        "margin of .1 logits where one was sampled; before the runs beside them. Open marks: final "
        "parse rates of runs, a seed each, with 95% intervals over prompts. Dashed: lambda* of the "
        "medians. Orange: onset by two pilots, before the runs at 1.309.",
    )
    axes = figure.subplots(1, len(TASKS), sharey=True)
    for axis, task in zip(axes, TASKS, strict=True):
        _panel(axis, data[data.task == task.title])
        panel_title(axis, task.title)
    axes[0].set(ylim=(-0.04, 1.05), ylabel="strict parse rate")
    return Page(figure, data, [origin for _, origins in read for origin in origins])


def _panel(axis: Axes, data: pd.DataFrame) -> None:
    parts = {str(kind): part for kind, part in data.groupby("kind")}
    look, of_runs = style.SERIES[0], style.SERIES[1]
    if "pilots" in parts:
        low, high = parts["pilots"].lam
        axis.axvspan(low, high, color=style.ORANGE, alpha=0.2, lw=0)
    axis.axvline(float(parts["lambda*"].lam.iloc[0]), color=style.BLACK, lw=0.9, ls="--")
    settled = parts["settled"]
    plain = settled[settled.margin == 0.0]
    wide = settled[settled.margin == settled.margin.max()]
    axis.plot(plain.lam, plain.parse_rate, ls=look.line, color=look.color, label="settled")
    axis.fill_between(plain.lam, wide.parse_lo, plain.parse_hi, color=look.color, alpha=0.15)
    runs = parts["run"]
    axis.errorbar(
        beside(runs, _APART),
        runs.parse_rate,
        yerr=[runs.parse_rate - runs.parse_lo, runs.parse_hi - runs.parse_rate],
        fmt=of_runs.marker,
        color=of_runs.color,
        mfc="white",
        ms=6,
        lw=1,
        label="runs",
    )
    axis.set_xlabel("lambda")
    axis.legend(loc="upper right", fontsize=8)
