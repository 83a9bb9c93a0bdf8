"""A small run and its record, for the tests of everything that reads or writes records."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from opdcliff.records.record import run_identity
from opdcliff.records.writer import RunRecord

CONFIG_VALUES = {"lam": {"value": 1.25}, "lr": 1e-5, "name": "no", "grid": [1, 2.0, None]}
CLAIM: dict[str, Any] = {
    "identity": run_identity(CONFIG_VALUES),
    "config": CONFIG_VALUES,
    "seed": 3,
    "protocol": "mini",
    "name": "lam=1.25",
}


def write_record(
    folder: Path, steps: int = 3, status: str | None = "finished", **claim: Any
) -> Path:
    """A record of `steps` lines; `status` None leaves it as a killed writer would, unlocked."""
    record = RunRecord.create(folder, **CLAIM | claim)
    for step in range(steps):
        record.log(step * 10, {"eval/parse_rate": 1 / (step + 3), "train/kl": -step})
    if status is None:
        record._release()
    else:
        record.close(status)
    return folder


@contextmanager
def writer_process(folder: Path, then: str) -> Iterator[subprocess.Popen[str]]:
    """A process that opens the record, says `open`, and goes on with `then`."""
    script = (
        "import sys, pathlib\n"
        "from opdcliff.records.writer import RunRecord\n"
        f"record = RunRecord.create(pathlib.Path(sys.argv[1]), **{CLAIM!r})\n"
        "print('open', flush=True)\n" + then
    )
    command = [sys.executable, "-c", script, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
        try:
            yield child
        finally:
            child.kill()
