"""Worker processes that tell their progress and do not outlive the process that started them."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from typing import TypeAlias

from opdcliff.errors import PreemptedError
from opdcliff.processes.preemption import listening

# Workers are forked from a process that has loaded the libraries and done nothing else: no thread,
# no model. A new worker, in place of one that died or in the next pool, does not wait for that.
FORKING = multiprocessing.get_context("forkserver")
FORKING.set_forkserver_preload(["opdcliff.processes.library_server"])

# A task and the steps it has made so far.
Channel: TypeAlias = "Queue[tuple[str, int]]"

_channel: Channel | None = None
# What a worker enters at its start and never leaves.
_life = contextlib.ExitStack()


def begin_loading() -> None:
    """Begin to load the libraries of workers to come, beside what this process does meanwhile."""
    forkserver.ensure_running()


def open_channel() -> Channel:
    """A queue that workers tell their progress through; see `progress.Stage`."""
    return FORKING.Queue()


@contextlib.contextmanager
def worker_pool(workers: int, channel: Channel) -> Iterator[ProcessPoolExecutor]:
    """A pool of fresh processes whose jobs may call `tell`.

    Their environment is that of this process at `begin_loading`, else at the first pool's start;
    later changes of it do not reach them.

    Leaving the block on an error or an interrupt waits for the jobs that were given out; on
    PreemptedError they are ended. The pool
    gives out one more than it has workers: to begin none after an interrupt, submit them as
    workers get free.
    """
    with ProcessPoolExecutor(
        workers, mp_context=FORKING, initializer=_begin, initargs=(channel,)
    ) as pool:
        try:
            yield pool
        except BaseException as error:
            # A pool that shuts down knows its processes no more.
            workers_now = process_ids(pool)
            pool.shutdown(wait=False, cancel_futures=True)
            if isinstance(error, PreemptedError):
                # Who asks to go does not wait for jobs that keep nothing.
                for worker in workers_now:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(worker, signal.SIGKILL)
            raise


def process_ids(pool: ProcessPoolExecutor) -> list[int]:
    """The pool's processes, now; the executor keeps them to itself."""
    return list(getattr(pool, "_processes", None) or {})


def tell(task: str, done: int) -> None:
    """In a worker: `task` has made `done` steps in all. The last words of a worker may be lost."""
    assert _channel is not None, "runs in a process of worker_pool"
    _channel.put((task, done))


def _begin(channel: Channel) -> None:
    global _channel  # noqa: PLW0603
    _channel = channel
    # A worker killed while it writes leaves the queue locked; the others must still be able to end.
    channel.cancel_join_thread()
    parent = multiprocessing.parent_process()
    assert parent is not None, "runs in a process of worker_pool"
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    _life.enter_context(listening(always=True))


def _end_with(parent: BaseProcess) -> None:
    # An executor's workers wait for jobs for ever, and would go on with the cells they were given,
    # when the parent is killed.
    parent.join()
    os._exit(1)
