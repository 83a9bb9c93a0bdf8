"""Worker processes: cells that fail, workers that die, a study that is killed or interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fake_cells import PATIENCE_S, PREPARED, FakeCell, attempts_of, make
from opdcliff.errors import PreemptedError
from opdcliff.processes import listening
from opdcliff.study import pool
from opdcliff.study.cells import is_finished
from opdcliff.study.pool import run_cells


def wait_until(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE_S
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.05)
    return holds()


def lives(process: int) -> bool:
    """Whether a process runs; one that has ended and waits to be noticed does not."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.slow
def test_failures_and_deaths_stop_no_other_cell(tmp_path: Path) -> None:
    deeds = ["die_once", "segfault", "raise", "exhaust", "finish", "finish"]
    cells, paths = make(deeds, tmp_path)
    failures = run_cells(cells, PREPARED, paths, workers=1)
    assert failures == {
        "1-segfault": "its process died; out of memory, or killed",
        "2-raise": "RuntimeError: too little bread",
        "3-exhaust": "MemoryError:",
    }
    done = [is_finished(cell, PREPARED, paths) for cell in cells]
    assert done == [True, False, False, False, True, True]
    # Those in flight when a worker died are tried once more; those that waited are not suspected.
    assert [len(attempts_of(cell)) for cell in cells] == [2, 2, 1, 1, 1, 1]
    # The cells that waited shared a worker.
    assert len({process for cell in cells[2:] for process in attempts_of(cell)}) == 1


@pytest.mark.slow
def test_cells_run_side_by_side_and_finished_ones_not_again(tmp_path: Path) -> None:
    cells, paths = make(["wait", "wait", "finish", "raise"], tmp_path)
    (tmp_path / "log" / "release").touch()
    assert set(run_cells(cells, PREPARED, paths, workers=2)) == {"3-raise"}
    assert [len(attempts_of(cell)) for cell in cells] == [1, 1, 1, 1]
    run_cells(cells, PREPARED, paths, workers=2)
    assert [len(attempts_of(cell)) for cell in cells] == [1, 1, 1, 2]


def test_without_cells_to_run_no_process_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "worker_pool", None)
    monkeypatch.setattr(pool, "is_finished", lambda *_: True)
    cells, paths = make(["finish"], tmp_path)
    assert run_cells(cells, PREPARED, paths, workers=2) == {}


@contextmanager
def study(folder: Path, *deeds: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that runs cells of these deeds."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-m", "fake_study", str(folder), *deeds]
    with subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.slow
def test_workers_do_not_outlive_a_study_that_is_killed(tmp_path: Path) -> None:
    (cell, second), _ = make(["wait", "wait"], tmp_path)
    with study(tmp_path, "wait", "wait") as process:
        assert wait_until(lambda: attempts_of(cell) != [])
        (worker,) = attempts_of(cell)
        assert lives(worker)
        process.kill()
        ended = wait_until(lambda: not lives(worker))
        if not ended:
            os.kill(worker, signal.SIGKILL)
        assert ended
    assert attempts_of(second) == []


@pytest.mark.slow
def test_an_interrupted_study_ends_after_the_cells_in_flight(tmp_path: Path) -> None:
    cells, paths = make(["wait", "finish", "finish", "finish"], tmp_path)
    with study(tmp_path, *(cell.deed for cell in cells)) as process:
        assert wait_until(lambda: attempts_of(cells[0]) != [])
        process.send_signal(signal.SIGINT)
        (tmp_path / "log" / "release").touch()
        assert process.wait(PATIENCE_S) != 0
        assert process.stderr is not None
        assert "KeyboardInterrupt" in process.stderr.read().decode()
    assert [len(attempts_of(cell)) for cell in cells] == [1, 0, 0, 0]
    assert is_finished(cells[0], PREPARED, paths)


def when_begun(cell: FakeCell, act: Callable[[int], object]) -> threading.Thread:
    """Beside the test: act on the worker that begins a cell, once it has."""

    def watch() -> None:
        if wait_until(lambda: attempts_of(cell) != []):
            act(attempts_of(cell)[0])

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


@pytest.mark.slow
def test_a_study_that_is_asked_to_go_passes_it_on_and_begins_nothing_more(tmp_path: Path) -> None:
    cells, paths = make(["leave", "finish"], tmp_path)
    thread = when_begun(cells[0], lambda worker: os.kill(os.getpid(), signal.SIGTERM))
    with listening(), pytest.raises(PreemptedError):
        run_cells(cells, PREPARED, paths, workers=1)
    thread.join()
    # The worker heard it and had the time to save.
    assert (tmp_path / "log" / "left").exists()
    assert [len(attempts_of(cell)) for cell in cells] == [1, 0]


@pytest.mark.slow
def test_a_study_that_is_asked_to_go_with_all_its_processes_lets_them_save(tmp_path: Path) -> None:
    """In a process of its own, as the process that workers are forked from hears it too."""
    cells, _ = make(["leave", "finish"], tmp_path)
    with study(tmp_path, *(cell.deed for cell in cells)) as process:
        assert wait_until(lambda: attempts_of(cells[0]) != [])
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(PATIENCE_S) == PreemptedError.exit_code
    assert (tmp_path / "log" / "left").exists()
    assert [len(attempts_of(cell)) for cell in cells] == [1, 0]


@pytest.mark.slow
def test_a_worker_that_alone_is_asked_to_go_costs_no_other_cell(tmp_path: Path) -> None:
    cells, paths = make(["leave_once", "finish"], tmp_path)
    thread = when_begun(cells[0], lambda worker: os.kill(worker, signal.SIGTERM))
    assert run_cells(cells, PREPARED, paths, workers=1) == {}
    thread.join()
    assert all(is_finished(cell, PREPARED, paths) for cell in cells)
    assert [len(attempts_of(cell)) for cell in cells] == [2, 1]
