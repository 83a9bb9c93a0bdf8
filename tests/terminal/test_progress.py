"""Progress: steps of all tasks together, from this process or told by workers."""

from __future__ import annotations

import io
import queue
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from opdcliff.processes.workers import open_channel, tell, worker_pool
from opdcliff.terminal import progress
from opdcliff.terminal.progress import Stage


@pytest.fixture
def log() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def every_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_S", -1.0)


def console(log: io.StringIO, *, terminal: bool = False) -> Console:
    return Console(file=log, force_terminal=terminal, width=160)


@pytest.mark.usefixtures("every_line")
def test_a_log_gets_lines_of_all_tasks_together(log: io.StringIO) -> None:
    with Stage("training", 30, console=console(log)) as stage:
        stage.update("a", 5)
        stage.advance_of("b")(4)
        stage.note("1/2 cells")
        stage.update("a", 10)
    lines = log.getvalue().splitlines()
    assert [line.split(" steps")[0] for line in lines] == [
        *("training: 5/30", "training: 9/30", "training: 14/30")
    ]
    assert "s left" in lines[0]
    assert lines[0].count("1/2 cells") == 0
    assert lines[2].endswith("1/2 cells")


def test_a_log_is_not_flooded(log: io.StringIO) -> None:
    with Stage("training", 1000, console=console(log)) as stage:
        for done in range(1000):
            stage.update("a", done)
    assert log.getvalue() == ""


@pytest.mark.usefixtures("every_line")
def test_late_news_do_not_turn_the_bar_back(log: io.StringIO) -> None:
    with Stage("training", 30, console=console(log)) as stage:
        stage.update("a", 20)
        stage.update("a", 7)
    assert log.getvalue().splitlines()[-1].startswith("training: 20/30")


@pytest.mark.usefixtures("every_line")
def test_nothing_told_is_lost_at_the_end(log: io.StringIO) -> None:
    channel: queue.Queue[tuple[str, int]] = queue.Queue()
    with Stage("training", 50, channel, console(log)):
        for done in range(1, 51):
            channel.put(("a", done))
    assert channel.empty()
    assert log.getvalue().splitlines()[-1].startswith("training: 50/50")


def test_a_terminal_gets_a_bar(log: io.StringIO) -> None:
    with Stage("training", 30, console=console(log, terminal=True)) as stage:
        stage.update("a", 30)
        stage.note("done soon")
    text = log.getvalue()
    assert "training" in text
    assert "30/30" in text
    assert "done soon" in text


def test_an_error_inside_leaves_the_stage_closed(log: io.StringIO) -> None:
    channel: queue.Queue[tuple[str, int]] = queue.Queue()
    stage = Stage("training", 30, channel, console(log, terminal=True))
    with pytest.raises(RuntimeError, match="broken"), stage:
        raise RuntimeError("broken")
    assert not stage._drainer.is_alive()


# ---- workers --------------------------------------------------------------------------------


def count_up(tasks: list[str], steps: int, release: Path) -> bool:
    for done in range(1, steps + 1):
        for task in tasks:
            tell(task, done)
    # A worker that ends at once may take its last words with it.
    return wait_until(release.exists)


def wait_until(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 300
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.02)
    return holds()


@pytest.mark.usefixtures("every_line")
def test_workers_tell_their_progress(log: io.StringIO, tmp_path: Path) -> None:
    channel, release = open_channel(), tmp_path / "release"
    with Stage("training", 12, channel, console(log)), worker_pool(1, channel) as pool:
        job = pool.submit(count_up, ["a", "b"], 6, release)
        assert wait_until(lambda: "training: 12/12" in log.getvalue())
        release.touch()
        assert job.result()
