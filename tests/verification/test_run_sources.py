"""Reading runs from W&B: the same verdicts as from the records, and every difference reported."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from locked import PROTOCOL, WEIGHTS, make_study, write_run
from opdcliff.errors import InadmissibleError, RecordError
from opdcliff.paths import StudyPaths
from opdcliff.records.record import Record, read_record
from opdcliff.records.tracking import open_tracker
from opdcliff.verification import run_sources
from opdcliff.verification.lock import Lock
from opdcliff.verification.run_sources import Runs, differences, online_history, runs_of
from opdcliff.verification.run_views import (
    UNKNOWN,
    RunView,
    final_of,
    read_table,
    table_of,
    write_table,
)
from opdcliff.verification.verdicts import Outcome
from opdcliff.verification.verification import Integrity, Verification, verify_runs


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Lock]:
    repo = tmp_path_factory.mktemp("study")
    return repo, make_study(repo)


def paths_of(repo: Path) -> StudyPaths:
    return StudyPaths(repo / "runs", repo / "results", repo / "prereg")


def log_of(folder: Path) -> pd.DataFrame:
    """What W&B's log of a run says when it agrees with the record."""
    history = read_record(folder).history.copy()
    history.attrs["finished"] = True
    return history


def checked(repo: Path, source: str) -> tuple[Verification, Runs]:
    runs = runs_of(source, PROTOCOL, paths_of(repo), entity="lab", project="cliff")
    return verify_runs(PROTOCOL, paths_of(repo), runs), runs


# ---- W&B on this machine ----------------------------------------------------------------------


def test_logs_that_agree_give_the_verdicts_of_the_records(
    study: tuple[Path, Lock], monkeypatch: pytest.MonkeyPatch
) -> None:
    repo, _ = study
    monkeypatch.setattr(run_sources, "read_offline_run", log_of)
    mirrored, runs = checked(repo, "wandb")
    assert runs.mismatches == []
    assert mirrored.verdicts == checked(repo, "records")[0].verdicts
    assert mirrored.exit_code == 0


