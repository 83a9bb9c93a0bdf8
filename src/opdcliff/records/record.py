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

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from opdcliff.errors import PreemptedError, RecordError
from opdcliff.records.files import (
    CONFIG,
    METRICS,
    RESTORE,
    RUN_LOCK,
    RUN_MANIFEST,
    find_manifest,
    read_config,
    read_manifest,
)
from opdcliff.records.metric_stream import Stream, read_stream
from opdcliff.records.run_lock import in_use
from opdcliff.storage import digest

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

    `history` has the int column `step` and one float column per metric, NaN where a line lacks it.
    `complete`: the status is an outcome (finished, collapsed, diverged), so the record may stand
    for its cell in an analysis.
    """

    folder: Path
    manifest: dict[str, Any]
    config: dict[str, Any]
    history: pd.DataFrame

    @property
    def status(self) -> str:
        """One of running, finished, collapsed, diverged, preempted, failed."""
        return str(self.manifest["status"])

    @property
    def complete(self) -> bool:
        """Whether the run came to an outcome."""
        return self.status in OUTCOMES


def read_record(folder: Path) -> Record:
    """Read and verify one record.

    Where the run has no outcome, its stream may end early: an unterminated last line (a kill in
    the middle of a write) is dropped.

    Raises:
        RecordError: any other damage, with the file, the line and what to do.
    """
    manifest = read_manifest(folder)
    try:
        config = read_config(folder, manifest)
        stream = read_stream(folder, manifest)
        _check_end(folder, manifest, stream)
    except RecordError as error:
        # The writer begins such a run anew, and sets its metrics aside.
        again = "; or run its command again" if manifest["status"] not in OUTCOMES else ""
        raise RecordError(f"{error}; {RESTORE}{again}") from error
    return Record(folder, manifest, config, stream.history())


def read_runs(root: Path | str) -> list[Record]:
    """Every record under `root`, in the order of their folders, each checked.

        for run in opdcliff.read_runs("runs/grid"):
            print(run.status, run.config["resolved_lam"], run.history["eval/parse_rate"].iloc[-1])

    Raises:
        RecordError: one of them is damaged.
    """
    return [read_record(path) for path in record_folders(Path(root))]


def record_folders(root: Path) -> list[Path]:
    """Folders under `root` that hold a record, or what is left of one, in order."""
    names = (RUN_MANIFEST, METRICS)
    folders = sorted({path.parent for name in names for path in root.rglob(name)})
    return [path for path in folders if _is_record(path)]


def terminal_status(folder: Path, identity: str | None = None) -> str | None:
    """Return finished, collapsed, diverged, preempted or failed; None without such an end.

    None covers no record, and one still running or killed. identity: that of the run which the
    record has to be of.

    Raises:
        RecordError: the record is damaged, or of another run.
    """
    manifest = find_manifest(folder)
    if manifest is None:
        return None
    if identity is not None:
        require_run(folder, manifest, {"identity": identity})
    status = str(manifest["status"])
    if status not in OUTCOMES:
        # No more is read: a restart that was killed may leave its config beside the manifest of
        # before, and the next one repairs that.
        return status if status in TERMINAL else None
    return read_record(folder).status


def is_running(folder: Path) -> bool:
    """Whether a living process writes the record in `folder`."""
    return in_use(folder / RUN_LOCK)


def require_run(folder: Path, manifest: Mapping[str, Any], claim: Mapping[str, Any]) -> None:
    """Refuse a record whose manifest has other values than those of `claim`.

    Raises:
        RecordError: it is of another run.
    """
    for key, value in claim.items():
        if manifest[key] != value:
            raise RecordError(
                f"{folder}: holds another run ({key} {manifest[key]!r}, not {value!r}); move the "
                "folder away to run the cell anew"
            )


def _is_record(folder: Path) -> bool:
    if (folder / RUN_MANIFEST).exists():
        # A checkpoint has a manifest of its own.
        return any((folder / name).exists() for name in (METRICS, CONFIG, RUN_LOCK))
    # A writer that was killed at its very start leaves an empty stream.
    return (folder / METRICS).stat().st_size > 0


def _check_end(folder: Path, manifest: Mapping[str, Any], stream: Stream) -> None:
    """The stream of an outcome ends where its manifest says; that of an interruption may not."""
    end, lines = manifest["metrics"], len(stream.rows)
    if end is None or (manifest["status"] not in OUTCOMES and lines < end["lines"]):
        return
    path = folder / METRICS
    if lines < end["lines"]:
        inside = f", in the middle of line {lines + 1}" if stream.torn else ""
        raise RecordError(
            f"{path} was cut after line {lines}{inside}: the run is {manifest['status']} and wrote "
            f"{end['lines']} lines"
        )
    if stream.heads[-1] != end["sha256"] or (stream.torn and manifest["status"] in OUTCOMES):
        raise RecordError(
            f"{path} line {lines + stream.torn}: not where the manifest says it ends, after line "
            f"{end['lines']}; the file was edited or is damaged"
        )
