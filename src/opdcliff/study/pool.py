"""Cells side by side in worker processes that keep their models between cells."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial

from opdcliff.errors import PreemptedError, StudyIncompleteError
from opdcliff.models import Prepared
from opdcliff.paths import StudyPaths
from opdcliff.processes import (
    Channel,
    deferred,
    open_channel,
    process_ids,
    requested,
    stop_if_requested,
    tell,
    worker_pool,
)
from opdcliff.storage import told
from opdcliff.study.cells import Cell, is_finished, run_cell
from opdcliff.terminal import Stage


def run_cells(
    cells: Sequence[Cell], prepared: Prepared, paths: StudyPaths, *, workers: int
) -> dict[str, str]:
    """Run the cells that have no outcome yet; returns a reason for each that still has none.

    A cell that raises does not stop the others. A worker that dies (killed, out of memory) takes
    the cells in flight with it; those are tried once more, each alone.

    Raises:
        PreemptedError: the process was asked to stop; the cells in flight have saved where they
            are, the others have not begun.
    """
    waiting = deque(cell for cell in cells if not is_finished(cell, prepared, paths))
    if not waiting:
        return {}
    reused = len(cells) - len(waiting)
    title = f"training {len(waiting)} cells" + (f" ({reused} finished before)" if reused else "")
    total = sum(cell.config.optim.updates for cell in waiting)
    channel = open_channel()
    with Stage(title, total, channel) as stage:
        crew = _Crew(prepared, paths, channel, stage, len(waiting))
        while waiting and not requested():
            for suspect in crew.run(waiting, workers):
                for cell in crew.run(deque([suspect]), 1):
                    crew.failures[cell.name] = "its process died; out of memory, or killed"
    stop_if_requested()
    return crew.failures


def incomplete(
    failures: Mapping[str, str], total: int, what: str = "cells"
) -> StudyIncompleteError:
    """The error for cells that have no outcome, by name with their reasons."""
    named = "; ".join(f"{name} ({reason})" for name, reason in sorted(failures.items()))
    return StudyIncompleteError(
        f"{len(failures)} of {total} {what} have no outcome: {named}; once that is mended, "
        "run the same command again to retry them"
    )


@dataclass
class _Crew:
    """Runs cells in pools of workers and keeps the reasons of those that failed."""

    prepared: Prepared
    paths: StudyPaths
    channel: Channel
    stage: Stage
    count: int
    done: int = 0
    failures: dict[str, str] = field(default_factory=dict)

    def run(self, waiting: deque[Cell], workers: int) -> list[Cell]:
        """Take cells from `waiting` until none is left or a worker dies; returns those in flight.

        No more cells are given out than run, so that an interrupt ends all but those.
        """
        lost: list[Cell] = []
        running: dict[Future[str], Cell] = {}
        with (
            worker_pool(min(workers, len(waiting)), self.channel) as pool,
            deferred(lambda: process_ids(pool)),
        ):
            while running or (waiting and not lost and not requested()):
                while waiting and not lost and not requested() and len(running) < workers:
                    cell = waiting.popleft()
                    try:
                        running[pool.submit(_work, cell, self.prepared, self.paths)] = cell
                    except BrokenProcessPool:
                        lost.append(cell)
                for job in wait(running, return_when=FIRST_COMPLETED).done:
                    self._note(job, running.pop(job), lost)
        return lost

    def _note(self, job: Future[str], cell: Cell, lost: list[Cell]) -> None:
        try:
            status = job.result()
        except (BrokenProcessPool, PreemptedError):
            # A worker that was asked to go, alone, would refuse all cells that wait.
            lost.append(cell)
            return
        except Exception as error:
            status = "failed"
            self.failures[cell.name] = told(error)
        self.done += 1
        self.stage.update(cell.name, cell.config.optim.updates)
        self.stage.note(f"{self.done}/{self.count} cells, last {cell.name}: {status}")


def _work(cell: Cell, prepared: Prepared, paths: StudyPaths) -> str:
    return run_cell(cell, prepared, paths, partial(tell, cell.name))
