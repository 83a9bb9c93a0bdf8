"""Mirror of a run in W&B: convenient to look at, never the truth, never able to stop a run.

Nothing that identifies the machine or the code leaves through it: no host name, paths, git
state, source, console, requirements, machine statistics or error reports, and the config goes
out redacted. The record is written first; the mirror is compared against it.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from opdcliff.errors import ConfigError
from opdcliff.records.record import OUTCOMES
from opdcliff.records.tracking_cache import make_room_for_logs
from opdcliff.records.tracking_log import STEP
from opdcliff.records.tracking_server import unreachable
from opdcliff.storage import (
    digest,
    host_class,
    redact,
    redact_text,
    writing,
)

MODES = ("offline", "online", "off")

_INIT_TIMEOUT_S = 60.0
_FINISH_TIMEOUT_S = 300.0
_FLUSH_INTERVAL_S = 1.0
# What `wandb agent` exports for the one run that it expects of a process; W&B would give that id
# and that sweep to every cell.
_FOREIGN_IDS = ("WANDB_RUN_ID", "WANDB_RESUME", "WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH")
# Of a page's id; W&B's own have eight.
_ID_DIGITS = 16

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
    identity: str,
    config: Mapping[str, Any],
    folder: Path,
) -> Tracker:
    """Open the mirror of one run.

    Args:
        mode: "offline" (no account, nothing leaves the machine), "online", or "off".
        project, name: as W&B shows them.
        group: the protocol.
        job_type: train, eval or analysis.
        identity: of the record. With the group it gives the id of the run's page, whatever
            WANDB_RUN_ID says: attempts of one cell share a page, two cells never do.
        config: what the run's page shows; redacted here. Put identity and seed in it when the
            mirror is to be verified without the record.
        folder: the run's record; W&B makes its `wandb` folder inside.

    Raises:
        ConfigError: an unknown mode, or "online" without a usable API key. Any other failure is
            one warning and `Tracker.problem`; a server that cannot be reached is one warning a
            process, and the mirror is written offline.
    """
    if mode not in MODES:
        raise ConfigError(f"tracking mode {mode!r} must be one of {', '.join(MODES)}")
    if mode == "off":
        return _Off()
    plain = redact(config)
    wandb = _import_wandb()
    if mode == "online":
        _require_key(wandb)
        problem = unreachable(wandb.setup().settings.base_url)
        if problem is not None:
            mode = "offline"
            _say_once(
                f"W&B cannot be reached ({problem}): mirrors are kept offline; "
                f"`wandb sync runs/{group}/*/wandb/offline-run-*` sends them later"
            )
    make_room_for_logs(folder)
    page = digest([group, identity], "mirror-page")[:_ID_DIGITS]

    tracker = _WandbTracker()
    tracker.start(
        lambda: wandb.init(
            project=project,
            group=group,
            job_type=job_type,
            name=name,
            config=plain,
            settings=_settings(wandb, mode, folder, page),
        )
    )
    return tracker


@functools.cache
def _say_once(text: str) -> None:
    _log.warning("%s", text)


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
            self._try("log", lambda: self._run.log({STEP: step, **values}))

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
    for name in _FOREIGN_IDS:
        os.environ.pop(name, None)
    import wandb

    return wandb


def _settings(wandb: Any, mode: str, folder: Path, page: str) -> Any:
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    attempts = len(list(folder.glob("wandb/*run-*")))
    return wandb.Settings(
        mode=mode,
        run_id=page,
        # Attempts of one second would share a folder.
        x_sync_dir_suffix=str(attempts + 1),
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
