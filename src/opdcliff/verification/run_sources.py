"""Where the runs of a protocol are read from: records, W&B on this machine, W&B online, a table.

Records are the checked truth. W&B mirrors them: its metrics are compared with the records' and
every difference is reported, none is averaged away.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from opdcliff.errors import ConfigError, InadmissibleError, RecordError
from opdcliff.paths import StudyPaths
from opdcliff.records import (
    OPD,
    OUTCOMES,
    NewerRecordError,
    Record,
    read_offline_run,
    read_record,
    record_folders,
)
from opdcliff.storage import decode_float
from opdcliff.terminal import Stage
from opdcliff.verification.committed import check_tables
from opdcliff.verification.run_views import RunView, final_of, read_table, view_of_record

RUN_SOURCES = ("records", "wandb", "wandb_online", "table")
# Readers of W&B logs side by side; each is a process that mostly waits for its start.
_READERS = 4


@dataclass(frozen=True)
class Runs:
    """The runs of a protocol as one source has them.

    damaged: runs that cannot be read or whose checksums do not hold. mismatches: differences
    between a mirror and its record.
    """

    source: str
    views: list[RunView]
    damaged: list[str] = field(default_factory=list)
    mismatches: list[str] = field(default_factory=list)


def runs_of(
    source: str, protocol: str, paths: StudyPaths, *, entity: str | None, project: str | None
) -> Runs:
    """All runs of a protocol.

    Raises:
        ConfigError: an unknown source, or online without an entity and project.
        InadmissibleError: there are none, or they are of another protocol.
    """
    if source not in RUN_SOURCES:
        raise ConfigError(f"source={source} is unknown; allowed: {', '.join(RUN_SOURCES)}")
    if source == "table":
        return _of_protocol(_of_table(protocol, paths), protocol)
    records, damaged = read_all(paths.protocol_runs(protocol))
    if source == "wandb_online":
        if entity is None or project is None:
            raise ConfigError("source=wandb_online needs entity=NAME project=NAME to read from")
        runs = _online(entity, project, protocol, records, damaged)
    elif source == "wandb":
        runs = _offline(records, damaged)
    else:
        runs = Runs(source, [view_of_record(record) for record in records], damaged)
    return _of_protocol(runs, protocol)


def _of_table(protocol: str, paths: StudyPaths) -> Runs:
    """The runs of a table that is as it was sealed; records that still exist have to prove it."""
    folder = paths.readable.locked_dir(protocol)
    check_tables(folder)
    views = read_table(folder)
    records, _ = read_all(paths.protocol_runs(protocol))
    return Runs("table", views, contradictions(views, records))


def contradictions(views: Sequence[RunView], records: Sequence[Record]) -> list[str]:
    """Lines of a table that the very records they were made from do not bear out.

    A record begun at another time is of another run of the same cell, and says nothing here.
    """
    known = {(view.identity, view.start): view for view in map(view_of_record, records)}
    found = []
    for view in views:
        own = known.get((view.identity, view.start))
        if own is None:
            continue
        # A table has no time, and leaves out what is NaN.
        measured = {
            name: value
            for name, value in own.final.items()
            if not name.startswith("time/") and not math.isnan(value)
        }
        same = measured.keys() == view.final.keys() and all(
            _near(value, view.final[name]) for name, value in measured.items()
        )
        bare = [replace(each, lam=0.0, final={}, settings=None) for each in (own, view)]
        if not (same and _near(own.lam, view.lam) and bare[0] == bare[1]):
            found.append(f"{view.name}: its line of the table is not what its record says")
    return found


def _near(ours: float, theirs: float) -> bool:
    """Equal but for the last digit, which reading a CSV may change."""
    both_nan = math.isnan(ours) and math.isnan(theirs)
    return both_nan or math.isclose(ours, theirs, rel_tol=1e-12)


def read_all(folder: Path) -> tuple[list[Record], list[str]]:
    """The sound records in a folder, and a line on each that is not.

    Raises:
        InadmissibleError: a newer version wrote one of them.
    """
    records, damaged = [], []
    for path in record_folders(folder):
        try:
            records.append(read_record(path))
        except NewerRecordError as error:
            raise InadmissibleError(str(error)) from error
        except RecordError as error:
            damaged.append(str(error))
    return records, damaged


def _of_protocol(runs: Runs, protocol: str) -> Runs:
    found = sorted({view.protocol for view in runs.views})
    if not runs.views and not runs.damaged:
        raise InadmissibleError(
            f"there are no runs of protocol {protocol} in source={runs.source}: nothing to verify; "
            f"`opdcliff confirm protocol={protocol}` runs them, source=table reads committed ones"
        )
    if found not in ([protocol], []):
        raise InadmissibleError(
            f"the runs are of protocol {' and '.join(found)}, not of {protocol} alone; keep each "
            "protocol in a folder of its own"
        )
    return runs


def _offline(records: Sequence[Record], damaged: list[str]) -> Runs:
    """The same runs with the metrics of the W&B logs in the records' folders."""
    views: list[RunView] = []
    mismatches: list[str] = []
    with (
        Stage("reading W&B logs", len(records)) as stage,
        ThreadPoolExecutor(_READERS) as pool,
    ):
        logs = pool.map(lambda record: _read_log(record.folder), records)
        for number, (record, log) in enumerate(zip(records, logs, strict=True), start=1):
            stage.update("logs", number)
            view = view_of_record(record)
            if isinstance(log, str):
                mismatches.append(log)
                views.append(replace(view, complete=False, final={}))
                continue
            mismatches += differences(record, log)
            ended = view.complete and bool(log.attrs["finished"])
            views.append(replace(view, final=final_of(log), complete=ended))
    return Runs("wandb", views, damaged, mismatches)


