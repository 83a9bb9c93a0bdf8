"""Records survive kills, notice damage, keep secrets out, and have one writer at a time."""

from __future__ import annotations

import json
import logging
import math
import os
import platform
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from opdcliff.errors import RecordError
from opdcliff.records import (
    CONFIG,
    LOCK,
    MANIFEST,
    METRICS,
    OUTCOMES,
    TERMINAL,
    Record,
    RunRecord,
    git_state,
    read_record,
    read_records,
    redact,
    run_identity,
    terminal_status,
)

CONFIG_VALUES = {"lam": {"value": 1.25}, "lr": 1e-5, "name": "no", "grid": [1, 2.0, None]}
CLAIM: dict[str, Any] = {
    "identity": run_identity(CONFIG_VALUES),
    "config": CONFIG_VALUES,
    "seed": 3,
    "protocol": "mini",
    "name": "lam=1.25",
}


@pytest.fixture(autouse=True)
def _quick_provenance(monkeypatch: pytest.MonkeyPatch) -> None:
    """git takes most of the time of a record; the one test that is about it does not use this."""
    monkeypatch.setattr("opdcliff.records._git", lambda *_: None)


def _write(folder: Path, steps: int = 3, status: str | None = "finished", **claim: Any) -> Path:
    record = RunRecord.create(folder, **CLAIM | claim)
    for step in range(steps):
        record.log(step * 10, {"eval/parse_rate": 1 / (step + 3), "train/kl": -step})
    if status is None:
        record._release()
    else:
        record.close(status)
    return folder


@contextmanager
def _child(folder: Path, then: str) -> Iterator[subprocess.Popen[str]]:
    """A process that opens the record, says `open`, and goes on with `then`."""
    script = (
        "import sys, pathlib\n"
        "from opdcliff.records import RunRecord\n"
        f"record = RunRecord.create(pathlib.Path(sys.argv[1]), **{CLAIM!r})\n"
        "print('open', flush=True)\n" + then
    )
    command = [sys.executable, "-c", script, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
        try:
            yield child
        finally:
            child.kill()


# ---- writing and reading ---------------------------------------------------------------------


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
    assert not back.truncated
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


def test_final_is_the_last_line_that_carries_the_metric(tmp_path: Path) -> None:
    with RunRecord.create(tmp_path, **CLAIM) as record:
        record.log(0, {"a": 1.0, "b": 2.0})
        record.log(1, {"b": math.nan})
    back = read_record(tmp_path)
    assert back.final("a") == 1.0
    assert math.isnan(back.final("b"))
    with pytest.raises(RecordError, match="no metric 'c'; recorded: a, b"):
        back.final("c")


def test_empty_stream(tmp_path: Path) -> None:
    back = read_record(_write(tmp_path, steps=0))
    assert back.complete
    assert list(back.history.columns) == ["step"]
    assert len(back.history) == 0


def test_each_line_is_readable_while_the_run_goes_on(tmp_path: Path) -> None:
    with RunRecord.create(tmp_path, **CLAIM) as record:
        for step in range(3):
            record.log(step, {"a": step})
            assert list(read_record(tmp_path).history["a"]) == list(range(step + 1))
            assert read_record(tmp_path).status == "running"
        record.note(fallbacks=1)
        assert read_record(tmp_path).manifest["extras"] == {"fallbacks": 1}


@pytest.mark.parametrize("step", [5, 4, -1])
def test_steps_strictly_increase(tmp_path: Path, step: int) -> None:
    with RunRecord.create(tmp_path, **CLAIM) as record:
        record.log(5, {"a": 1})
        with pytest.raises(RecordError, match=f"step {step} after 5"):
            record.log(step, {"a": 2})
        record.log(6, {"a": 3})
    assert list(read_record(tmp_path).history["step"]) == [5, 6]


@pytest.mark.parametrize(
    "metrics", [{"step": 1}, {"update": 1}, {"_x": 1}, {"": 1}, {"a b": 1}, {"a": "1"}, {"a": None}]
)
def test_bad_metrics_are_refused_and_leave_no_trace(tmp_path: Path, metrics: Any) -> None:
    with RunRecord.create(tmp_path, **CLAIM) as record:
        with pytest.raises(RecordError, match="metric"):
            record.log(0, metrics)
        record.log(0, {"ok": 1})
    assert list(read_record(tmp_path).history.columns) == ["step", "ok"]


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


def test_full_disk_keeps_the_lines_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    with RunRecord.create(tmp_path, **CLAIM) as record:
        record.log(0, {"a": 1})
        full = [True]

        def half(handle: int, data: bytes) -> int:
            if not full:
                return real(handle, data)
            if len(data) < 40:
                full.clear()
                raise OSError(28, "No space left on device")
            return real(handle, data[:-20])

        monkeypatch.setattr(os, "write", half)
        with pytest.raises(RecordError, match=f"cannot write {tmp_path / METRICS}: No space"):
            record.log(1, {"a": 2})
        record.log(1, {"a": 3})
    assert list(read_record(tmp_path).history["a"]) == [1, 3]


def test_read_records_finds_every_record_and_nothing_else(tmp_path: Path) -> None:
    for name in ("b", "a"):
        _write(tmp_path / "mini" / name, name=name)
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / MANIFEST).write_text("{}")
    assert [r.manifest["name"] for r in read_records(tmp_path)] == ["a", "b"]
    (tmp_path / "mini" / "a" / METRICS).unlink()
    with pytest.raises(RecordError, match=f"cannot read .*{METRICS}"):
        read_records(tmp_path)


