"""Cells side by side in worker processes that keep their models between cells."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial

from opdcliff.cells import Cell, is_finished, run_cell
from opdcliff.paths import StudyPaths
from opdcliff.prepare import Prepared
from opdcliff.progress import Stage
from opdcliff.workers import Channel, open_channel, tell, worker_pool


def run_cells(
    cells: Sequence[Cell], prepared: Prepared, paths: StudyPaths, *, workers: int
) -> dict[str, str]:
    """Run the cells that have no outcome yet; returns a reason for each that still has none.

    A cell that raises does not stop the others. A worker that dies (killed, out of memory) takes
    the cells in flight with it; those are tried once more, each alone.
    """
    waiting = [cell for cell in cells if not is_finished(cell, prepared, paths)]
    if not waiting:
        return {}
    failures: dict[str, str] = {}
    total = sum(cell.config.optim.updates for cell in waiting)
    reused = len(cells) - len(waiting)
    title = f"training {len(waiting)} cells" + (f" ({reused} finished before)" if reused else "")
    channel = open_channel()
    with Stage(title, total, channel) as stage:
        run = partial(_run_pool, prepared, paths, channel, stage, failures)
        while waiting:
            lost = run(waiting, workers)
            # Cells begin in order, so only the first of the lost were in flight.
            suspects, waiting = lost[:workers], lost[workers:]
            for cell in suspects:
                for dead in run([cell], 1):
                    failures[dead.name] = "its process died; out of memory, or killed"
    return failures


def _run_pool(
    prepared: Prepared,
    paths: StudyPaths,
    channel: Channel,
    stage: Stage,
    failures: dict[str, str],
    cells: Sequence[Cell],
    workers: int,
) -> list[Cell]:
    """Run cells in one pool; returns, in order, those lost to a worker that died."""
    lost: set[Future[str]] = set()
    with worker_pool(min(workers, len(cells)), channel) as pool:
        jobs = {pool.submit(_work, cell, prepared, paths): cell for cell in cells}
        for done, job in enumerate(as_completed(jobs), start=1):
            cell = jobs[job]
            try:
                status = job.result()
            except BrokenProcessPool:
                lost.add(job)
                continue
            except Exception as error:
                failures[cell.name] = " ".join(f"{type(error).__name__}: {error}".split())
                continue
            stage.update(cell.name, cell.config.optim.updates)
            stage.note(f"{done}/{len(cells)} cells, last {cell.name}: {status}")
    return [cell for job, cell in jobs.items() if job in lost]


def _work(cell: Cell, prepared: Prepared, paths: StudyPaths) -> str:
    return run_cell(cell, prepared, paths, partial(tell, cell.name))
