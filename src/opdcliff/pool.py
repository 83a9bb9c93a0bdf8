"""Cells side by side in worker processes that keep their models between cells."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from opdcliff.cells import Cell, is_finished, run_cell
from opdcliff.paths import StudyPaths
from opdcliff.prepare import Prepared
from opdcliff.progress import Stage


def run_cells(
    cells: Sequence[Cell], prepared: Prepared, paths: StudyPaths, *, workers: int
) -> dict[str, str]:
    """Run the cells that have no outcome yet; returns a reason for each that still has none.

    A cell that raises does not stop the others. A worker that dies (killed, out of memory) takes
    the cells in flight with it; they are tried once more, each alone.
    """
    todo = [cell for cell in cells if not is_finished(cell, prepared, paths)]
    if not todo:
        return {}
    failures: dict[str, str] = {}
    context = multiprocessing.get_context("spawn")
    total = sum(cell.config.optim.updates for cell in todo)
    reused = len(cells) - len(todo)
    title = f"training {len(todo)} cells" + (f" ({reused} finished before)" if reused else "")
    with context.Manager() as manager:
        channel = manager.Queue()
        with Stage(title, total, channel) as stage:
            broken = _run_pool(todo, prepared, paths, workers, channel, stage, failures)
            for cell in broken:
                failures.pop(cell.name, None)
                for lost in _run_pool([cell], prepared, paths, 1, channel, stage, failures):
                    failures[lost.name] = "its process died; out of memory, or killed"
    return failures


def _run_pool(
    cells: Sequence[Cell],
    prepared: Prepared,
    paths: StudyPaths,
    workers: int,
    channel: Any,
    stage: Stage,
    failures: dict[str, str],
) -> list[Cell]:
    """Run cells in one pool; returns those lost to a worker that died."""
    lost = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(cells)), mp_context=context) as pool:
        jobs: dict[Future[str], Cell] = {
            pool.submit(_work, cell, prepared, paths, channel): cell for cell in cells
        }
        for done, job in enumerate(as_completed(jobs), start=1):
            cell = jobs[job]
            try:
                status = job.result()
            except BrokenProcessPool:
                lost.append(cell)
                continue
            except Exception as error:
                failures[cell.name] = " ".join(f"{type(error).__name__}: {error}".split())
                continue
            stage.update(cell.name, cell.config.optim.updates)
            stage.note(f"{done}/{len(cells)} cells, last {cell.name}: {status}")
    return lost


def _work(cell: Cell, prepared: Prepared, paths: StudyPaths, channel: Any) -> str:
    return run_cell(cell, prepared, paths, lambda done: channel.put((cell.name, done)))
