"""One rank of several: `python -m opdcliff.processes.rank JOB`, started by a launcher.

JOB is a YAML file whose `entry` names the function that does the work. A rank keeps no record; it
tells its parent what happens (see `rank_events`).
"""

from __future__ import annotations

import importlib
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from opdcliff.processes.collector import spare_imports
from opdcliff.processes.preemption import listening
from opdcliff.processes.rank_events import encode
from opdcliff.storage import redact_text, told

# Characters of an error; up to 4096 bytes reach the pipe in one piece, not mixed with the lines of
# other ranks, and JSON may turn a character into six.
_LONGEST_ERROR = 600


def main(job: Path) -> None:
    """Do the job, and tell; raises what the job raises."""
    spare_imports()
    tell, rank = _channel(), int(os.environ["RANK"])
    try:
        with listening(always=True):
            tell("started", rank=rank, pid=os.getpid(), host=socket.gethostname())
            _train(job, tell if rank == 0 else lambda event, **fields: None)
    except Exception as error:
        # Before it is cut, since half a secret is not recognised.
        text = redact_text(told(error))
        tell("error", rank=rank, text=text[:_LONGEST_ERROR])
        raise
    # All is said. A native thread of a library that is still there when the interpreter goes down
    # can abort the process, and a run would count as failed.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _train(job: Path, tell: Callable[..., None]) -> None:
    # Imported here, so that what a library prints or raises on import is heard as well.
    import yaml

    module, _, function = yaml.safe_load(job.read_text(encoding="utf-8"))["entry"].partition(":")
    getattr(importlib.import_module(module), function)(job, tell)


def _channel() -> Callable[..., None]:
    """Take standard output for events; from now on everything printed joins standard error."""
    pipe = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def tell(event: str, **fields: Any) -> None:
        os.write(pipe, encode(event, **fields))

    return tell


if __name__ == "__main__":
    main(Path(sys.argv[1]))
