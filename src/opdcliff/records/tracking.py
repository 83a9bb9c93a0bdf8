"""Mirror of a run in W&B: convenient to look at, never the truth, never able to stop a run.

Nothing that identifies the machine or the code leaves through it: no host name, paths, git
state, source, console, requirements, machine statistics or error reports, and the config goes
out redacted. The record is written first; the mirror is compared against it.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from opdcliff.errors import ConfigError, RecordError
from opdcliff.records.record import OUTCOMES
from opdcliff.records.tracking_cache import make_room_for_logs
from opdcliff.storage import decode_float, host_class, in_words, redact, redact_text, writing

MODES = ("offline", "online", "off")

# Our step is a metric, because W&B's own `_step` counts calls of `log`.
_STEP = "update"
_INIT_TIMEOUT_S = 60.0
_FINISH_TIMEOUT_S = 300.0
_FLUSH_INTERVAL_S = 1.0

_log = logging.getLogger(__name__)


class Tracker(Protocol):
    """What a training loop needs of an experiment tracker.

    `problem` is None, or one line on why mirroring stopped; the caller keeps it in the record.
    """

    problem: str | None

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Mirror one evaluation at update `step`."""

    def finish(self, status: str = "finished") -> None:
        """End the mirror with the record's terminal status."""


def open_tracker(
    mode: str,
    *,
    project: str,
    group: str,
    job_type: str,
    name: str,
    config: Mapping[str, Any],
    folder: Path,
) -> Tracker:
    """Open the mirror of one run.

    Args:
        mode: "offline" (no account, nothing leaves the machine), "online", or "off".
        project, name: as W&B shows them.
        group: the protocol.
        job_type: train, eval or analysis.
        config: what the run's page shows; redacted here. Put identity and seed in it when the
            mirror is to be verified without the record.
        folder: the run's record; W&B makes its `wandb` folder inside.

    Raises:
        ConfigError: an unknown mode, or "online" without a usable API key. Any other failure is
            one warning and `Tracker.problem`.
    """
    if mode not in MODES:
        raise ConfigError(f"tracking mode {mode!r} must be one of {', '.join(MODES)}")
    if mode == "off":
        return _Off()
    plain = redact(config)
    wandb = _import_wandb()
    if mode == "online":
        _require_key(wandb)
    make_room_for_logs(folder)
    tracker = _WandbTracker()
    tracker.start(
        lambda: wandb.init(
            project=project,
            group=group,
            job_type=job_type,
            name=name,
            config=plain,
            settings=_settings(wandb, mode, folder),
        )
    )
    return tracker


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


class _Off:
    problem: str | None = None

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        pass

    def finish(self, status: str = "finished") -> None:
        pass


class _WandbTracker:
    """A run object of its own (never the process-wide one), dropped at its first error."""

    def __init__(self) -> None:
        self.problem: str | None = None
        self._run: Any = None

    def start(self, init: Callable[[], Any]) -> None:
        def begin() -> None:
            self._run = init()

        self._try("start", begin)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if self._run is not None:
            values = {name: float(value) for name, value in metrics.items()}
            self._try("log", lambda: self._run.log({_STEP: step, **values}))

    def finish(self, status: str = "finished") -> None:
        def end() -> None:
            self._run.summary["status"] = status
            self._run.finish(exit_code=0 if status in OUTCOMES else 1)
            self._run = None

        if self._run is not None:
            self._try("finish", end)

    def _try(self, what: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # whatever W&B does, the run goes on
            self._run = None
            text = redact_text(" ".join(str(error).split()))
            self.problem = f"W&B {what} failed, mirror off: {type(error).__name__}: {text}"
            _log.warning("%s", self.problem)


def _import_wandb() -> Any:
    # Read at import; otherwise W&B sends its own error reports even for offline runs.
    os.environ["WANDB_ERROR_REPORTING"] = "false"
    import wandb

    return wandb


def _settings(wandb: Any, mode: str, folder: Path) -> Any:
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return wandb.Settings(
        mode=mode,
        root_dir=str(folder),
        reinit="create_new",
        host=host_class(),
        silent=True,
        console="off",
        symlink=False,
        disable_git=True,
        disable_code=True,
        save_code=False,
        disable_job_creation=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_disable_machine_info=True,
        x_save_requirements=False,
        x_transaction_log_flush_interval=_FLUSH_INTERVAL_S,
        init_timeout=_INIT_TIMEOUT_S,
        finish_timeout=_FINISH_TIMEOUT_S,
    )


def _require_key(wandb: Any) -> None:
    advice = "set WANDB_API_KEY, run `wandb login`, or use tracking mode offline"
    wandb.setup(settings=wandb.Settings(silent=True))
    try:
        found = wandb.login(prompt=False, verify=False)
    except wandb.errors.Error as error:
        raise ConfigError(f"tracking mode online: unusable W&B API key; {advice}") from error
    if not found:
        raise ConfigError(f"tracking mode online: no W&B API key; {advice}")


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
            if name != _STEP and not name.startswith("_")
        }
        return {"step": int(item[_STEP]), **metrics}
    except (KeyError, ValueError) as error:
        raise RecordError(
            f"{file}: a history line is not one of ours ({in_words(error)})"
        ) from error
