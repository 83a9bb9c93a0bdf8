"""What W&B wrote to disk, read back: the mirror as it is, to be compared with the record."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from opdcliff.errors import RecordError
from opdcliff.storage import decode_float, in_words

# Our step is a metric, because W&B's own `_step` counts calls of `log`.
STEP = "update"


def read_offline_run(path: Path) -> pd.DataFrame:
    """Read the history that W&B wrote to disk, through `wandb leet inspect --json`.

    `path` is a `.wandb` file, or a folder that holds one per attempt of the same run; there a
    later attempt replaces the updates that it did again.

    Returns:
        The int column `step` and one float column per metric, as `Record.history` has them.
        `attrs` holds project, group, job_type, name, config and status of the last attempt, and
        `finished`: whether its log has an end. W&B may lose its last seconds to a kill.

    Raises:
        RecordError: no log, a damaged one, or one that is not ours.
    """
    files = [path] if path.is_file() else sorted(path.rglob("run-*.wandb"))
    attempts = sorted((_read_log(file) for file in files), key=lambda log: log.start)
    if not attempts:
        raise RecordError(f"{path}: no W&B log (run-*.wandb); was tracking on?")
    rows: list[dict[str, float]] = []
    for attempt in attempts:
        if attempt.rows:
            rows = [row for row in rows if row["step"] < attempt.rows[0]["step"]]
            rows += attempt.rows
    names = dict.fromkeys(name for row in rows for name in row)
    history = pd.DataFrame(rows, columns=list(names) or ["step"], dtype="float64")
    history["step"] = history["step"].astype("int64")
    history.attrs.update(attempts[-1].about, finished=attempts[-1].finished)
    return history


@dataclass
class _Log:
    start: str = ""
    about: dict[str, Any] = field(default_factory=lambda: {"status": None})
    rows: list[dict[str, float]] = field(default_factory=list)
    finished: bool = False


def _read_log(file: Path) -> _Log:
    log = _Log()
    for entry in _inspect(file):
        kind = entry["type"]
        body = entry.get(kind, {})
        if kind == "run":
            log.start = body["start_time"]
            log.about |= _about(body)
        elif kind == "summary":
            log.about["status"] = body.get("update", {}).get("status", log.about["status"])
        elif kind == "history":
            log.rows.append(_row(body["item"], file))
        elif kind == "exit":
            log.finished = True
    if not log.start:
        raise RecordError(f"{file}: no run in this W&B log; it was cut off or is damaged")
    return log


def _inspect(file: Path) -> Iterator[dict[str, Any]]:
    """Stream the log's entries; W&B's reader exits 0 on damage and only says so on stderr."""
    command = [sys.executable, "-P", "-m", "wandb", "leet", "inspect", str(file), "--json"]
    quiet = {**os.environ, "WANDB_ERROR_REPORTING": "false"}
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=quiet
        ) as reader,
    ):
        assert reader.stdout is not None
        for line in reader.stdout:
            yield json.loads(line)
        code = reader.wait()
        errors.seek(0)
        said = " ".join(errors.read().split())
    if code != 0 or "skipped corrupt data" in said:
        raise RecordError(f"{file}: W&B cannot read its log: {said}")


def _about(run: Mapping[str, Any]) -> dict[str, Any]:
    config = dict(run.get("config", {}).get("update", {}))
    config.pop("_wandb", None)
    return {
        "project": run.get("project"),
        "group": run.get("run_group"),
        "job_type": run.get("job_type"),
        "name": run.get("display_name"),
        "config": config,
    }


def _row(item: Mapping[str, Any], file: Path) -> dict[str, float]:
    try:
        metrics = {
            name: decode_float(value)
            for name, value in item.items()
            if name != STEP and not name.startswith("_")
        }
        return {"step": int(item[STEP]), **metrics}
    except (KeyError, ValueError) as error:
        raise RecordError(
            f"{file}: a history line is not one of ours ({in_words(error)})"
        ) from error
