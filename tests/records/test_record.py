"""Records survive kills and restarts, and say what happened."""

from __future__ import annotations

import math
import platform
import signal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from opdcliff.errors import RecordError
from opdcliff.records.files import CONFIG, METRICS, RUN_MANIFEST
from opdcliff.records.record import (
    OUTCOMES,
    TERMINAL,
    read_record,
    read_runs,
    status_of,
    terminal_status,
)
from opdcliff.records.writer import RunRecord
from record_helpers import CLAIM, CONFIG_VALUES, write_record, writer_process

pytestmark = pytest.mark.usefixtures("no_git")


def test_record_reads_back_as_written(tmp_path: Path) -> None:
    folder = tmp_path / "mini" / "cell"
    record = RunRecord.create(folder, **CLAIM, extras={"device": "cpu", "worst": math.inf})
    record.log(0, {"eval/parse_rate": 0.1, "odd": math.nan})
    record.log(7, {"eval/parse_rate": 1 / 3, "odd": -math.inf, "late": 5e-324})
    assert terminal_status(folder) is None
    record.close("collapsed", "parse rate 0", updates=7)

    back = read_record(folder)
    expected = pd.DataFrame(
        {
            "step": [0, 7],
            "eval/parse_rate": [0.1, 1 / 3],
            "odd": [math.nan, -math.inf],
            "late": [math.nan, 5e-324],
        }
    )
    pd.testing.assert_frame_equal(back.history, expected, check_exact=True)
    assert back.config == CONFIG_VALUES
    assert back.complete
    assert terminal_status(folder) == back.status == "collapsed"
    manifest = back.manifest
    assert {key: manifest[key] for key in ("identity", "seed", "protocol", "name")} == {
        key: CLAIM[key] for key in ("identity", "seed", "protocol", "name")
    }
    assert manifest["reason"] == "parse rate 0"
    assert manifest["extras"] == {"device": "cpu", "worst": "Infinity", "updates": 7}
    assert manifest["start"] <= manifest["end"]
    assert manifest["end"].endswith("+00:00")
    assert manifest["versions"]["opd-cliff"]
    assert manifest["python"] == platform.python_version()
    assert manifest["host_class"].endswith("cpu")


def test_each_line_is_readable_while_the_run_goes_on(tmp_path: Path) -> None:
    with RunRecord.create(tmp_path, **CLAIM) as record:
        for step in range(3):
            record.log(step, {"a": step})
            assert list(read_record(tmp_path).history["a"]) == list(range(step + 1))
            assert read_record(tmp_path).status == "running"
        record.note(fallbacks=1)
        assert read_record(tmp_path).manifest["extras"] == {"fallbacks": 1}


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (ValueError("two\nlines"), "failed", "ValueError: two lines"),
        (KeyboardInterrupt(), "preempted", "KeyboardInterrupt"),
        (SystemExit(3), "preempted", "SystemExit: 3"),
    ],
)
def test_exceptions_close_the_record(
    tmp_path: Path, error: BaseException, status: str, reason: str
) -> None:
    assert status_of(error) == status
    record = RunRecord.create(tmp_path, **CLAIM)
    record.log(0, {"a": 1})
    with pytest.raises(type(error)), record:
        raise error
    back = read_record(tmp_path)
    assert (back.status, back.manifest["reason"], back.complete) == (status, reason, False)
    assert terminal_status(tmp_path) == status


def test_closed_record_takes_nothing_more(tmp_path: Path) -> None:
    with RunRecord.create(tmp_path, **CLAIM) as record:
        with pytest.raises(RecordError, match="status 'running' must be one of"):
            record.close("running")
        record.close("diverged")
        for act in (lambda: record.log(0, {}), lambda: record.close("finished"), record.note):
            with pytest.raises(RecordError, match="closed"):
                act()
    assert read_record(tmp_path).status == "diverged"


def test_read_runs_finds_every_record_and_nothing_else(tmp_path: Path) -> None:
    for name in ("b", "a"):
        write_record(tmp_path / "mini" / name, name=name)
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / RUN_MANIFEST).write_text("{}")
    assert [r.manifest["name"] for r in read_runs(tmp_path)] == ["a", "b"]
    (tmp_path / "mini" / "a" / METRICS).unlink()
    with pytest.raises(RecordError, match=f"cannot read .*{METRICS}"):
        read_runs(tmp_path)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        (RUN_MANIFEST, '"seed": 3', '"seed": 4'),
        (RUN_MANIFEST, '"finished"', '"collapsed"'),
        (RUN_MANIFEST, '"start": "2', '"start": "1'),
        (RUN_MANIFEST, "{", ""),
        (CONFIG, "1.25", "1.3"),
        (CONFIG, "lam:", "lam: ["),
        (CONFIG, "lam:", "lam: " + "[" * 200_000),
        (CONFIG, "lam:", "lambda:"),
    ],
)
def test_edited_manifest_and_config_are_named(
    tmp_path: Path, file: str, old: str, new: str
) -> None:
    path = write_record(tmp_path) / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(RecordError, match=f"{path}: "):
        read_record(tmp_path)


