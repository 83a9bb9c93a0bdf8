"""Processes of a pool end with the block that gave them work, if that was asked to go."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import psutil
import pytest

from opdcliff.errors import PreemptedError
from opdcliff.processes.workers import open_channel, worker_pool


def last(file: Path) -> None:
    file.with_suffix(".part").write_text(str(os.getpid()))
    file.with_suffix(".part").rename(file)
    time.sleep(600)


def work_until_asked_to_go(file: Path) -> None:
    with worker_pool(1, open_channel()) as pool:
        pool.submit(last, file)
        while not file.exists():
            time.sleep(0.05)
        raise PreemptedError("asked to go")


def test_who_is_asked_to_go_leaves_no_job_behind_that_keeps_nothing(tmp_path: Path) -> None:
    """A study stopped while it fine-tuned said so, and went on until its models were done."""
    file = tmp_path / "process"
    with pytest.raises(PreemptedError, match="asked to go"):
        work_until_asked_to_go(file)
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(int(file.read_text())).wait(60)