# ---- damage ----------------------------------------------------------------------------------


def _readable(folder: Path) -> Record | None:
    try:
        return read_record(folder)
    except RecordError:
        return None


@pytest.mark.parametrize("status", ["finished", None])
def test_any_flipped_byte_is_noticed(tmp_path: Path, status: str | None) -> None:
    path = _write(tmp_path, steps=2, status=status) / METRICS
    good = path.read_bytes()
    before = read_record(tmp_path).history
    for place in range(len(good)):
        for mask in (0x01, 0x20, 0x80):
            bad = bytearray(good)
            bad[place] ^= mask
            path.write_bytes(bad)
            back = _readable(tmp_path)
            if back is None:
                continue
            assert back.truncated
            assert not back.complete
            pd.testing.assert_frame_equal(back.history, before.iloc[: len(back.history)])


@pytest.mark.parametrize("status", ["finished", None])
def test_truncation_at_every_byte_gives_the_whole_lines(tmp_path: Path, status: str | None) -> None:
    path = _write(tmp_path, status=status) / METRICS
    good = path.read_bytes()
    before = read_record(tmp_path).history
    for size in range(len(good)):
        path.write_bytes(good[:size])
        back = read_record(tmp_path)
        lines = good[:size].count(b"\n")
        assert list(back.history["step"]) == list(before["step"][:lines])
        # Only a closed record can tell that whole lines are gone from its end.
        torn = not good[:size].endswith(b"\n") and size > 0
        assert back.truncated == (status is not None or torn)
        assert not back.complete
        assert terminal_status(tmp_path) is None


def _swap(lines: list[bytes]) -> list[bytes]:
    return [lines[0], lines[2], lines[1]]


@pytest.mark.parametrize(
    ("edit", "line"),
    [
        (lambda lines: lines[1:], 1),
        (lambda lines: [lines[0], lines[2]], 2),
        (_swap, 2),
        (lambda lines: [*lines, lines[2]], 4),
        (lambda lines: [lines[0], b"\n", *lines[1:]], 2),
        (lambda lines: [lines[0].replace(b":", b": ", 1), *lines[1:]], 1),
        (lambda lines: [lines[0], b"[" * 100_000 + b"\n"], 2),
        (lambda lines: [b'{"metrics":{"a":NaN},"sha256":"","step":0}\n'], 1),
        (lambda lines: [b'{"metrics":{"a":' + b"9" * 999 + b'},"sha256":"","step":0}\n'], 1),
        (lambda lines: [lines[0], b"\xff\n"], 2),
    ],
)
def test_edited_lines_are_named(tmp_path: Path, edit: Any, line: int) -> None:
    path = _write(tmp_path) / METRICS
    path.write_bytes(b"".join(edit(path.read_bytes().splitlines(keepends=True))))
    with pytest.raises(RecordError, match=f"{METRICS} line {line}: "):
        read_record(tmp_path)


def test_stream_of_another_run_is_noticed(tmp_path: Path) -> None:
    one, two = _write(tmp_path / "one"), _write(tmp_path / "two", seed=4)
    (one / METRICS).write_bytes((two / METRICS).read_bytes())
    with pytest.raises(RecordError, match=f"{METRICS} line 1: checksum mismatch"):
        read_record(one)


def test_lines_after_the_end_are_noticed(tmp_path: Path) -> None:
    short, long = _write(tmp_path / "short", steps=2), _write(tmp_path / "long", steps=3)
    (short / METRICS).write_bytes((long / METRICS).read_bytes())
    with pytest.raises(RecordError, match=f"{METRICS} line 3: not where the manifest says"):
        read_record(short)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        (MANIFEST, '"seed": 3', '"seed": 4'),
        (MANIFEST, '"finished"', '"collapsed"'),
        (MANIFEST, '"start": "2', '"start": "1'),
        (MANIFEST, "{", ""),
        (CONFIG, "1.25", "1.3"),
        (CONFIG, "lam:", "lam: ["),
        (CONFIG, "lam:", "lambda:"),
    ],
)
def test_edited_manifest_and_config_are_named(
    tmp_path: Path, file: str, old: str, new: str
) -> None:
    path = _write(tmp_path) / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(RecordError, match=f"{path}: "):
        read_record(tmp_path)


