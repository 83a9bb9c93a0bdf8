"""Grids as Slurm jobs, one per cell: what is checked before, the script, and coming back.

Hydra's submitit launcher pickles the cells, submits one array of jobs and waits for them. Here is
what it cannot know: that a cell starts its ranks itself, and that it wants to save before it goes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from omegaconf import OmegaConf

from opdcliff.errors import ConfigError, PreemptedError
from opdcliff.processes import preemption
from opdcliff.settings import ROOT_CONFIG, Grid, hydra_session

_TARGET = "SlurmLauncher"
_KEYS = "hydra.launcher"


def is_slurm(grid: Grid) -> bool:
    """Whether the grid's cells are to become Slurm jobs."""
    return grid.launcher.endswith(_TARGET)


def check_slurm(grid: Grid, settings: dict[str, Any], *, submit: bool) -> None:
    """Raise ConfigError if Slurm is not here, or would start the cells in a way they cannot run.

    settings: of the launcher, see `launcher_settings`.
    """
    if submit and shutil.which("sbatch") is None:
        raise ConfigError(
            "launcher=slurm needs sbatch, which is not here; run on a Slurm login node, add "
            "dry_run=true to see the script, or use launcher=basic or joblib"
        )
    for name in ("nodes", "tasks_per_node"):
        if settings[name] != 1:
            raise ConfigError(
                f"{_KEYS}.{name}={settings[name]} would run every cell {settings[name]} times: a "
                f"cell is one task, which starts its ranks itself; set {_KEYS}.{name}=1, and for a "
                "cell on several nodes see engine.hostfile"
            )
    gpus = settings["gpus_per_node"]
    for cell in grid.cells:
        engine = cell.config.engine
        if engine.device != "cpu" and gpus is not None and engine.ranks > gpus:
            raise ConfigError(
                f"engine.ranks={engine.ranks} and {_KEYS}.gpus_per_node={gpus}: every rank needs "
                f"a GPU; set {_KEYS}.gpus_per_node={engine.ranks}"
            )


def launcher_settings(overrides: Sequence[str]) -> dict[str, Any]:
    """The resolved settings in hydra.launcher of a grid that composes."""
    with hydra_session() as hydra:
        from hydra.types import RunMode

        master = hydra.compose_config(ROOT_CONFIG, list(overrides), RunMode.MULTIRUN)
        settings = OmegaConf.to_container(master.hydra.launcher, resolve=True)
    assert isinstance(settings, dict)
    return {str(name): value for name, value in settings.items()}


def sbatch_script(settings: dict[str, Any], cells: int) -> str:
    """The text of the script that submitit would hand to sbatch for a grid of `cells`.

    Written with what submitit writes it with, which is not public; a test compares the two.
    """
    from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
    from submitit.slurm.slurm import SlurmExecutor

    class Unsubmitted(SlurmExecutor):  # type: ignore[misc]
        @classmethod
        def affinity(cls) -> int:
            return 1  # zero or less is refused, as on a machine without srun

    own = ("_target_", "submitit_folder", "max_num_timeout")
    given = {k: v for k, v in settings.items() if k not in own and v is not None}
    executor = Unsubmitted(settings["submitit_folder"], settings["max_num_timeout"])
    shared = {k: v for k, v in given.items() if k in BaseQueueConf.__dataclass_fields__}
    specific = {k: v for k, v in given.items() if k not in shared}
    executor.update_parameters(**executor._convert_parameters(shared), **specific)
    if cells > 1:
        executor.parameters["map_count"] = cells
    script: str = executor._make_submission_file_text(executor._submitit_command_str, "")
    return script


@contextlib.contextmanager
def requeueing() -> Iterator[None]:
    """In this block a Slurm job that is asked to go saves, is queued again and ends.

    Slurm announces a time limit by the signal that submitit answers at once, wherever the run is;
    here the run hears of it as of a preemption, and submitit when it has saved. Jobs that timed out
    more often than hydra.launcher.max_num_timeout are not queued again. Elsewhere: nothing.
    """
    number, requeue = _requeue()
    if requeue is None:
        yield
        return
    signal.signal(number, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    try:
        with preemption.listening():
            yield
    except PreemptedError:
        requeue(number, None)  # ends this process
        raise
    finally:
        signal.signal(number, requeue)


def _requeue() -> tuple[int, Callable[[int, Any], Any] | None]:
    """The signal that submitit answers in this process, and how; None where it is not at work."""
    name = f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}"
    number = getattr(signal, name, signal.SIGUSR2)
    handler = signal.getsignal(number)
    in_job = os.environ.get("SUBMITIT_EXECUTOR") == "slurm"
    main = threading.current_thread() is threading.main_thread()
    return number, handler if in_job and main and callable(handler) else None
