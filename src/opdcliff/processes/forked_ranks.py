"""Ranks of a machine without GPUs, forked from the process that workers are forked from.

Under torchrun the launcher and every rank import the libraries anew, which on a CPU takes longer
than a short run; these start with what `library_server` has loaded.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing import connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from opdcliff.processes.workers import FORKING

_LOOPBACK = "127.0.0.1"
_OUTPUT, _ERRORS = 1, 2
# For the others to fail by themselves, and to say of whom they lost touch, once one has.
_GRACE_SECONDS = 10.0


class ForkedRanks:
    """Processes that run `python -m MODULE WORD...`, with what is needed of `subprocess.Popen`.

    stdout: what they print, together; text. It ends when the last of them does.
    """

    def __init__(
        self,
        module: str,
        words: Sequence[str],
        *,
        ranks: int,
        port: int,
        environment: Mapping[str, str],
        errors: Path,
    ) -> None:
        """Start them.

        port: a free one of this machine, for the ranks to meet at.
        environment: theirs, but for the variables that tell a rank which it is.
        errors: file that takes their standard error, behind what it holds.
        """
        read, write = connection.Pipe(duplex=False)
        self.stdout = os.fdopen(os.dup(read.fileno()), encoding="utf-8", errors="replace")
        read.close()
        shared = {"WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_PORT": port}
        self._code = 0
        # By what gets ready when they end.
        self._running: dict[Any, ForkServerProcess] = {}
        for rank in range(ranks):
            own = {"RANK": rank, "LOCAL_RANK": rank, "MASTER_ADDR": _LOOPBACK, **shared}
            variables = {**environment, **{name: str(value) for name, value in own.items()}}
            process = FORKING.Process(
                target=_be_rank, args=(module, list(words), variables, write, errors), daemon=True
            )
            process.start()
            self._running[process.sentinel] = process
        write.close()
        # The only one that asks the ranks for their exit codes, which can be read once.
        self._watch = threading.Thread(target=self._until_all_ended, daemon=True)
        self._watch.start()

    def poll(self) -> int | None:
        """The first exit code that is none of success, 0 if there is none; None while one runs."""
        return None if self._watch.is_alive() else self._code

    def wait(self) -> int:
        """The exit code as in `poll`, once all have ended."""
        self._watch.join()
        return self._code

    def terminate(self) -> None:
        """End them where they are: asked by SIGTERM, ranks would save, which they do together."""
        for process in list(self._running.values()):
            if process.pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)

    def _until_all_ended(self) -> None:
        while self._running:
            ended = connection.wait(list(self._running), _GRACE_SECONDS if self._code else None)
            if not ended:
                self.terminate()
            for sentinel in ended:
                process = self._running.pop(sentinel)
                process.join()
                self._code = self._code or process.exitcode or 0


def _be_rank(
    module: str,
    words: list[str],
    variables: dict[str, str],
    output: connection.Connection,
    errors: Path,
) -> None:
    os.dup2(output.fileno(), _OUTPUT)
    output.close()
    with errors.open("ab") as file:
        os.dup2(file.fileno(), _ERRORS)
    os.environ.clear()
    os.environ.update(variables)
    sys.argv[:] = [module, *words]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
