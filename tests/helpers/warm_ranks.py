"""Ranks for tests, forked from a process that has imported what they need.

Two fresh interpreters and their launcher spend 15 s of CPU on imports, and the tests of ranks start
some twenty of them. `started_warm` puts this in the place of the launcher; that the real ones start
ranks is for tests that do without it.

`python -m warm_ranks SOCKET` is the process that forks, one for all tests of this one; as a script,
`warm_ranks.py SOCKET PORT RANKS MODULE WORD...` stands for a launcher: it hands over its output and
environment, waits, and leaves with the exit code of the ranks. Where it dies its ranks are killed.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pytest

    from opdcliff.settings import EngineConfig

_PRELOADED = (
    "transformers.models.qwen3.modeling_qwen3",
    "deepspeed",
    "opdcliff.training.ranks",
    "kept",
)
_OUTPUTS = (1, 2)
_SECONDS = 0.02
_LOOK_SECONDS = 5.0


def started_warm(patch: pytest.MonkeyPatch) -> None:
    """Start the ranks of this process's runs from the warm one, until the patch is undone."""
    from opdcliff.training import ranks

    def command(
        engine: EngineConfig, module: str, job: Path, *, port: int, environment: Mapping[str, str]
    ) -> list[str]:
        return warm_command(engine.ranks, port, module, str(job))

    patch.setattr(ranks, "launch_command", command)


def warm_command(ranks: int, port: int, module: str, *words: str) -> list[str]:
    """The command that runs `python -m MODULE WORD...` on ranks that meet at a port."""
    words = (_server(), str(port), str(ranks), module, *words)
    return [sys.executable, "-I", "-S", __file__, *words]


@cache
def _server() -> str:
    """The socket of the warm process, which this call starts; it ends with this process."""
    from places import with_helpers

    folder = tempfile.TemporaryDirectory(prefix="warm-")
    path = str(Path(folder.name, "socket"))
    environment = {**with_helpers(), "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen(
        [sys.executable, "-m", "warm_ranks", path], env=environment, stdout=subprocess.DEVNULL
    )

    def end() -> None:
        server.kill()
        server.wait()
        folder.cleanup()

    atexit.register(end)
    while not Path(path).exists():
        assert server.poll() is None, "the process that forks ranks could not be started"
        time.sleep(_SECONDS)
    return path


def _serve(path: str) -> None:
    import gc
    import importlib

    for name in _PRELOADED:
        importlib.import_module(name)
    gc.freeze()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path + ".new")
    listener.listen()
    # Looks now and then whether the tests it serves are still there.
    listener.settimeout(_LOOK_SECONDS)
    os.rename(path + ".new", path)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    parent = os.getppid()
    while os.getppid() == parent:
        try:
            line, _ = listener.accept()
        except TimeoutError:
            continue
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _attend(line)
        line.close()


def _attend(line: socket.socket) -> None:
    """Run the ranks of one launch; never returns."""
    text, outputs, _, _ = socket.recv_fds(line, 1 << 20, len(_OUTPUTS))
    while not text.endswith(b"\n"):
        text += line.recv(1 << 20)
    launch = json.loads(text)
    for own, theirs in zip(_OUTPUTS, outputs, strict=True):
        os.dup2(theirs, own)
        os.close(theirs)
    pids = []
    for rank in range(launch["ranks"]):
        pid = os.fork()
        if pid == 0:
            line.close()
            _be_rank(launch, rank)
        pids.append(pid)
    line.setblocking(False)
    code, running = 0, set(pids)
    while running:
        for pid in list(running):
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                continue
            code = code or os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            running.discard(pid)
        if code or _gone(line):
            for pid in running:
                os.kill(pid, signal.SIGKILL)
        time.sleep(_SECONDS)
    if not _gone(line):
        line.sendall(b"%d\n" % (code % 256))
    os._exit(0)


def _gone(line: socket.socket) -> bool:
    try:
        return line.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def _be_rank(launch: dict[str, Any], rank: int) -> None:
    import runpy

    os.environ.clear()
    os.environ.update(launch["environment"])
    ranks, port = str(launch["ranks"]), str(launch["port"])
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=ranks)
    os.environ.update(LOCAL_WORLD_SIZE=ranks, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    os.chdir(launch["folder"])
    sys.argv[:] = [launch["module"], *launch["words"]]
    code = 1
    try:
        runpy.run_module(launch["module"], run_name="__main__", alter_sys=True)
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _launch(path: str, port: str, ranks: str, module: str, *words: str) -> int:
    launch = {
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "port": int(port),
        "ranks": int(ranks),
        "module": module,
        "words": words,
    }
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(path)
        data = json.dumps(launch).encode() + b"\n"
        sent = socket.send_fds(line, [data], _OUTPUTS)
        line.sendall(data[sent:])
        return int(line.makefile().readline() or 1)


if __name__ == "__main__":
    if len(sys.argv) == 2:
        _serve(sys.argv[1])
    else:
        sys.exit(_launch(*sys.argv[1:]))
