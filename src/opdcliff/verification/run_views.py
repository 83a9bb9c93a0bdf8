"""One view of a run for the verifier, whatever it was read from, and the table of all of them."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from opdcliff.errors import InadmissibleError
from opdcliff.records import MIXED_CODE, OPD, Record
from opdcliff.storage import in_words, write_text_atomic

TABLE = "cells.csv"
# Where metrics and provenance are unknown, as W&B knows no commit.
UNKNOWN = "unknown"
_ABOUT = ("name", "identity", "protocol", "kind", "seed", "lam", "status", "complete", "start")
_CODE = ("code_commit", "code_dirty", "models_sha256", "stream_sha256")
# Texts of other tables. A name may be 1e5, and so may a hash: said, not guessed.
_TEXTS = ("arm", "class", "clip", "estimator", "points", "record")
_TYPES: dict[Hashable, type] = {
    **dict.fromkeys((*_TEXTS, *_ABOUT, *_CODE), str),
    "seed": int,
    "lam": float,
    "complete": bool,
    "code_dirty": bool,
}


@dataclass(frozen=True)
class RunView:
    """What a lock is compared with: who the run is, when and with what it ran, how it ended.

    final: metrics of the last evaluation alone. settings: its config as plain containers, None
    where the source has none. stream_sha256: end of the record's checksum chain.
    """

    name: str
    identity: str
    protocol: str
    kind: str
    seed: int
    lam: float
    status: str
    complete: bool
    start: str
    code_commit: str = UNKNOWN
    code_dirty: bool = True
    models_sha256: str = UNKNOWN
    stream_sha256: str = UNKNOWN
    final: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, Any] | None = None


def view_of_record(record: Record) -> RunView:
    """The view of a verified run record."""
    manifest, config = record.manifest, record.config
    end = manifest["metrics"] or {}
    return RunView(
        name=record.folder.name,
        identity=str(manifest["identity"]),
        protocol=str(manifest["protocol"]),
        kind=str(config.get("kind", OPD)),
        seed=int(manifest["seed"]),
        lam=float(config.get("resolved_lam", math.nan)),
        status=record.status,
        complete=record.complete,
        start=str(manifest["start"]),
        code_commit=str(manifest["code_commit"]),
        # Parts made by different code are not what one commit holds, either.
        code_dirty=bool(manifest["code_dirty"] or manifest["extras"].get(MIXED_CODE)),
        models_sha256=str(manifest["extras"].get("models_sha256", UNKNOWN)),
        stream_sha256=str(end.get("sha256", UNKNOWN)),
        final=final_of(record.history),
        settings=config,
    )


def final_of(history: pd.DataFrame) -> dict[str, float]:
    """Metrics of the last line of a history; what it could not measure is NaN, never older."""
    if history.empty:
        return {}
    last = history.iloc[-1].to_dict()
    return {str(name): float(value) for name, value in last.items() if name != "step"}


def table_of(views: Sequence[RunView], arms: Mapping[str, str]) -> pd.DataFrame:
    """One row per run, by arm, lambda and seed. arms: arm of each identity; others have none."""
    rows = [
        {"arm": arms.get(view.identity, "")}
        | {name: getattr(view, name) for name in (*_ABOUT, *_CODE)}
        | {name: view.final[name] for name in sorted(view.final) if not name.startswith("time/")}
        for view in views
    ]
    table = pd.DataFrame(rows, columns=None if rows else ["arm", *_ABOUT, *_CODE])
    return table.sort_values(["arm", "lam", "seed", "name"], ignore_index=True)


def write_table(folder: Path, table: pd.DataFrame) -> None:
    """Write cells.csv; numbers keep all their digits, so that verdicts can be recomputed."""
    write_text_atomic(folder / TABLE, table.to_csv(index=False))


def read_columns(path: Path) -> pd.DataFrame:
    """Any of our tables of cells, onsets, masses or trajectories; a text stays what it was."""
    return pd.read_csv(path, dtype=_TYPES, keep_default_na=False, na_values=[""])


def read_table(folder: Path) -> list[RunView]:
    """Views from a cells.csv that `write_table` wrote; a blank number is a missing metric.

    Raises:
        InadmissibleError: no such file, or not one of ours.
    """
    path = folder / TABLE
    try:
        table = read_columns(path)
        metrics = [name for name in table.columns if "/" in name]
        return [_view_of_row(row, metrics) for row in table.to_dict("records")]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InadmissibleError(f"{path} is no table of cells ({in_words(error)})") from error


def _view_of_row(row: Mapping[Any, Any], metrics: Sequence[str]) -> RunView:
    about = {name: row[name] for name in (*_ABOUT, *_CODE)}
    final = {name: float(row[name]) for name in metrics if not math.isnan(row[name])}
    return RunView(**about, final=final)
