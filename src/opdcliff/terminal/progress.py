"""Progress bars with time left, fed by this process or by workers.

Work is counted in steps of all tasks of a stage together, so that the time left is that of the
stage. On a terminal the bars are live; elsewhere a line is printed now and then.
"""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

# Seconds between two lines where no live bar can be drawn.
LINE_EVERY_S = 20.0


class Stage:
    """One bar over `total` steps made by any number of tasks; use as a context manager.

    `channel` may be a queue shared with worker processes; they put (task, steps made so far).
    shown: whether there is a bar at all, where work of a moment needs none.
    """

    def __init__(
        self,
        title: str,
        total: int,
        channel: Any = None,
        console: Console | None = None,
        *,
        shown: bool = True,
    ) -> None:
        self._title, self._total = title, total
        self._channel = channel
        self._console = console or Console(file=sys.stderr)
        self._done: dict[str, int] = {}
        self._note = ""
        self._stop = threading.Event()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
            disable=not (shown and self._console.is_terminal),
            speed_estimate_period=120,
        )
        self._task = self._bar.add_task(title, total=total, note="")

    def __enter__(self) -> Self:
        self._started = self._said = time.monotonic()
        self._bar.start()
        self._drainer = threading.Thread(target=self._drain, daemon=True)
        self._drainer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._drainer.join()
        self._bar.stop()

    def advance_of(self, task: str) -> Callable[[int], None]:
        """A callback for one task of this process: it is told the steps made so far."""
        return lambda done: self.update(task, done)

    def update(self, task: str, done: int) -> None:
        """Note that `task` has made `done` steps in all."""
        # What a worker said may arrive late: the bar never goes back.
        self._done[task] = max(done, self._done.get(task, 0))
        total_done = sum(self._done.values())
        self._bar.update(self._task, completed=total_done, note=self._note)
        now = time.monotonic()
        if not self._console.is_terminal and now - self._said > LINE_EVERY_S:
            self._said = now
            left = (now - self._started) / max(1, total_done) * (self._total - total_done)
            # A log that cannot be written ends no run.
            with contextlib.suppress(OSError):
                self._console.print(
                    f"{self._title}: {total_done}/{self._total} steps, about {left:.0f} s left"
                    + (f", {self._note}" if self._note else ""),
                    soft_wrap=True,
                )

    def note(self, text: str) -> None:
        """Show a short remark beside the bar."""
        self._note = text
        self._bar.update(self._task, note=text)

    def _drain(self) -> None:
        while self._channel is not None:
            try:
                task, done = self._channel.get(timeout=0.1)
            except queue.Empty:
                if self._stop.is_set():
                    return
            else:
                self.update(task, done)
