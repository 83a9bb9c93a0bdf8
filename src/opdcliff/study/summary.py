"""From the records of a study to its tables: cells, onsets, calibration; written and printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console

from opdcliff.calibration import Calibration, Homogeneity, tabulate_distribution
from opdcliff.contract import TokenClass
from opdcliff.models import Prepared, print_filters
from opdcliff.paths import StudyPaths
from opdcliff.records import OUTCOMES, Record, read_record
from opdcliff.settings import RunConfig
from opdcliff.storage import (
    asset_cache,
    encode_floats,
    write_json_atomic,
    write_text_atomic,
)
from opdcliff.study.cells import Cell
from opdcliff.terminal import ARM_KEYS, print_table, print_text, with_intervals
from opdcliff.theory import LEVEL, Onset, bracket_interval, onset_of_seed, t_interval, wilson
from opdcliff.verification import about_runs, seal_tables, view_of_record

# The classes of free text, in rankings and in answers to schemas.
_TEXTS = (TokenClass.TEXT.value, TokenClass.STRING.value)
_UNKNOWN = Onset(np.nan, -np.inf, np.inf)


@dataclass(frozen=True)
class Summary:
    """Tables of a study.

    cells: one row per cell with an outcome; onsets: one row per arm of two or more lambdas.
    calibration: see `Calibration.table`. reference: metrics of teacher and warm start.
    data_report: what loading the data kept and rejected, None for generated data. about: the runs
    and the code that the cells rest on, see `about_runs`. distribution: thresholds of single
    positions, see `tabulate_distribution`. homogeneity: whether lambda* may stand for them.
    """

    cells: pd.DataFrame
    onsets: pd.DataFrame
    calibration: pd.DataFrame
    reference: Mapping[str, Mapping[str, float]]
    data_report: Mapping[str, Any] | None
    identity: str
    about: Mapping[str, Any] = field(default_factory=dict)
    distribution: pd.DataFrame = field(default_factory=pd.DataFrame)
    homogeneity: Homogeneity | None = None


def summarise_study(
    config: RunConfig,
    cells: Sequence[Cell],
    prepared: Prepared,
    paths: StudyPaths,
    calibration: Calibration,
    reference: Mapping[str, Mapping[str, float]],
) -> Summary:
    """Read the records of all cells that have an outcome, and estimate onsets from them."""
    done = [
        (cell, read_record(cell.folder(prepared, paths)))
        for cell in cells
        if cell.status(prepared, paths) in OUTCOMES
    ]
    table = pd.DataFrame([_cell_row(cell, record, calibration) for cell, record in done])
    views = [view_of_record(record) for _, record in done]
    return Summary(
        table,
        onset_table(table, bisected=config.protocol.bisect),
        calibration.table,
        reference,
        asset_cache.manifest(prepared.data)["facts"].get("report"),
        prepared.models_identity,
        about_runs(config.protocol.name, views, None),
        tabulate_distribution(calibration.positions, config.calibration.strengths),
        calibration.homogeneity,
    )


def _cell_row(cell: Cell, record: Record, calibration: Calibration) -> dict[str, Any]:
    # The last evaluation alone: what it could not measure is missing, not older.
    final, config = record.history.iloc[-1].to_dict(), cell.config
    prompts = int(final["eval/prompts"])
    low, high = wilson(round(final["eval/parse_rate"] * prompts), prompts)
    k = config.evaluation.ndcg_k
    # A contract that does not rank has none.
    ndcg = (f"ndcg{k}_parsed", f"ndcg{k}_all")
    binding, strength = calibration.binding, config.clip.strength
    star = np.nan if binding is None or strength is None else binding.lambda_star(strength)
    return {
        "clip": config.clip.name,
        "c": np.nan if strength is None else strength,
        "estimator": config.optim.estimator,
        "warmup": config.lam.warmup_updates,
        "budget": config.optim.updates,
        "lam": cell.lam,
        "lambda_star": star,
        "seed": config.seed,
        "status": record.status,
        "updates": record.manifest["extras"]["last_update"],
        "collapsed_at": record.manifest["extras"]["collapsed_at"],
        "prompts": prompts,
        "parse_rate": final["eval/parse_rate"],
        "parse_lo": low,
        "parse_hi": high,
        **{name: final[f"eval/{name}"] for name in ndcg if f"eval/{name}" in final},
        "truncated": final["eval/truncated_rate"],
        "mean_length": final["eval/mean_length"],
        "tail_ratio": _of_text(final, "train/tail_ratio"),
        "clip_fraction": _of_text(final, "train/clip_fraction"),
        "residual": final.get("train/residual_mean", np.nan),
        "record": record.folder.name,
    }


def _of_text(final: Mapping[Any, Any], name: str) -> float:
    """A metric of the class of free text; NaN where there is none."""
    found = [final[f"{name}/{text}"] for text in _TEXTS if f"{name}/{text}" in final]
    return found[0] if found else np.nan


def onset_table(cells: pd.DataFrame, *, bisected: bool = False) -> pd.DataFrame:
    """Onset per arm: every seed's point, their mean, a t-interval, the bracketing grid cells.

    Arms of a single lambda have no onset. A seed that does not cross the level, or that lacks a
    lambda of its arm, leaves the mean undefined; nothing is averaged around it. Of a bisected arm
    a seed lacks most lambdas, but none between those that it falls between; its interval is that of
    `bracket_interval`.
    """
    rows: list[dict[str, Any]] = []
    if cells.empty:
        return pd.DataFrame(rows)
    for key, arm in cells.groupby(ARM_KEYS, sort=False):
        lambdas = arm.lam.nunique()
        if lambdas < 2:
            continue
        onsets = [
            onset_of_seed(part.lam.tolist(), part.parse_rate.tolist(), LEVEL)
            if len(part) >= (2 if bisected else lambdas)
            else _UNKNOWN
            for _, part in arm.groupby("seed")
        ]
        if bisected:
            onsets = [_known(onset, arm.lam.tolist()) for onset in onsets]
        points = [onset.point for onset in onsets]
        low, high = bracket_interval(onsets) if bisected else t_interval(points)
        mean, star = float(np.mean(points)), float(arm.lambda_star.iloc[0])
        rows.append(
            {
                **dict(zip(ARM_KEYS, key, strict=True)),
                "lambda_star": star,
                "onset": mean,
                "onset_lo": low,
                "onset_hi": high,
                "off_by_percent": 100.0 * (mean / star - 1.0),
                "bracket_lo": min(onset.below for onset in onsets),
                "bracket_hi": max(onset.above for onset in onsets),
                "seeds": len(points),
                "points": " ".join(f"{point:.4f}" for point in points),
            }
        )
    return pd.DataFrame(rows)


def _known(onset: Onset, lams: Sequence[float]) -> Onset:
    """The onset, unless another seed was run between its ends: this one is still to be halved."""
    return _UNKNOWN if any(onset.below < lam < onset.above for lam in lams) else onset


def write_summary(summary: Summary, folder: Path) -> None:
    """Write tables (CSV) and references (JSON)."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("cells", "onsets", "calibration"):
        table: pd.DataFrame = getattr(summary, name)
        write_text_atomic(folder / f"{name}.csv", table.to_csv(index=False, float_format="%.6g"))
    if not summary.distribution.empty:
        text = summary.distribution.to_csv(index=False, float_format="%.6g")
        write_text_atomic(folder / "distribution.csv", text)
    # NDCG of the answers that parsed is NaN where none did.
    write_json_atomic(folder / "references.json", encode_floats(summary.reference))
    if summary.data_report is not None:
        write_json_atomic(folder / "data.json", dict(summary.data_report))
    seal_tables(folder, {**summary.about, "models": summary.identity})


