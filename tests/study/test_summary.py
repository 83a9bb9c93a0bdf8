"""From records to tables: rows, onsets, files and what is printed."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

import markov
from built import ensure
from grid_frames import CLIFF, calibration, cells
from opdcliff.calibration.class_masses import Binding, Calibration
from opdcliff.models.prepare import Prepared
from opdcliff.paths import StudyPaths
from opdcliff.records import read_record
from opdcliff.records.writer import RunRecord
from opdcliff.report.drawing.cliff import draw_study
from opdcliff.settings.schema import RunConfig
from opdcliff.study.cells import Cell
from opdcliff.study.summary import (
    Summary,
    onset_table,
    print_summary,
    summarise_study,
    write_summary,
)
from opdcliff.theory.onset import onset_of_seed, t_interval, wilson
from opdcliff.theory.threshold import lambda_star

REFERENCE = {
    "teacher": {"eval/parse_rate": 0.97, "eval/ndcg1_parsed": 0.9, "eval/fail/type": 0.01},
    "warm_start": {"eval/parse_rate": 0.0, "eval/ndcg1_parsed": math.nan, "eval/fail/type": 0.2},
}
REPORT = {"rows": 12, "rejected": {"short": 3, "no title": 4}}


def summary(**changes: Any) -> Summary:
    table = changes.pop("cells", cells(CLIFF))
    values: dict[str, Any] = {
        "cells": table,
        "onsets": onset_table(table),
        "calibration": calibration(),
        "reference": REFERENCE,
        "data_report": REPORT,
        "identity": "0123456789abcdef" * 4,
    }
    return Summary(**values | changes)


# ---- onsets ---------------------------------------------------------------------------------


def test_an_onset_is_the_mean_over_seeds() -> None:
    table = cells(CLIFF)
    onsets = onset_table(table).set_index("clip")
    # One lambda is no grid: the arm without a clip has no onset.
    assert list(onsets.index) == ["c5", "c2"]
    for clip, row in onsets.iterrows():
        arm = table[table["clip"] == clip]
        points = [
            onset_of_seed(part.lam.tolist(), part.parse_rate.tolist(), 0.5).point
            for _, part in arm.groupby("seed")
        ]
        assert len(set(points)) == 3
        assert row.onset == pytest.approx(np.mean(points))
        assert (row.onset_lo, row.onset_hi) == pytest.approx(t_interval(points))
        assert row.points == " ".join(f"{point:.4f}" for point in points)
        assert row.seeds == 3
        assert row.off_by_percent == pytest.approx(100 * (np.mean(points) / row.lambda_star - 1))
    assert (onsets.bracket_lo["c5"], onsets.bracket_hi["c5"]) == (1.7, 1.9)


def test_a_seed_that_does_not_cross_leaves_the_mean_undefined() -> None:
    table = cells({"c5": CLIFF["c5"]})
    table.loc[table.seed == 1, "parse_rate"] = 0.9
    row = onset_table(table).iloc[0]
    assert all(math.isnan(row[name]) for name in ("onset", "onset_lo", "onset_hi"))
    assert math.isnan(row.off_by_percent)
    assert (row.bracket_lo, row.bracket_hi) == (1.7, math.inf)
    assert row.points.split()[1] == "nan"
    assert row.points.count("nan") == 1


@pytest.mark.parametrize("missing", [1, 3])
def test_a_seed_that_lacks_cells_leaves_the_mean_undefined(missing: int) -> None:
    table = cells({"c5": CLIFF["c5"]})
    lacking = table.index[table.seed == 2][:missing]
    row = onset_table(table.drop(index=lacking)).iloc[0]
    assert row.points.split()[2] == "nan"
    assert math.isnan(row.onset)
    assert (row.seeds, row.bracket_hi) == (3, math.inf)


def test_arms_differ_by_clip_estimator_warm_up_and_budget() -> None:
    plain = cells({"c5": CLIFF["c5"]})
    # The budget of an arm, not the updates of a run: that of a collapsed one is shorter.
    plain.loc[0, "updates"] = 120
    changes: list[dict[str, Any]] = [{}, {"estimator": "full"}, {"warmup": 0}, {"budget": 320}]
    arms = [plain.assign(**change) for change in changes]
    onsets = onset_table(pd.concat(arms, ignore_index=True))
    assert onsets[["clip", "estimator", "warmup", "budget"]].to_numpy().tolist() == [
        ["c5", "sampled", 80, 160],
        ["c5", "full", 80, 160],
        ["c5", "sampled", 0, 160],
        ["c5", "sampled", 80, 320],
    ]


def test_no_cells_have_no_onsets() -> None:
    assert onset_table(pd.DataFrame()).empty


# ---- records --------------------------------------------------------------------------------


@pytest.fixture
def paths(tmp_path: Path) -> StudyPaths:
    return StudyPaths(tmp_path / "runs", tmp_path / "results")


@pytest.fixture
def prepared(paths: StudyPaths) -> Prepared:
    facts = {"digest": "d", "report": REPORT}
    data = ensure(paths, "data", {"name": "made up"}, lambda folder: facts)
    return Prepared(data, data, "ab" * 32)


def record(
    cell: Cell, prepared: Prepared, paths: StudyPaths, status: str | None, **changes: float
) -> None:
    """The record of a run of two evaluations; `status` None leaves it running."""
    metrics = {
        "eval/prompts": 64.0,
        "eval/parse_rate": 0.9,
        "eval/ndcg1_parsed": 0.8,
        "eval/ndcg1_all": 0.7,
        "eval/truncated_rate": 0.05,
        "eval/mean_length": 31.0,
        "train/residual_mean": -0.02,
    }
    last = metrics | {"eval/prompts": 256.0, "train/clip_fraction/text": 0.03} | changes
    made = RunRecord.create(
        cell.folder(prepared, paths),
        identity=cell.identity(prepared),
        config={},
        seed=cell.config.seed,
        protocol=cell.protocol,
        name=cell.name,
    )
    made.log(0, metrics | {"train/beyond_zc": 0.5, "train/tail_ratio/text": 99.0})
    made.log(40, last)
    if status is None:
        made._release()
    else:
        collapsed_at = 40 if status == "collapsed" else None
        made.close(status, None, last_update=40, collapsed_at=collapsed_at)


def grid(config: RunConfig, lams: list[float]) -> list[Cell]:
    return [Cell(config, lam, "quick") for lam in lams]


def test_rows_come_from_the_last_line_of_finished_records(
    prepared: Prepared, paths: StudyPaths
) -> None:
    config = markov.config("clip=c5", "seed=3", "optim.updates=90")
    done = grid(config, [1.2, 1.5, 1.8, 2.0, 2.2, 2.4])
    measured = {"eval/parse_rate": 61 / 256, "train/tail_ratio/text": 1.7}
    record(done[0], prepared, paths, "finished", **measured)
    record(done[1], prepared, paths, "collapsed", **{"eval/parse_rate": 0.0})
    record(done[2], prepared, paths, "diverged")
    record(done[3], prepared, paths, "failed")
    record(done[4], prepared, paths, None)
    binding = Binding("text", "0-27", 0.9, 0.5)
    made = summarise_study(
        config, done, prepared, paths, Calibration(calibration(), binding), REFERENCE
    )
    assert made.cells.lam.tolist() == [1.2, 1.5, 1.8]
    assert made.cells.status.tolist() == ["finished", "collapsed", "diverged"]
    row = made.cells.iloc[0]
    assert row.prompts == 256
    assert row.parse_rate == 61 / 256
    assert (row.parse_lo, row.parse_hi) == pytest.approx(wilson(61, 256))
    assert row.lambda_star == pytest.approx(lambda_star(0.9, 0.5, 5.0))
    assert (row["clip"], row.c, row.seed, row.budget, row.updates) == ("c5", 5.0, 3, 90, 40)
    assert (row.tail_ratio, row.clip_fraction, row.residual) == (1.7, 0.03, -0.02)
    # What the last evaluation did not measure is missing.
    assert math.isnan(made.cells.tail_ratio[1])
    assert row.record == done[0].folder(prepared, paths).name
    assert made.cells.collapsed_at.tolist()[1] == 40
    assert made.cells.collapsed_at.isna().tolist() == [True, False, True]
    assert made.data_report == REPORT
    assert made.identity == prepared.models_identity
    # The code that ran the cells, which may be older than the one that writes their table.
    assert made.about["runs"] == 3
    assert made.about["code_commits"] == sorted(
        {
            str(read_record(cell.folder(prepared, paths)).manifest["code_commit"])
            for cell in done[:3]
        }
    )


def test_a_run_without_a_clip_has_no_threshold(prepared: Prepared, paths: StudyPaths) -> None:
    config = markov.config("clip=none_", "lam.value=1.5")
    (cell,) = grid(config, [1.5])
    record(cell, prepared, paths, "finished")
    binding = Binding("text", "0-27", 0.9, 0.5)
    for found in (binding, None):
        made = summarise_study(
            config, [cell], prepared, paths, Calibration(calibration(), found), REFERENCE
        )
        assert made.cells[["c", "lambda_star"]].isna().all(axis=None)


# ---- files ----------------------------------------------------------------------------------


def test_written_tables_are_the_tables(tmp_path: Path) -> None:
    made = summary()
    write_summary(made, tmp_path / "deep" / "folder")
    draw_study(made, tmp_path / "deep" / "folder")
    folder = tmp_path / "deep" / "folder"
    for name in ("cells", "onsets", "calibration"):
        table = pd.read_csv(folder / f"{name}.csv")
        pd.testing.assert_frame_equal(
            table, getattr(made, name).reset_index(drop=True), rtol=1e-5, check_dtype=False
        )
    references = json.loads((folder / "references.json").read_text())
    assert references["teacher"] == REFERENCE["teacher"]
    assert references["warm_start"]["eval/ndcg1_parsed"] == "NaN"
    assert json.loads((folder / "data.json").read_text()) == REPORT
    assert "models 0123456789ab, 27 cells" in (folder / "cliff.svg").read_text()


def test_writing_again_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("first", "second", "second"):
        write_summary(summary(), tmp_path / name)
        draw_study(summary(), tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert len(files) == 9
    for name in files:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_a_study_without_outcomes_writes_what_there_is(tmp_path: Path) -> None:
    nothing = summary(cells=pd.DataFrame(), data_report=None)
    write_summary(nothing, tmp_path)
    draw_study(nothing, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("cells.csv", "onsets.csv", "calibration.csv", "references.json"),
        "provenance.json",
    }


# ---- print ----------------------------------------------------------------------------------

TITLES = ("Data", "Teacher and warm start", "Calibration", "Cells", "Observed onset")


def printed(made: Summary, width: int) -> str:
    out = io.StringIO()
    print_summary(made, Console(file=out, width=width))
    return out.getvalue()


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_all_tables_are_printed_at_any_width(width: int) -> None:
    text = " ".join(printed(summary(), width).split())
    assert [title for title in TITLES if title not in text] == []


def test_printed_tables_hold_the_numbers() -> None:
    endless = {f"lambda_star_c2{end}": math.inf for end in ("", "_lo", "_hi")}
    text = printed(summary(calibration=calibration(**endless)), 400)
    for piece in (
        *("no title", "warm_start", "0.97", "1.8000 [1.7500, 1.8600]", "<- binding"),
        *("inf [inf, inf]", "[0.90, 1.00]", "collapsed", "1.809", "1.8143 1.8086 1.8029"),
    ):
        assert piece in text, piece
    # A missing value is a dash, and failure codes are in the file only.
    assert "nan" not in text
    assert "fail/" not in text
    assert "eval/" not in text


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("left", ["one cell", "one seed", "all collapsed", "none collapsed"])
def test_a_study_of_which_little_is_there_is_written_printed_and_drawn(
    left: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = cells(CLIFF)
    if left == "one cell":
        table = table.iloc[:1]
    elif left == "one seed":
        table = table[table.seed == 0]
    elif left == "all collapsed":
        table = table.assign(parse_rate=0.0, parse_lo=0.0, parse_hi=0.01, ndcg1_parsed=math.nan)
    else:
        table = table.assign(parse_rate=1.0)
    made = summary(cells=table, onsets=onset_table(table))
    write_summary(made, tmp_path)
    assert "nan" not in printed(made, 400)
    draw_study(made, tmp_path)
    assert (tmp_path / "cliff.svg").is_file()
    assert caplog.messages == []


def test_a_seed_that_does_not_cross_is_printed_as_a_dash() -> None:
    table = cells({"c5": CLIFF["c5"]})
    table.loc[table.seed == 1, "parse_rate"] = 0.9
    text = printed(summary(cells=table, onsets=onset_table(table)), 400)
    assert "nan" not in text
    assert "1.8143 - 1.8029" in text


def test_a_study_without_outcomes_is_printed() -> None:
    text = printed(summary(cells=pd.DataFrame(), data_report=None), 80)
    assert [title for title in TITLES[1:] if title not in text] == []


def test_a_picture_that_fails_is_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no\nfont")

    monkeypatch.setattr("opdcliff.report.drawing.style.save", fail)
    draw_study(summary(), tmp_path)
    assert caplog.messages == [
        "cliff.png could not be drawn (RuntimeError: no font); its tables are written"
    ]