# ---- kills and locks -------------------------------------------------------------------------


def test_kill_in_the_middle_of_logging(tmp_path: Path) -> None:
    loop = (
        "for step in range(10**9):\n"
        "    record.log(step, {'a': step / 3, 'b': float('nan')})\n"
        "    print(step, flush=True)\n"
    )
    with _child(tmp_path, loop) as child:
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


def test_stale_lock_of_a_killed_process_is_taken_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with _child(tmp_path, "import time; time.sleep(99)"):
        pass
    pid = json.loads((tmp_path / LOCK).read_text())["pid"]
    with pytest.raises(RecordError, match=r"interrupted run \(status running, no live owner"):
        RunRecord.create(tmp_path, **CLAIM)
    with caplog.at_level(logging.WARNING):
        RunRecord.create(tmp_path, **CLAIM, restart=True).close("finished")
    assert f"stale lock of dead process {pid}" in caplog.text
    (attempt,) = read_record(tmp_path).manifest["attempts"]
    assert attempt["status"] == "killed"


def test_second_process_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    then = (
        "import os, time\n"
        "record.log(0, {'a': 1})\n"
        "while not os.path.exists(sys.argv[1] + '/go'): time.sleep(0.01)\n"
        "record.log(1, {'a': 2})\n"
        "record.close('finished')\n"
    )
    with _child(tmp_path, then) as child:
        for restart in (False, True):
            with pytest.raises(RecordError, match=f"in use by process {child.pid} since 20"):
                RunRecord.create(tmp_path, **CLAIM, restart=restart)
        (tmp_path / "go").touch()
        assert child.wait() == 0
    assert list(read_record(tmp_path).history["a"]) == [1, 2]


def test_second_writer_in_the_same_process_is_refused(tmp_path: Path) -> None:
    refused = pytest.raises(RecordError, match=f"in use by process {os.getpid()}")
    with RunRecord.create(tmp_path, **CLAIM), refused:
        RunRecord.create(tmp_path, **CLAIM, restart=True)
    assert (tmp_path / LOCK).read_bytes() == b""


# ---- restarts --------------------------------------------------------------------------------


@pytest.mark.parametrize("status", sorted(OUTCOMES))
@pytest.mark.parametrize("restart", [False, True])
def test_outcomes_are_never_overwritten(tmp_path: Path, status: str, restart: bool) -> None:
    before = (_write(tmp_path, status=status) / METRICS).read_bytes()
    with pytest.raises(RecordError, match=f"is {status}; outcomes are never overwritten"):
        RunRecord.create(tmp_path, **CLAIM, restart=restart)
    assert (tmp_path / METRICS).read_bytes() == before


@pytest.mark.parametrize("status", [*sorted(TERMINAL - OUTCOMES), None])
def test_restart_keeps_the_old_metrics_aside(tmp_path: Path, status: str | None) -> None:
    path = _write(tmp_path, status=status) / METRICS
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


def test_resume_gives_the_stream_of_an_uninterrupted_run(tmp_path: Path) -> None:
    whole = _write(tmp_path / "whole")
    folder = _write(tmp_path / "cut", status="preempted")
    interrupted = (folder / METRICS).read_bytes()
    started = read_record(folder).manifest["start"]
    (folder / METRICS).write_bytes(interrupted[:-5])
    record = RunRecord.create(folder, **CLAIM, restart=True, resume_step=10)
    with pytest.raises(RecordError, match="step 10 after 10"):
        record.log(10, {"a": 1})
    record.log(20, {"eval/parse_rate": 1 / 5, "train/kl": -2})
    record.close("finished")
    assert (folder / METRICS).read_bytes() == (whole / METRICS).read_bytes()
    assert (folder / "metrics.stale-1.jsonl").read_bytes() == interrupted[:-5]
    back = read_record(folder)
    assert back.complete
    assert back.manifest["start"] == started


def test_resume_refuses_a_damaged_stream_and_a_restart_does_not(tmp_path: Path) -> None:
    path = _write(tmp_path, status="failed") / METRICS
    damaged = path.read_bytes().replace(b"0.25", b"0.75")
    path.write_bytes(damaged)
    with pytest.raises(RecordError, match=f"{METRICS} line 2: checksum"):
        RunRecord.create(tmp_path, **CLAIM, restart=True, resume_step=10)
    RunRecord.create(tmp_path, **CLAIM, restart=True).close("finished")
    assert (tmp_path / "metrics.stale-1.jsonl").read_bytes() == damaged


