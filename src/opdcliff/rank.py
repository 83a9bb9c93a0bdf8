"""One rank of a cell: `python -m opdcliff.rank JOB`, started by `opdcliff.launch`.

It keeps no record; it tells the parent what happens, as described there.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from opdcliff.preemption import listening
from opdcliff.rank_events import encode
from opdcliff.redaction import redact_text

# Characters of an error; up to 4096 bytes reach the pipe in one piece, not mixed with the lines of
# other ranks, and JSON may turn a character into six.
_LONGEST_ERROR = 600


def main(job: Path) -> None:
    """Train, and tell; raises what training raises."""
    tell, rank = _channel(), int(os.environ["RANK"])
    try:
        with listening(always=True):
            tell("started", rank=rank, pid=os.getpid(), host=socket.gethostname())
            _train(job, tell if rank == 0 else lambda event, **fields: None)
    except Exception as error:
        # Before it is cut, since half a secret is not recognised.
        text = redact_text(" ".join(f"{type(error).__name__}: {error}".split()))
        tell("error", rank=rank, text=text[:_LONGEST_ERROR])
        raise
    # All is said. A native thread of a library that is still there when the interpreter goes down
    # can abort the process, and a run would count as failed.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _train(path: Path, tell: Callable[..., None]) -> None:
    # Imported here, so that what a library prints or raises on import is heard as well.
    from torch import distributed as dist

    from opdcliff.cells import train_here
    from opdcliff.launch import Job

    outcome = train_here(
        Job.read(path),
        report=lambda update, metrics: tell("report", update=update, metrics=metrics),
        advance=lambda update: tell("advance", update=update),
    )
    tell("outcome", **asdict(outcome))
    dist.destroy_process_group()


def _channel() -> Callable[..., None]:
    """Take standard output for events; from now on everything printed joins standard error."""
    pipe = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def tell(event: str, **fields: Any) -> None:
        os.write(pipe, encode(event, **fields))

    return tell


if __name__ == "__main__":
    main(Path(sys.argv[1]))
