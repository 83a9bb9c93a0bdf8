"""Heterogeneous text: parse rates against lambda per step size, and what might have foretold them.

Onset: the lambda at which a seed's final parse rate crosses half of the plateau, the mean final
parse rate at the smallest lambda of that step size. Dip: the same for the smallest parse rate of
the evaluations after the warm-up of lambda; a run that dips and ends above the level came back.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from opdcliff.report.drawing import style
from opdcliff.report.drawing.inputs import Inputs, Study
from opdcliff.report.drawing.page import Page, each, new_figure, panel_title
from opdcliff.theory import onset_of_seed, t_interval

# Studies by name, and the step size of each.
STUDIES = {"titles_onset": 5e-4, "titles_onset_small_step": 2.5e-4}
STRENGTH = 5.0
MEASURES = {"final": "at the end", "lowest": "lowest after the warm-up"}
_SOURCES = {"warm_start": "warm start's", "forced": "forced on", "teacher": "teacher's"}
# Columns of distribution.csv that stand as candidates: weighting, column, words.
_CANDIDATES = (
    ("plain", "of_medians", "of medians"),
    ("plain", "q10", "10% of positions"),
    ("plain", "q50", "50% of positions"),
    ("tail", "q10", "10% of the tail"),
    ("tail", "q25", "25% of the tail"),
    ("tail", "q50", "50% of the tail"),
)


def runs_of(study: Study) -> pd.DataFrame:
    """One row per run: lam, seed, final parse rate and the lowest after the warm-up of lambda."""
    histories = study.table("trajectories")
    after = histories[histories.step > histories.warmup]
    lowest = after.groupby(["lam", "seed"])["eval/parse_rate"].min().rename("lowest")
    cells = study.table("cells").rename(columns={"parse_rate": "final"})
    cells = cells.join(lowest, on=["lam", "seed"])
    # The last evaluation, of more prompts, is one of them.
    return cells[["lam", "seed", "budget", "final", "lowest"]].sort_values(["lam", "seed"])


def onsets_of(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per measure: level, onset as the mean over seeds with its interval, grid cells."""
    level = 0.5 * float(runs[runs.lam == runs.lam.min()].final.mean())
    rows: list[dict[str, Any]] = []
    for measure in MEASURES:
        found = [
            onset_of_seed(own.lam.tolist(), own[measure].tolist(), level)
            for _, own in runs.groupby("seed")
        ]
        points = [onset.point for onset in found]
        low, high = t_interval(points)
        rows.append(
            {
                "measure": measure,
                "level": level,
                "onset": float(np.mean(points)),
                "onset_lo": low,
                "onset_hi": high,
                "bracket_lo": min(onset.below for onset in found),
                "bracket_hi": max(onset.above for onset in found),
            }
        )
    return pd.DataFrame(rows)


def candidates_of(study: Study) -> pd.DataFrame:
    """One row per source and candidate number; infinite where that share has no threshold."""
    table = study.table("distribution")
    table = table[table.c == STRENGTH]
    rows = [
        {
            "source": source,
            "candidate": words,
            "lam": float(
                table[(table.source == source) & (table.weighting == weighting)][key].iloc[0]
            ),
        }
        for source in _SOURCES
        for weighting, key, words in _CANDIDATES
        if (table.source == source).any()
    ]
    return pd.DataFrame(rows)


def table(studies: dict[str, Study]) -> pd.DataFrame:
    """Runs, onsets and candidates one below the other, told apart by the column `kind`."""
    frames = [candidates_of(next(iter(studies.values()))).assign(kind="candidate")]
    for name, study in studies.items():
        runs = runs_of(study)
        for kind, part in (("run", runs), ("onset", onsets_of(runs))):
            frames.append(part.assign(kind=kind, study=name, lr=STUDIES[name]))
    return pd.concat(frames, ignore_index=True)


def build(inputs: Inputs) -> Page:
    """From results/studies/titles/titles_onset and titles_onset_small_step."""
    studies = {
        name: inputs.study("titles", name, f"opdcliff study experiment={name}") for name in STUDIES
    }
    data = table(studies)
    figure = new_figure(
        9.4,
        7.6,
        "Heterogeneous text (data=titles, c = 5): where runs collapse, and what might have told",
        "Exploratory. Points are runs, lines their means over seeds; dotted: half of the plateau. "
        "Bands: grid cells in which the final parse rates of all seeds cross it, one colour per "
        "step size. Below: candidates for the onset, thresholds of single positions measured "
        "before any distillation; an arrow is beyond the axis or infinite.",
    )
    grid = figure.add_gridspec(2, len(STUDIES), height_ratios=(1.0, 1.25))
    first: Axes | None = None
    for column, name in enumerate(STUDIES):
        axis = figure.add_subplot(grid[0, column], sharex=first, sharey=first)
        first = first or axis
        _parse_rates(axis, data[data.study == name], style.SERIES[column])
        panel_title(axis, f"step size {STUDIES[name]:g}")
    assert first is not None, "there are two studies"
    first.set(ylabel="strict parse rate", ylim=(-0.03, 1.05))
    first.legend(loc="lower left", fontsize=8)
    _candidates(figure.add_subplot(grid[1, :]), data)
    return Page(figure, data, [study.origin for study in studies.values()])


def _parse_rates(axis: Axes, data: pd.DataFrame, look: style.Series) -> None:
    runs, onsets = data[data.kind == "run"], data[data.kind == "onset"]
    for (measure, words), line, filled in zip(
        MEASURES.items(), ("-", ":"), (look.color, "white"), strict=True
    ):
        mean = runs.groupby("lam")[measure].mean()
        axis.plot(mean.index, mean, color=look.color, ls=line, lw=1.2)
        axis.plot(
            runs.lam, runs[measure], look.marker, color=look.color, mfc=filled, ms=4.5, label=words
        )
    axis.axhline(float(onsets.level.iloc[0]), color=style.GREY, lw=0.8, ls=":")
    _band(axis, onsets, look)
    axis.set_xlabel("lambda")


def _band(axis: Axes, onsets: pd.DataFrame, look: style.Series) -> None:
    (row,) = each(onsets[onsets.measure == "final"])
    if math.isfinite(row.bracket_lo) and math.isfinite(row.bracket_hi):
        axis.axvspan(row.bracket_lo, row.bracket_hi, color=look.color, alpha=0.13, lw=0)


def _candidates(axis: Axes, data: pd.DataFrame) -> None:
    found, runs = data[data.kind == "candidate"], data[data.kind == "run"]
    low, high = 1.0, float(runs.lam.max()) + 0.3
    axis.set(xlim=(low, high), xlabel="lambda")
    for (_, onsets), look in zip(
        data[data.kind == "onset"].groupby("study", sort=False), style.SERIES, strict=False
    ):
        _band(axis, onsets, look)
    names = list(dict.fromkeys(found.candidate))
    for aside, look, (source, words) in zip(
        (-0.2, 0.0, 0.2), style.SERIES[2:], _SOURCES.items(), strict=True
    ):
        own = found[found.source == source]
        y = np.array([names.index(name) for name in own.candidate]) + aside
        inside = own.lam.to_numpy() <= high
        axis.plot(
            own.lam[inside],
            y[inside],
            look.marker,
            color=look.color,
            ms=6,
            label=f"{words} prefixes",
        )
        axis.plot(np.full((~inside).sum(), high - 0.01), y[~inside], ">", color=look.color, ms=5)
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.legend(loc="upper right", fontsize=8)
    panel_title(axis, "candidates: lambda* of single positions, by prefix")
