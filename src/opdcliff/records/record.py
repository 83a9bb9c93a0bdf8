"""Run records: the checked truth about what was run and measured.

A record is a folder:

    config.yaml     the resolved config, secrets replaced by ***
    manifest.json   identity, code, versions, seed, host class, start, end, status; sealed
    metrics.jsonl   one line per evaluation, fsynced, each checksum covering the one before it
    run.lock        held by the process that writes; released by the kernel however it dies

The checksum chain starts from the run's identity, so an edited, removed, swapped or foreign line
is noticed; the manifest of a closed run holds the chain's end, so a shortened file is, too.
These checks find accidents and careless edits. The lock's git anchor guards against forgery.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, SupportsFloat

import pandas as pd

from opdcliff.errors import PreemptedError, RecordError
from opdcliff.paths import refuse_links
from opdcliff.records.files import (
    METRICS,
    RUN_LOCK,
    RUN_MANIFEST,
    config_digest,
    read_config,
    read_manifest,
    write_config,
    write_manifest,
)
from opdcliff.records.metric_stream import Stream, StreamWriter, carry_over, read_stream
from opdcliff.records.run_lock import acquire, release
from opdcliff.storage import (
    digest,
    encode_floats,
    now,
    redact,
    redact_text,
    run_provenance,
    write_bytes_atomic,
    writing,
)

# An outcome: data, never overwritten. The other terminal statuses are interruptions.
OUTCOMES = frozenset({"finished", "collapsed", "diverged"})
PREEMPTED = "preempted"
TERMINAL = OUTCOMES | {PREEMPTED, "failed"}


def run_identity(scientific_config: Mapping[str, Any]) -> str:
    """Return the sha256 identity of a run (64 hex digits); the caller passes only the science.

    Raises:
        ConfigError: the config holds NaN or something JSON has no form for.
    """
    return digest(scientific_config, "run-identity")


def status_of(error: BaseException) -> str:
    """Return the terminal status of a run that `error` ended: preempted or failed.

    Preempted are KeyboardInterrupt, SystemExit and PreemptedError: somebody stopped the run,
    nothing broke.
    """
    stopped = isinstance(error, KeyboardInterrupt | SystemExit | PreemptedError)
    return PREEMPTED if stopped else "failed"


@dataclass(frozen=True)
class Record:
    """One run record, verified.

    `history` has the int column `step` and one float column per metric, NaN where a line lacks
    it; `final` tells a missing metric from a NaN. `truncated`: the metric stream ends early.
    `complete`: the status is an outcome (finished, collapsed, diverged) and nothing is missing.
    """

    folder: Path
    manifest: dict[str, Any]
    config: dict[str, Any]
    history: pd.DataFrame
    last: dict[str, float]
    truncated: bool

    @property
    def status(self) -> str:
        """One of running, finished, collapsed, diverged, preempted, failed."""
        return str(self.manifest["status"])

    @property
    def complete(self) -> bool:
        """Whether the record may stand for its cell in an analysis."""
        return self.status in OUTCOMES and not self.truncated

    def final(self, metric: str) -> float:
        """Return the metric on the last line that carries it; a NaN there stays NaN.

        Raises:
            RecordError: no line carries it.
        """
        if metric not in self.last:
            known = ", ".join(sorted(self.last)) or "none"
            raise RecordError(f"{self.folder}: no metric {metric!r}; recorded: {known}")
        return self.last[metric]


def read_record(folder: Path) -> Record:
    """Read and verify one record.

    An unterminated last line (a kill in the middle of a write) is dropped and flagged, and so are
    lines that a closed run had and the file no longer has.

    Raises:
        RecordError: any other damage, with the file and the line.
    """
    manifest = read_manifest(folder)
    config = read_config(folder, manifest)
    stream = read_stream(folder, manifest)
    truncated = stream.torn
    end = manifest["metrics"]
    if end is not None and len(stream.rows) < end["lines"]:
        truncated = True
    elif end is not None and stream.heads[-1] != end["sha256"]:
        raise RecordError(
            f"{folder / METRICS} line {len(stream.rows)}: not where the manifest says it ends"
        )
    return Record(folder, manifest, config, stream.history(), stream.last(), truncated)


def read_runs(root: Path | str) -> list[Record]:
    """Every record under `root`, in the order of their folders, each checked.

        for run in opdcliff.read_runs("runs/grid"):
            print(run.status, run.config["resolved_lam"], run.history["eval/parse_rate"].iloc[-1])

    Raises:
        RecordError: one of them is damaged.
    """
    records = []
    for found in walk_records(Path(root)):
        if isinstance(found, RecordError):
            raise found
        records.append(found)
    return records


def walk_records(root: Path) -> Iterator[Record | RecordError]:
    """The records under `root` by folder, an error in place of a damaged one."""
    for path in sorted(path.parent for path in root.rglob(RUN_MANIFEST)):
        if not ((path / METRICS).exists() or (path / RUN_LOCK).exists()):
            continue
        try:
            yield read_record(path)
        except RecordError as error:
            yield error


def terminal_status(folder: Path) -> str | None:
    """Return finished, collapsed, diverged, preempted or failed; None without such an end.

    None covers no record, one still running or killed, and a truncated outcome.

    Raises:
        RecordError: the record is damaged.
    """
    if not (folder / RUN_MANIFEST).exists():
        return None
    status = str(read_manifest(folder)["status"])
    if status not in OUTCOMES:
        # No more is read: a restart that was killed may leave its config beside the manifest of
        # before, and the next one repairs that.
        return status if status in TERMINAL else None
    record = read_record(folder)
    return None if record.truncated else record.status


class RunRecord:
    """The one writer of a run's record; use as a context manager.

    Leaving the `with` block closes the record: finished, or on an exception its `status_of`, with
    its one-line text as the reason.
    """

    def __init__(self, folder: Path, lock: int, manifest: dict[str, Any], stream: Stream) -> None:
        self.folder = folder
        self._lock: int | None = lock
        self._manifest = manifest
        self._metrics = StreamWriter(folder, stream)

    @property
    def commit(self) -> str:
        """The commit of the code that runs."""
        return str(self._manifest["code_commit"])

    @classmethod
    def create(
        cls,
        folder: Path,
        *,
        identity: str,
        config: Mapping[str, Any],
        seed: int,
        protocol: str,
        name: str,
        extras: Mapping[str, Any] | None = None,
        restart: bool = False,
        resume_step: int | None = None,
    ) -> Self:
        """Open the record of a new run, or with `restart` of one that did not come to an outcome.

        Args:
            folder: the record's folder, made when missing.
            identity: `run_identity` of the scientific config.
            config: resolved config; secrets are redacted on writing.
            extras: free JSON values kept in the manifest.
            restart: allow an interrupted record; its metrics are kept as metrics.stale-N.jsonl.
            resume_step: with `restart`, carry over the metric lines up to and including this
                step (that of the checkpoint); None starts an empty stream.

        Raises:
            RecordError: another process writes here, the run already has an outcome, an
                interrupted record without `restart`, or one of another run.
            ConfigError: a config or extras that JSON has no form for.
        """
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        refuse_links(folder)
        lock, stale = acquire(folder / RUN_LOCK)
        try:
            claim = {"identity": identity, "seed": seed, "protocol": protocol, "name": name}
            old = _restartable(folder, claim, restart, resume_step)
            plain = redact(config)
            manifest = {
                **claim,
                **run_provenance(),
                "status": "running",
                "reason": None,
                "end": None,
                "metrics": None,
                "config_sha256": config_digest(plain),
                "attempts": _attempts(old, stale),
                "extras": redact(encode_floats(extras or {})),
            }
            if old is not None and resume_step is not None:
                manifest["start"] = old["start"]
            # In this order a kill at any point leaves a record that reads as interrupted.
            stream = carry_over(folder, old, resume_step, manifest)
            write_bytes_atomic(folder / METRICS, stream.data)
            write_config(folder, plain)
            write_manifest(folder, manifest)
            return cls(folder, lock, manifest, stream)
        except BaseException:
            os.close(lock)
            raise

    def log(self, step: int, metrics: Mapping[str, SupportsFloat]) -> None:
        """Append one evaluation; on return it is on disk.

        `step` counts updates and strictly increases; NaN and infinities are kept as such.

        Raises:
            RecordError: a step out of order, a bad metric name or value, a closed record, or a
                disk that refuses (the record then holds the lines before this one).
        """
        self._require_open()
        self._metrics.append(step, metrics)

    def note(self, **extras: Any) -> None:
        """Add or replace free values in the manifest of the running record.

        Raises:
            RecordError: the record is closed. ConfigError: a value JSON has no form for.
        """
        self._require_open()
        self._merge_extras(extras)
        write_manifest(self.folder, self._manifest)

    def close(self, status: str, reason: str | None = None, **extras: Any) -> None:
        """End the run with a terminal status; the writer is of no use afterwards.

        Raises:
            RecordError: an unknown status, or the record is closed already.
        """
        if status not in TERMINAL:
            raise RecordError(f"status {status!r} must be one of {', '.join(sorted(TERMINAL))}")
        self._require_open()
        self._merge_extras(extras)
        self._manifest |= {
            "status": status,
            "reason": None if reason is None else redact_text(reason),
            "end": now(),
            "metrics": self._metrics.end(),
        }
        try:
            write_manifest(self.folder, self._manifest)
        finally:
            self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._lock is None:
            return
        if error is None:
            self.close("finished")
            return
        text = " ".join(str(error).split())
        kind_name = type(error).__name__
        try:
            self.close(status_of(error), f"{kind_name}: {text}" if text else kind_name)
        except RecordError as second:
            error.add_note(f"and the record could not be closed: {second}")

    def _require_open(self) -> None:
        if self._lock is None:
            raise RecordError(f"{self.folder}: the record is closed")

    def _merge_extras(self, extras: Mapping[str, Any]) -> None:
        self._manifest["extras"] |= redact(encode_floats(extras))

    def _release(self) -> None:
        if self._lock is not None:
            self._metrics.close()
            release(self._lock)
            self._lock = None


def _restartable(
    folder: Path, claim: Mapping[str, Any], restart: bool, resume_step: int | None
) -> dict[str, Any] | None:
    if not (folder / RUN_MANIFEST).exists():
        if resume_step is not None:
            raise RecordError(f"{folder}: no record to resume at step {resume_step}")
        return None
    old = read_manifest(folder)
    if old["status"] in OUTCOMES:
        raise RecordError(f"{folder}: the run is {old['status']}; outcomes are never overwritten")
    for key, value in claim.items():
        if old[key] != value:
            raise RecordError(f"{folder}: holds another run ({key} {old[key]!r}, not {value!r})")
    if not restart:
        raise RecordError(
            f"{folder}: an interrupted run (status {old['status']}, no live owner); restart it "
            "explicitly, its metrics are kept"
        )
    return old


def _attempts(old: Mapping[str, Any] | None, stale: Mapping[str, Any] | None) -> list[Any]:
    if old is None:
        return []
    keys = ("status", "reason", "start", "end", "code_commit", "code_dirty")
    attempt = {key: old[key] for key in keys}
    if old["status"] == "running":
        attempt |= {"status": "killed", "pid": (stale or {}).get("pid")}
    return [*old["attempts"], attempt]