def _read_log(folder: Path) -> pd.DataFrame | str:
    try:
        return read_offline_run(folder)
    except RecordError as error:
        return str(error).replace(str(folder), folder.name)


def differences(record: Record, log: pd.DataFrame) -> list[str]:
    """Every way in which a mirror's history is not its record's."""
    name, ours = record.folder.name, record.history
    if ours.step.tolist() != log.step.tolist():
        return [f"{name}: W&B has {len(log)} evaluations and the record {len(ours)}"]
    found = [
        f"{name}: metric {metric} is only in {'the record' if metric in ours else 'W&B'}"
        for metric in sorted(set(ours.columns) ^ set(log.columns))
    ]
    for metric in sorted(set(ours.columns) & set(log.columns)):
        pairs = zip(ours[metric].tolist(), log[metric].tolist(), ours.step.tolist(), strict=True)
        found += [
            f"{name}: {metric} at update {step} is {theirs!r} in W&B and {mine!r} in the record"
            for mine, theirs, step in pairs
            if mine != theirs and not (math.isnan(mine) and math.isnan(theirs))
        ]
    return found


def _online(
    entity: str,
    project: str,
    protocol: str,
    records: Sequence[Record],
    damaged: list[str],
) -> Runs:
    """Runs of a W&B project, with the provenance of local records where there are any."""
    api = _api()
    known = {str(record.manifest["identity"]): record for record in records}
    views: list[RunView] = []
    mismatches: list[str] = []
    try:
        found = api.runs(f"{entity}/{project}", filters={"group": protocol})
        with Stage(f"reading {entity}/{project}", len(found)) as stage:
            for number, run in enumerate(found, start=1):
                history = online_history(run)
                view = view_of_online(run, history, protocol)
                record = known.get(view.identity)
                if record is not None:
                    mismatches += differences(record, history)
                    local = view_of_record(record)
                    complete = local.complete and view.complete
                    view = replace(local, final=view.final, complete=complete)
                views.append(view)
                stage.update("runs", number)
    except (OSError, ValueError, LookupError) as error:
        reason = " ".join(str(error).split())
        raise InadmissibleError(f"W&B {entity}/{project} cannot be read: {reason}") from error
    return Runs("wandb_online", views, damaged, mismatches)


def _api() -> Any:
    import wandb

    try:
        return wandb.Api()
    except wandb.errors.Error as error:
        raise ConfigError(
            "source=wandb_online needs a W&B key: set WANDB_API_KEY or run `wandb login`"
        ) from error


def online_history(run: Any) -> pd.DataFrame:
    """All of a run's history, by `scan_history`: `history` samples, and a summary forgets."""
    rows = [
        {name: _number(value) for name, value in row.items() if not name.startswith("_")}
        for row in run.scan_history()
    ]
    lines = [{"step": row.pop("update"), **row} for row in rows if "update" in row]
    names = dict.fromkeys(name for line in lines for name in line)
    history = pd.DataFrame(lines, columns=list(names) or ["step"], dtype="float64")
    history["step"] = history["step"].astype("int64")
    return history


def view_of_online(run: Any, history: pd.DataFrame, protocol: str) -> RunView:
    """A run as the server tells it; which code made it, the server does not know."""
    config: Mapping[str, Any] = run.config
    status = str(run.summary.get("status", run.state))
    return RunView(
        name=str(run.name),
        identity=str(config.get("identity", "")),
        protocol=str(run.group or protocol),
        kind=str(config.get("kind", OPD)),
        seed=int(config["seed"]),
        lam=float(config["resolved_lam"]),
        status=status,
        complete=run.state == "finished" and status in OUTCOMES,
        start=str(run.created_at),
        final=final_of(history),
    )


def _number(value: Any) -> float:
    return math.nan if value is None else decode_float(value)
