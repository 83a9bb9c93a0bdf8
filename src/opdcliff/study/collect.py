"""From run records to the compact tables that figures are drawn from: small enough to commit.

`trajectories.csv` has one row per evaluation of every run, `provenance.json` says which records
the tables come from and which code made them, and `cells.csv` has the last evaluation of each run
where neither `verify` nor `study` writes one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from opdcliff.errors import InadmissibleError
from opdcliff.paths import StudyPaths
from opdcliff.records import OPD, Record, read_runs
from opdcliff.storage import write_text_atomic
from opdcliff.verification import (
    LOCK_FILE,
    PROVENANCE,
    TABLE,
    TRAJECTORIES,
    Lock,
    about_runs,
    check_tables,
    read_lock,
    seal_tables,
    table_of,
    view_of_record,
    write_table,
)

# What figures show over updates; a name that a record lacks is a blank.
METRICS = (
    "eval/parse_rate",
    "eval/ndcg1_all",
    "eval/mean_length",
    "eval/truncated_rate",
    "train/lam",
    "train/tail_ratio/text",
    "train/beyond_zc",
    "train/headroom",
    "train/headroom_spread",
    "train/modal_logit",
    "train/residual_mean",
    "train/kl_teacher",
)


@dataclass(frozen=True)
class Collected:
    """Where the tables lie, how many runs they hold, and how many had no outcome yet."""

    folder: Path
    runs: int
    left_out: int


def collect(protocol: str, paths: StudyPaths) -> Collected:
    """Write the tables of a protocol from its records in `runs/<protocol>`.

    They go where the protocol's other results are: locked/<protocol> if it has a lock, where
    `study` has written its tables, studies/<data.name>/<protocol>, or grids/<protocol>. Records of
    one protocol and the same code give the same bytes. A run without an outcome is left out and
    counted.

    Raises:
        InadmissibleError: there are no runs with an outcome, a run is there twice, or it is of
            another protocol.
        TamperedError: tables that are there already were edited; sealing them would hide it.
        RecordError: a record is damaged.
    """
    root = paths.protocol_runs(protocol)
    records = read_runs(root)
    _check_runs(records, protocol)
    done = [record for record in records if record.complete]
    if not done:
        raise InadmissibleError(
            f"{root} has no run with an outcome: nothing to collect; run the protocol first, or "
            "set OPDCLIFF_RUNS to the folder that holds its runs"
        )
    prereg = paths.prereg_dir(protocol)
    lock = read_lock(prereg)[0] if (prereg / LOCK_FILE).exists() else None
    arms = {} if lock is None else {key: value[0] for key, value in lock.cells().items()}
    views = [view_of_record(record) for record in done]
    folder = _folder(protocol, done, paths, lock)
    folder.mkdir(parents=True, exist_ok=True)
    own = [TRAJECTORIES]
    if lock is None and folder == paths.output.grid_dir(protocol):
        own.append(TABLE)
    if (folder / PROVENANCE).exists():
        check_tables(folder, but=own)
    table = trajectories(done, arms)
    write_text_atomic(folder / TRAJECTORIES, table.to_csv(index=False, float_format="%.5g"))
    if TABLE in own:
        write_table(folder, table_of(views, arms))
    seal_tables(folder, about_runs(protocol, views, lock))
    return Collected(folder, len(done), len(records) - len(done))


def _check_runs(records: list[Record], protocol: str) -> None:
    seen: dict[str, Path] = {}
    for record in records:
        identity, own = str(record.manifest["identity"]), str(record.manifest["protocol"])
        if own != protocol:
            raise InadmissibleError(
                f"{record.folder} is a run of protocol {own}, not {protocol}; move it out of this "
                "folder"
            )
        if identity in seen:
            raise InadmissibleError(
                f"{seen[identity]} and {record.folder} are the same run; move one of them out of "
                "runs/"
            )
        seen[identity] = record.folder


def trajectories(records: list[Record], arms: Mapping[str, str]) -> pd.DataFrame:
    """One row per evaluation of the distillation runs: arm, cell keys, step and `METRICS`.

    arms: arm of each run identity, of a lock; without one the arm is the clip's name.
    """
    rows: list[dict[str, Any]] = []
    for record in records:
        config = record.config
        if config.get("kind", OPD) != OPD:
            continue
        clip = config["clip"]
        about = {
            "arm": arms.get(str(record.manifest["identity"]), clip["name"]),
            "clip": clip["name"],
            "c": clip["strength"],
            "estimator": config["optim"]["estimator"],
            "warmup": config["lam"]["warmup_updates"],
            "budget": config["optim"]["updates"],
            "lam": config["resolved_lam"],
            "seed": int(record.manifest["seed"]),
        }
        history = record.history.reindex(columns=["step", *METRICS])
        rows += [about | {str(k): v for k, v in row.items()} for row in history.to_dict("records")]
    table = pd.DataFrame(rows)
    return table.sort_values(["arm", "lam", "seed", "step"], ignore_index=True)


def _folder(protocol: str, records: list[Record], paths: StudyPaths, lock: Lock | None) -> Path:
    """Beside what `verify` or `study` wrote, else the folder of a grid."""
    if lock is not None:
        return paths.output.locked_dir(protocol)
    names = {str(record.config["data"]["name"]) for record in records}
    for name in sorted(names):
        folder = paths.output.study_dir(name, protocol)
        if (folder / TABLE).exists():
            return folder
    return paths.output.grid_dir(protocol)