@pytest.mark.parametrize(
    ("column", "value", "part"),
    [
        ("eval/parse_rate", 0.5, "is 0.5 in W&B and 0.05 in the record"),
        ("eval/parse_rate", math.nan, "is nan in W&B and 0.05 in the record"),
        ("eval/more", 1.0, "metric eval/more is only in W&B"),
    ],
)
def test_a_log_that_differs_is_reported_and_never_averaged(
    column: str,
    value: float,
    part: str,
    study: tuple[Path, Lock],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    repo, lock = study
    name = f"fine_grid-1.8-{lock.seeds[1]}"

    def changed(folder: Path) -> pd.DataFrame:
        log = log_of(folder)
        if folder.name == name:
            log.loc[1, column] = value
        return log

    monkeypatch.setattr(run_sources, "read_offline_run", changed)
    found, _ = checked(repo, "wandb")
    assert len(found.mismatches) == 1
    assert part in found.mismatches[0]
    assert found.mismatches[0].startswith(name)
    assert found.exit_code != 0


def test_a_log_that_is_missing_or_has_no_end_is_not_run(
    study: tuple[Path, Lock], monkeypatch: pytest.MonkeyPatch
) -> None:
    repo, lock = study

    def broken(folder: Path) -> pd.DataFrame:
        if folder.name == f"fine_grid-1.8-{lock.seeds[1]}":
            raise RecordError(f"{folder}: no W&B log")
        log = log_of(folder)
        log.attrs["finished"] = folder.name != f"warm_start-1.0-{lock.seeds[2]}"
        return log

    monkeypatch.setattr(run_sources, "read_offline_run", broken)
    found, _ = checked(repo, "wandb")
    assert [verdict.outcome for verdict in found.verdicts] == [Outcome.NOT_RUN] * 2
    assert found.exit_code == 12
    assert str(repo) not in found.mismatches[0]


def test_a_real_log_agrees_with_the_record_it_mirrors(
    study: tuple[Path, Lock], tmp_path: Path
) -> None:
    _, lock = study
    metrics = {"eval/parse_rate": 0.9531, "train/ratio": math.inf, "eval/ndcg1_parsed": math.nan}
    key = ("fine_grid", 1.80, lock.seeds[1])
    folder = write_run(tmp_path, lock, key, metrics)
    record = read_record(folder)
    tracker = open_tracker(
        "offline",
        identity="0",
        project="p",
        group=PROTOCOL,
        job_type="train",
        name="n",
        config=record.config,
        folder=folder,
    )
    tracker.log(0, {"eval/parse_rate": 0.3})
    tracker.log(200, metrics)
    tracker.finish("finished")
    log = run_sources.read_offline_run(folder)
    assert differences(record, log) == []
    assert final_of(log).keys() == final_of(record.history).keys()
    shorter = log.iloc[:1]
    assert "W&B has 1 evaluations and the record 2" in differences(record, shorter)[0]


# ---- W&B online, on recorded answers ------------------------------------------------------------


class RecordedRun:
    """A run as the public API of W&B 0.31 presents it, from answers recorded of it."""

    def __init__(self, record: Record, group: str = PROTOCOL) -> None:
        self.name, self.group, self.state = record.folder.name, group, "finished"
        self.created_at = "2026-06-01T00:00:00Z"
        self.config = {**record.config, "identity": record.manifest["identity"]}
        # The summary keeps the best of what it was told; the verifier must not read metrics here.
        self.summary = {"status": record.status, "eval/parse_rate": 0.99}
        self.rows = [
            {"_step": n, "_timestamp": 1.0 * n, "_runtime": n, "update": row["step"], **rest}
            for n, row in enumerate(record.history.to_dict("records"))
            for rest in [{k: v for k, v in row.items() if k != "step"}]
        ]

    def scan_history(self) -> Iterator[dict[str, Any]]:
        yield from self.rows

    def history(self) -> None:
        raise AssertionError("history() samples; scan_history() is to be used")


class RecordedApi:
    """`wandb.Api` on recorded runs; filters by group as the server does."""

    def __init__(self, runs: list[RecordedRun]) -> None:
        self._runs = runs

    def runs(self, path: str, filters: dict[str, str]) -> list[RecordedRun]:
        assert path == "lab/cliff"
        return [run for run in self._runs if run.group == filters["group"]]


@pytest.fixture
def online(study: tuple[Path, Lock], monkeypatch: pytest.MonkeyPatch) -> list[RecordedRun]:
    """The recorded runs that the server will answer with; tests change them."""
    repo, _ = study
    records, _ = run_sources.read_all(repo / "runs" / PROTOCOL)
    runs = [RecordedRun(record) for record in records]
    runs.append(RecordedRun(records[0], group="another"))
    monkeypatch.setattr(run_sources, "_api", lambda: RecordedApi(runs))
    return runs


def test_online_runs_give_the_verdicts_of_the_records(
    study: tuple[Path, Lock], online: list[RecordedRun]
) -> None:
    repo, _ = study
    found, runs = checked(repo, "wandb_online")
    assert runs.mismatches == []
    assert found.verdicts == checked(repo, "records")[0].verdicts
    assert found.exit_code == 0


def test_an_online_metric_that_differs_from_the_record_is_reported(
    study: tuple[Path, Lock], online: list[RecordedRun]
) -> None:
    online[3].rows[-1]["eval/parse_rate"] = 0.5
    found, _ = checked(study[0], "wandb_online")
    assert len(found.mismatches) == 1
    assert "is 0.5 in W&B" in found.mismatches[0]


def test_online_numbers_that_json_cannot_spell_come_back(online: list[RecordedRun]) -> None:
    online[0].rows[-1] |= {"a": "NaN", "b": "Infinity", "c": None, "d": 3}
    last = online_history(online[0]).iloc[-1]
    assert math.isnan(last.a)
    assert math.isinf(last.b)
    assert math.isnan(last.c)
    assert last.d == 3.0


def test_without_local_records_online_runs_are_unanchored(
    study: tuple[Path, Lock], online: list[RecordedRun], tmp_path: Path
) -> None:
    repo, _ = study
    paths = StudyPaths(tmp_path / "runs", tmp_path / "results", repo / "prereg")
    runs = runs_of("wandb_online", PROTOCOL, paths, entity="lab", project="cliff")
    assert {view.code_commit for view in runs.views} == {UNKNOWN}
    found = verify_runs(PROTOCOL, paths, runs)
    assert found.integrity is Integrity.UNANCHORED
    assert {verdict.outcome for verdict in found.verdicts} == {Outcome.CONFIRMED}
    assert found.exit_code == 11


def test_an_online_run_that_still_goes_on_is_not_run(
    study: tuple[Path, Lock], online: list[RecordedRun]
) -> None:
    for run in online:
        run.state = "running"
    found, _ = checked(study[0], "wandb_online")
    assert {verdict.outcome for verdict in found.verdicts} == {Outcome.NOT_RUN}


def test_an_answer_that_makes_no_sense_is_one_line(
    study: tuple[Path, Lock], online: list[RecordedRun]
) -> None:
    del online[0].config["seed"]
    with pytest.raises(InadmissibleError, match="W&B lab/cliff cannot be read"):
        checked(study[0], "wandb_online")


# ---- the committed table ------------------------------------------------------------------------


def view(**changes: Any) -> RunView:
    about: dict[str, Any] = {
        "name": "run",
        "identity": "ab" * 32,
        "protocol": PROTOCOL,
        "kind": "opd",
        "seed": 3,
        "lam": 1.8168,
        "status": "finished",
        "complete": True,
        "start": "2026-06-01T00:00:00.000+00:00",
        "code_commit": "12" * 20,
        "code_dirty": False,
        "models_sha256": WEIGHTS,
        "stream_sha256": "34" * 32,
        "final": {"eval/parse_rate": 0.1 + 0.2, "train/lam": 1.0},
    }
    return RunView(**about | changes)


def test_a_table_keeps_every_digit_and_who_the_runs_are(tmp_path: Path) -> None:
    views = [view(), view(name="other", seed=4, status="collapsed", final={"eval/parse_rate": 0.0})]
    write_table(tmp_path, table_of(views, {"ab" * 32: "fine_grid"}))
    assert read_table(tmp_path) == views


def test_times_stay_out_of_the_table_and_a_foreign_run_has_no_arm() -> None:
    table = table_of([view(final={"time/update_s": 3.0, "eval/parse_rate": 0.5})], {})
    assert "time/update_s" not in table
    assert table.arm.tolist() == [""]


@pytest.mark.parametrize("text", [None, "", "a,b\n1,2\n", "name,seed\nx,y\n"])
def test_a_table_that_is_none_is_one_line(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "cells.csv").write_text(text)
    with pytest.raises(InadmissibleError, match="is no table of cells"):
        read_table(tmp_path)
