"""Ranks that fail at once in the way $OPDCLIFF_FAULT names; see test_engine.py."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from opdcliff.processes import rank

FAULT = "OPDCLIFF_FAULT"


def fail(job: Path, tell: Callable[..., None]) -> None:
    tell("advance", update=os.getpid())
    match os.environ[FAULT], os.environ["RANK"]:
        case "leave", _:
            return
        case "late", "0":
            tell("outcome", status="finished", update=4)
            return
        case (("raise" | "late"), "1"):
            raise RuntimeError("too\nlittle bread")
        case "kill", "1":
            os.kill(os.getpid(), signal.SIGKILL)
        case "kill", "0":
            # What gloo says then.
            raise RuntimeError("Read error [127.0.0.1]: Connection reset by peer")
    time.sleep(100)


if __name__ == "__main__":
    rank._train = fail
    rank.main(Path(sys.argv[1]))