def print_summary(summary: Summary, console: Console) -> None:
    """Print the study's tables."""
    if summary.data_report is not None:
        print_filters(console, summary.data_report)
        report = pd.DataFrame(_flat(summary.data_report), columns=["what", "count"])
        print_table(console, "Data", report)
    models = [
        {"model": name, **{key.removeprefix("eval/"): value for key, value in metrics.items()}}
        for name, metrics in summary.reference.items()
    ]
    reference = pd.DataFrame(models)
    columns = [c for c in reference.columns if not c.startswith("fail/")]
    print_table(console, "Teacher and warm start on the test prompts", reference[columns])
    print_table(
        console,
        "Calibration: p, b and lambda* per token class (95% over prompts)",
        with_intervals(summary.calibration),
    )
    if summary.homogeneity is not None:
        print_text(console, summary.homogeneity.in_words())
    print_table(
        console,
        "Cells (parse rate with its Wilson interval: sampling within one run only)",
        _cell_view(summary.cells),
    )
    print_table(
        console,
        f"Observed onset (parse rate crosses {LEVEL:g}) beside the prediction",
        onset_view(summary.onsets),
    )


def onset_view(onsets: pd.DataFrame) -> pd.DataFrame:
    """The table of onsets for a person: a seed that did not cross has a dash, as elsewhere."""
    if onsets.empty:
        return onsets
    return onsets.assign(points=onsets.points.str.replace("nan", "-"))


def _flat(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in report.items():
        if isinstance(value, Mapping):
            rows += [(f"{key}: {name}", str(count)) for name, count in _flat(value)]
        elif key != "filters":
            # Those have a table of their own.
            rows.append((key, str(value)))
    return rows


def _cell_view(cells: pd.DataFrame) -> pd.DataFrame:
    """The columns worth a look, narrow enough for a line each."""
    if cells.empty:
        return cells
    rates = zip(cells.parse_rate, cells.parse_lo, cells.parse_hi, strict=True)
    view = cells[["clip", "estimator", "lam", "seed", "status", "updates"]].copy()
    view["parse rate [95%]"] = [f"{rate:.3f} [{low:.2f}, {high:.2f}]" for rate, low, high in rates]
    for name in (c for c in cells.columns if c.startswith("ndcg")):
        view[name.replace("_", " ")] = cells[name].round(3)
    short = {
        "truncated": "truncated",
        "mean_length": "length",
        "tail_ratio": "tail ratio",
        "clip_fraction": "clipped",
        "residual": "residual",
    }
    for name, title in short.items():
        view[title] = cells[name].round(4 if name == "clip_fraction" else 2)
    return view
