"""SIGTERM as a wish: a run that is asked to go saves at the end of its update, then goes.

Clusters announce the end of a job this way, often twice and to every process. The signal only sets
a flag while something is `deferred`, and is passed on to the processes that do the work; at any
other moment it ends the process by `PreemptedError`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from types import FrameType

from opdcliff.errors import PreemptedError

ADVICE = "run the command again to go on from the last checkpoint"


class _State:
    asked = False
    deferred = 0
    # Process ids of those that work for this one, now.
    workers: Callable[[], Iterable[int]] = staticmethod(tuple)


def requested() -> bool:
    """Whether this process was asked to go."""
    return _State.asked


@contextlib.contextmanager
def listening(*, always: bool = False) -> Iterator[None]:
    """Answer SIGTERM in this block, as far as this is a process's main thread.

    always: only ever set the flag, for processes that wait for work between their jobs.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _State.asked = False
    _State.deferred = int(always)
    before = signal.signal(signal.SIGTERM, _asked)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        _State.asked = False


@contextlib.contextmanager
def deferred(workers: Callable[[], Iterable[int]] = tuple) -> Iterator[None]:
    """In this block the signal sets the flag, and is passed on to `workers()`."""
    before = _State.workers
    _State.deferred += 1
    _State.workers = staticmethod(workers)
    try:
        yield
    finally:
        _State.deferred -= 1
        _State.workers = staticmethod(before)


def stop_if_requested() -> None:
    """Raise PreemptedError if this process was asked to go."""
    if _State.asked:
        raise PreemptedError(f"asked to stop (SIGTERM); {ADVICE}")


def _asked(number: int, frame: FrameType | None) -> None:
    _State.asked = True
    for worker in _State.workers():
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGTERM)
    if not _State.deferred:
        raise PreemptedError(f"stopped by SIGTERM between runs; {ADVICE}")