def test_kill_in_the_middle_of_logging(tmp_path: Path) -> None:
    loop = (
        "for step in range(10**9):\n"
        "    record.log(step, {'a': step / 3, 'b': float('nan')})\n"
        "    print(step, flush=True)\n"
    )
    with writer_process(tmp_path, loop) as child:
        assert child.stdout is not None
        for _ in range(20):
            logged = int(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
        child.wait()
        logged = max([logged, *map(int, child.stdout.read().split())])
    back = read_record(tmp_path)
    assert back.status == "running"
    assert not back.complete
    assert terminal_status(tmp_path) is None
    assert len(back.history) >= logged + 1
    assert list(back.history["a"]) == [step / 3 for step in range(len(back.history))]


@pytest.mark.parametrize("status", sorted(OUTCOMES))
@pytest.mark.parametrize("restart", [False, True])
def test_outcomes_are_never_overwritten(tmp_path: Path, status: str, restart: bool) -> None:
    before = (write_record(tmp_path, status=status) / METRICS).read_bytes()
    with pytest.raises(RecordError, match=f"is {status}; outcomes are never overwritten"):
        RunRecord.create(tmp_path, **CLAIM, restart=restart)
    assert (tmp_path / METRICS).read_bytes() == before


@pytest.mark.parametrize("status", [*sorted(TERMINAL - OUTCOMES), None])
def test_restart_keeps_the_old_metrics_aside(tmp_path: Path, status: str | None) -> None:
    path = write_record(tmp_path, status=status) / METRICS
    old = [path.read_bytes()]
    for attempt in (1, 2):
        with pytest.raises(RecordError, match="interrupted run"):
            RunRecord.create(tmp_path, **CLAIM)
        record = RunRecord.create(tmp_path, **CLAIM, restart=True)
        record.log(0, {"a": attempt})
        record.close("failed", "again")
        old.append(path.read_bytes())
    back = read_record(tmp_path)
    assert list(back.history["a"]) == [2]
    kept = [(tmp_path / f"metrics.stale-{n}.jsonl").read_bytes() for n in (1, 2)]
    assert kept == old[:2]
    statuses = [attempt["status"] for attempt in back.manifest["attempts"]]
    assert statuses == [status or "killed", "failed"]


@pytest.mark.parametrize("torn", [0, 5])
def test_resume_gives_the_stream_of_an_uninterrupted_run(tmp_path: Path, torn: int) -> None:
    whole = write_record(tmp_path / "whole")
    folder = write_record(tmp_path / "cut", status="preempted")
    written = (folder / METRICS).read_bytes()
    interrupted = written[: len(written) - torn]
    started = read_record(folder).manifest["start"]
    (folder / METRICS).write_bytes(interrupted)
    record = RunRecord.create(folder, **CLAIM, restart=True, resume_step=10)
    with pytest.raises(RecordError, match="step 10 after 10"):
        record.log(10, {"a": 1})
    record.log(20, {"eval/parse_rate": 1 / 5, "train/kl": -2})
    record.close("finished")
    assert (folder / METRICS).read_bytes() == (whole / METRICS).read_bytes()
    assert (folder / "metrics.stale-1.jsonl").read_bytes() == interrupted
    back = read_record(folder)
    assert back.complete
    assert back.manifest["start"] == started


def test_resume_refuses_a_damaged_stream_and_a_restart_does_not(tmp_path: Path) -> None:
    path = write_record(tmp_path, status="failed") / METRICS
    damaged = path.read_bytes().replace(b"0.25", b"0.75")
    path.write_bytes(damaged)
    with pytest.raises(RecordError, match=f"{METRICS} line 2: checksum"):
        RunRecord.create(tmp_path, **CLAIM, restart=True, resume_step=10)
    RunRecord.create(tmp_path, **CLAIM, restart=True).close("finished")
    assert (tmp_path / "metrics.stale-1.jsonl").read_bytes() == damaged


def test_resume_needs_a_record(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no record to resume at step 10"):
        RunRecord.create(tmp_path, **CLAIM, restart=True, resume_step=10)
    write_record(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"), [("identity", "0" * 64), ("seed", 4), ("protocol", "p"), ("name", "n")]
)
def test_another_run_does_not_restart_here(tmp_path: Path, key: str, value: Any) -> None:
    write_record(tmp_path, status="failed")
    with pytest.raises(RecordError, match=f"holds another run .{key} "):
        RunRecord.create(tmp_path, **CLAIM | {key: value}, restart=True)


@pytest.mark.parametrize(
    "cut",
    [
        "metric_stream.write_bytes_atomic",
        "writer.write_bytes_atomic",
        "files.write_text_atomic",
        "files.write_json_atomic",
    ],
)
def test_kill_during_a_restart_leaves_an_interrupted_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: str
) -> None:
    write_record(tmp_path, status="preempted")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f"opdcliff.records.{cut}", killed)
        with pytest.raises(KeyboardInterrupt):
            RunRecord.create(tmp_path, **CLAIM, restart=True)
    assert not read_record(tmp_path).complete
    write_record(tmp_path, restart=True)
    assert read_record(tmp_path).complete
