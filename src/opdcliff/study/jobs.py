"""Single runs and grids of them: from a checked config to a row of the closing table."""

from __future__ import annotations

import functools
import multiprocessing
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from hydra.core.hydra_config import HydraConfig
from rich.console import Console

from opdcliff.calibration import Binding, Calibration, prepare_calibration
from opdcliff.errors import PreemptedError, StudyIncompleteError
from opdcliff.models import prepare
from opdcliff.paths import StudyPaths
from opdcliff.processes import stop_if_requested
from opdcliff.settings import Grid, RunConfig, launch_grid, quoted
from opdcliff.storage import digest, told
from opdcliff.study.cells import Cell, is_finished, run_cell
from opdcliff.study.slurm import requeueing
from opdcliff.study.study import resolve_lam
from opdcliff.study.summary import summarise_study
from opdcliff.terminal import Stage


@dataclass(frozen=True)
class JobResult:
    """A cell's row (see `summarise_study`) and its records' folder, or why it has none.

    note: what is to be known of the lambda* that its lambda is a multiple of.
    """

    row: dict[str, Any] | None
    folder: Path | None = None
    problem: str | None = None
    reused: bool = False
    note: str | None = None


def run_one(config: RunConfig, paths: StudyPaths, console: Console, label: str = "") -> JobResult:
    """Prepare, calibrate if lambda is a multiple of the threshold, and train one cell.

    A cell that has an outcome is not run again. `console` is where progress is shown.
    """
    prepared = prepare(config, paths, config.optim.updates)
    binding: Binding | None = None
    note = None
    if config.lam.value is None and not config.lam.predicted:
        calibration, _ = prepare_calibration(config, paths, prepared)
        binding, verdict = calibration.binding, calibration.homogeneity
        if verdict is not None and not verdict.homogeneous:
            note = f"lambda is a multiple of lambda* (lam.of_threshold); {verdict.in_words()}"
    cell = Cell(config, resolve_lam(config, binding, prepared, paths), config.protocol.name)
    reused = is_finished(cell, prepared, paths)
    if not reused:
        title = f"training {label}{cell.name}"
        with Stage(title, config.optim.updates, console=console) as stage:
            run_cell(cell, prepared, paths, stage.advance_of(cell.name))
    known = Calibration(pd.DataFrame(), binding)
    (row,) = summarise_study(config, [cell], prepared, paths, known, {}).cells.to_dict("records")
    folder = cell.folder(prepared, paths).parent
    named = {str(name): value for name, value in row.items()}
    return JobResult(named, folder, reused=reused, note=note)


def run_grid(grid: Grid, overrides: Sequence[str], paths: StudyPaths) -> list[JobResult]:
    """Run all cells, here or under Hydra's launcher; one that fails does not stop the others.

    Every job gets the config that was checked before the first one started, by its number: an
    edit of conf/ during the sweep changes nothing. One after the other they run without Hydra,
    which would compose each cell twice more to do the same.

    Raises:
        StudyIncompleteError: the launcher itself gave up.
        PreemptedError: the process was asked to stop.
    """
    try:
        if grid.in_turn:
            return [_cell(grid, paths, number) for number in range(len(grid.cells))]
        return launch_grid(sweep_words(overrides, paths), functools.partial(_job, grid, paths))
    except PreemptedError:
        raise
    except Exception as error:
        stop_if_requested()
        reason = told(error)
        raise StudyIncompleteError(
            f"the launcher stopped before all {len(grid.cells)} cells were done ({reason}); "
            "finished cells are kept: run the same command again to go on"
        ) from error


def sweep_words(overrides: Sequence[str], paths: StudyPaths) -> list[str]:
    """The overrides of a grid with the folder of what its launcher leaves."""
    folder = paths.assets_dir("sweep", digest(list(overrides), "sweep"))
    return [f"hydra.sweep.dir={quoted(str(folder))}", *overrides]


def _job(grid: Grid, paths: StudyPaths, composed: object) -> JobResult:
    """What a launcher's process does."""
    if multiprocessing.get_start_method(allow_none=True) == "loky":
        # A worker of joblib: processes started from it would look for that method and not find it.
        multiprocessing.set_start_method("spawn", force=True)
    return _cell(grid, paths, HydraConfig.get().job.num)


def _cell(grid: Grid, paths: StudyPaths, number: int) -> JobResult:
    # Bars of jobs that run side by side would tear each other.
    console = Console(file=sys.stderr, force_terminal=None if grid.in_turn else False)
    try:
        label = f"{number + 1}/{len(grid.cells)} "
        with requeueing():
            return run_one(grid.cells[number].config, paths, console, label)
    except PreemptedError:
        raise
    except Exception as error:
        return JobResult(None, problem=told(error))