def test_resume_needs_a_record(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no record to resume at step 10"):
        RunRecord.create(tmp_path, **CLAIM, restart=True, resume_step=10)
    _write(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"), [("identity", "0" * 64), ("seed", 4), ("protocol", "p"), ("name", "n")]
)
def test_another_run_does_not_restart_here(tmp_path: Path, key: str, value: Any) -> None:
    _write(tmp_path, status="failed")
    with pytest.raises(RecordError, match=f"holds another run .{key} "):
        RunRecord.create(tmp_path, **CLAIM | {key: value}, restart=True)


@pytest.mark.parametrize("cut", ["write_bytes_atomic", "write_text_atomic", "write_json_atomic"])
def test_kill_during_a_restart_leaves_an_interrupted_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: str
) -> None:
    _write(tmp_path, status="preempted")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f"opdcliff.records.{cut}", killed)
        with pytest.raises(KeyboardInterrupt):
            RunRecord.create(tmp_path, **CLAIM, restart=True)
    assert not read_record(tmp_path).complete
    _write(tmp_path, restart=True)
    assert read_record(tmp_path).complete


# ---- secrets and provenance ------------------------------------------------------------------

SECRET = "s3cr3t-value-0123456789"


SECRET_NAMES = """
    api_key apiKey WANDB_API_KEY token hf_token HF_TOKEN authToken password db-password secret
    client_secret aws_secret_access_key ssh.private_key credentials
"""
PLAIN_NAMES = """
    max_new_tokens tokens tokenizer token_class pad_token eos_token eos_token_id per_token
    key keys sort_key monkey passes
"""


@pytest.mark.parametrize("key", SECRET_NAMES.split())
def test_secret_names(key: str) -> None:
    assert redact({key: SECRET}) == {key: "***"}
    assert redact({"a": [{key: {"x": 1}}]}) == {"a": [{key: "***"}]}
    assert redact({key: None}) == {key: None}


@pytest.mark.parametrize("key", PLAIN_NAMES.split())
def test_names_that_only_look_like_secrets(key: str) -> None:
    assert redact({key: "plain", "nested": {key: 64}}) == {key: "plain", "nested": {key: 64}}


def test_redact_leaves_its_argument_and_the_identity_alone() -> None:
    config = {"wandb": {"api_key": SECRET}, "lam": 1.0}
    redact(config)
    assert config == {"wandb": {"api_key": SECRET}, "lam": 1.0}
    assert run_identity({"b": 1, "a": 2.0}) == run_identity({"a": 2.0, "b": 1})
    assert run_identity({"a": 2.0}) != run_identity({"a": 2})


def test_no_secret_reaches_any_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "node", lambda: "distinctive-host")
    monkeypatch.setattr(socket, "gethostname", lambda: "distinctive-host")
    monkeypatch.setenv("SOME_SERVICE_TOKEN", "environment-" + SECRET)
    monkeypatch.setenv("HARMLESS", "harmless-value-0123456789")
    config = {"api_key": SECRET, "url": f"https://u:environment-{SECRET}@host", "lam": 1.0}
    record = RunRecord.create(tmp_path, **CLAIM | {"config": config}, extras={"password": SECRET})
    record.note(hf_token=SECRET)
    record.close("failed", f"401 for environment-{SECRET}", header=f"x environment-{SECRET}")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 4
    for path in files:
        text = path.read_text()
        assert SECRET not in text
        assert "harmless-value" not in text
        assert "distinctive-host" not in text
    assert read_record(tmp_path).config["url"] == "https://u:***@host"
    assert read_record(tmp_path).manifest["reason"] == "401 for ***"


def test_git_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert git_state(tmp_path) == ("unknown", True)
    assert git_state(tmp_path / "missing") == ("unknown", True)
    for arguments in (
        ["init", "-q"],
        ["-c", "user.name=n", "-c", "user.email=e", "commit", "-q", "--allow-empty", "-m", "m"],
    ):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True)
    commit, dirty = git_state(tmp_path)
    assert len(commit) == 40
    assert not dirty
    (tmp_path / "sub").mkdir()
    assert git_state(tmp_path / "sub") == ("unknown", True)
    (tmp_path / "sub" / "new.py").touch()
    assert git_state(tmp_path) == (commit, True)
    monkeypatch.setenv("PATH", "")
    assert git_state(tmp_path) == ("unknown", True)
