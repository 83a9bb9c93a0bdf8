"""The metric stream of a run record: one line per evaluation, each checksum covering the last.

The chain starts from the run's identity, so an edited, removed, swapped or foreign line is
noticed; a shortened stream is, too, by whoever knows where it ended.
"""

from __future__ import annotations

import json
import operator
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsFloat

import pandas as pd

from opdcliff.errors import RecordError
from opdcliff.records.files import MALFORMED, METRICS, read_bytes
from opdcliff.storage import (
    append_line,
    canonical_json,
    decode_float,
    digest,
    encode_floats,
    write_bytes_atomic,
    writing,
)

_METRIC_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./-]*")
# `step` is the record's own column and `update` is the same number in the W&B mirror.
_RESERVED = frozenset({"step", "update"})

Row = tuple[int, dict[str, float]]


@dataclass(frozen=True)
class Stream:
    """Verified lines of a stream.

    `data` are their bytes and `rows` their (step, metrics). `heads` are the checksums: that of
    the empty stream, then one per line. `torn`: an unterminated line after them was dropped.
    """

    data: bytes
    rows: list[Row]
    heads: list[str]
    torn: bool = False

    def history(self) -> pd.DataFrame:
        """Return int column `step` and one float column per metric, NaN where a line lacks it."""
        names = dict.fromkeys(name for _, metrics in self.rows for name in metrics)
        steps = [step for step, _ in self.rows]
        columns: dict[str, pd.Series[Any]] = {"step": pd.Series(steps, dtype="int64")}
        for name in names:
            values = [metrics.get(name, float("nan")) for _, metrics in self.rows]
            columns[name] = pd.Series(values, dtype="float64")
        return pd.DataFrame(columns)


def read_stream(folder: Path, manifest: Mapping[str, Any]) -> Stream:
    """Read and verify the metric stream of the record that `manifest` describes.

    An unterminated last line (a kill in the middle of a write) is dropped and flagged as `torn`.

    Raises:
        RecordError: any other damage, with the file and the line.
    """
    data = read_bytes(folder / METRICS)
    whole, newline, rest = data.rpartition(b"\n")
    rows: list[Row] = []
    heads = [_genesis(manifest)]
    for number, line in enumerate(whole.split(b"\n") if newline else [], start=1):
        where = f"{folder / METRICS} line {number}"
        rows.append(_decode_line(line, where))
        expected, head = _encode_line(heads[-1], *rows[-1])
        # Comparing bytes, not parsed values: no edit at all passes, harmless ones included.
        if line + b"\n" != expected:
            raise RecordError(f"{where}: checksum mismatch; the file was edited or is damaged")
        heads.append(head)
    return Stream(whole + newline, rows, heads, torn=bool(rest))


def carry_over(
    folder: Path,
    old: Mapping[str, Any] | None,
    resume_step: int | None,
    manifest: Mapping[str, Any],
) -> Stream:
    """Keep the old metrics aside, whole, and return the stream to start from.

    Args:
        folder: the record's folder.
        old: manifest of the attempt before; None when there was none.
        resume_step: keep the lines up to and including this step; None keeps none.
        manifest: that of the attempt that starts.

    Raises:
        RecordError: the old stream is damaged and lines of it are to be kept.
    """
    empty = Stream(b"", [], [_genesis(manifest)])
    path = folder / METRICS
    if old is None or not path.exists():
        return empty
    kept = empty
    if resume_step is not None:
        stream = read_stream(folder, old)
        rows = [row for row in stream.rows if row[0] <= resume_step]
        lines = stream.data.splitlines(keepends=True)[: len(rows)]
        kept = Stream(b"".join(lines), rows, stream.heads[: len(rows) + 1])
    data = read_bytes(path)
    if data != kept.data:
        number = 1 + len(list(folder.glob("metrics.stale-*.jsonl")))
        write_bytes_atomic(folder / f"metrics.stale-{number}.jsonl", data)
    return kept


class StreamWriter:
    """Appends to the stream of a record, after the lines of `stream` that are there already."""

    def __init__(self, folder: Path, stream: Stream) -> None:
        self._folder = folder
        self._head = stream.heads[-1]
        self._lines = len(stream.rows)
        self._step = stream.rows[-1][0] if stream.rows else -1
        with writing(folder / METRICS):
            self._file = os.open(folder / METRICS, os.O_WRONLY | os.O_APPEND)

    def append(self, step: int, metrics: Mapping[str, SupportsFloat]) -> None:
        """Append one line; on return it is on disk.

        Raises:
            RecordError: a step that does not increase, a bad metric name or value, or a disk that
                refuses (the file then holds the lines before this one).
        """
        number = operator.index(step)
        if number <= self._step:
            raise RecordError(f"{self._folder}: step {number} after {self._step}; must increase")
        line, head = _encode_line(self._head, number, _floats(metrics))
        with writing(self._folder / METRICS):
            append_line(self._file, line)
        self._head, self._step, self._lines = head, number, self._lines + 1

    def end(self) -> dict[str, Any]:
        """Return where the stream ends, for the manifest of a closed run."""
        return {"lines": self._lines, "sha256": self._head}

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def _genesis(manifest: Mapping[str, Any]) -> str:
    claim = [manifest[key] for key in ("identity", "seed", "protocol", "name")]
    return digest(claim, "metrics-genesis")


def _encode_line(head: str, step: int, metrics: Mapping[str, float]) -> tuple[bytes, str]:
    values = encode_floats(metrics)
    head = digest([head, step, values], "metrics-line")
    line = canonical_json({"step": step, "metrics": values, "sha256": head})
    return line.encode("ascii") + b"\n", head


def _decode_line(line: bytes, where: str) -> Row:
    try:
        parsed = json.loads(line)
        metrics = {key: decode_float(value) for key, value in parsed["metrics"].items()}
        return operator.index(parsed["step"]), metrics
    except MALFORMED as error:
        raise RecordError(f"{where}: not a metric line; the file is damaged") from error


def _floats(metrics: Mapping[str, SupportsFloat]) -> dict[str, float]:
    values: dict[str, float] = {}
    for name, value in metrics.items():
        if name in _RESERVED or not _METRIC_NAME.fullmatch(name):
            raise RecordError(
                f"metric name {name!r} must be letters, digits and _./- , start with a letter or "
                f"digit, and not be one of {', '.join(sorted(_RESERVED))}"
            )
        if not isinstance(value, SupportsFloat):
            raise RecordError(f"metric {name!r} is {value!r}; log a number")
        values[name] = float(value)
    return values
