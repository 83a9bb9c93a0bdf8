"""Every damage to a metric stream is noticed, and a torn end costs one line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from opdcliff.errors import RecordError
from opdcliff.records.files import METRICS
from opdcliff.records.record import Record, read_record, terminal_status
from opdcliff.records.writer import RunRecord
from record_helpers import CLAIM, write_record

pytestmark = pytest.mark.usefixtures("no_git")


def test_empty_stream(tmp_path: Path) -> None:
    back = read_record(write_record(tmp_path, steps=0))
    assert back.complete
    assert list(back.history.columns) == ["step"]
    assert len(back.history) == 0


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


def _readable(folder: Path) -> Record | None:
    try:
        return read_record(folder)
    except RecordError:
        return None


@pytest.mark.parametrize("status", ["finished", None])
def test_any_flipped_byte_is_noticed(tmp_path: Path, status: str | None) -> None:
    path = write_record(tmp_path, steps=2, status=status) / METRICS
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
            assert status is None
            pd.testing.assert_frame_equal(back.history, before.iloc[: len(back.history)])


def test_an_interrupted_stream_cut_at_any_byte_gives_its_whole_lines(tmp_path: Path) -> None:
    path = write_record(tmp_path, status=None) / METRICS
    good = path.read_bytes()
    before = read_record(tmp_path).history
    for size in range(len(good)):
        path.write_bytes(good[:size])
        back = read_record(tmp_path)
        lines = good[:size].count(b"\n")
        assert list(back.history["step"]) == list(before["step"][:lines])
        assert not back.complete
        assert terminal_status(tmp_path) is None


def test_a_finished_stream_cut_at_any_byte_is_damaged(tmp_path: Path) -> None:
    path = write_record(tmp_path) / METRICS
    good = path.read_bytes()
    for size in range(len(good)):
        path.write_bytes(good[:size])
        lines = good[:size].count(b"\n")
        inside = "" if size == 0 or good[:size].endswith(b"\n") else f"middle of line {lines + 1}"
        said = f"{METRICS} was cut after line {lines}.*{inside}: .* finished and wrote 3 lines; res"
        for read in (read_record, terminal_status):
            with pytest.raises(RecordError, match=said):
                read(tmp_path)


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
    path = write_record(tmp_path) / METRICS
    path.write_bytes(b"".join(edit(path.read_bytes().splitlines(keepends=True))))
    with pytest.raises(RecordError, match=f"{METRICS} line {line}: "):
        read_record(tmp_path)


def test_stream_of_another_run_is_noticed(tmp_path: Path) -> None:
    one, two = write_record(tmp_path / "one"), write_record(tmp_path / "two", seed=4)
    (one / METRICS).write_bytes((two / METRICS).read_bytes())
    with pytest.raises(RecordError, match=f"{METRICS} line 1: checksum mismatch"):
        read_record(one)


def test_lines_after_the_end_are_noticed(tmp_path: Path) -> None:
    short, long = (
        write_record(tmp_path / "short", steps=2),
        write_record(tmp_path / "long", steps=3),
    )
    (short / METRICS).write_bytes((long / METRICS).read_bytes())
    with pytest.raises(RecordError, match=f"{METRICS} line 3: not where the manifest says"):
        read_record(short)
