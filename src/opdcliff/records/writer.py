"""The one writer of a run record: it opens, appends, and closes with a terminal status."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, SupportsFloat

from opdcliff.errors import RecordError
from opdcliff.paths import refuse_links
from opdcliff.records.files import (
    METRICS,
    RUN_LOCK,
    config_digest,
    find_manifest,
    write_config,
    write_manifest,
)
from opdcliff.records.metric_stream import Stream, StreamWriter, carry_over
from opdcliff.records.record import OUTCOMES, TERMINAL, require_run, status_of
from opdcliff.records.run_lock import acquire, release
from opdcliff.storage import (
    encode_floats,
    now,
    redact,
    redact_text,
    run_provenance,
    write_bytes_atomic,
    writing,
)


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
    old = find_manifest(folder)
    if old is None:
        if resume_step is not None:
            raise RecordError(f"{folder}: no record to resume at step {resume_step}")
        return None
    require_run(folder, old, claim)
    if old["status"] in OUTCOMES:
        raise RecordError(f"{folder}: the run is {old['status']}; outcomes are never overwritten")
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
