"""The whole line in seconds: data, models, calibration, grid, tables; killed, rerun, rebuilt.

The study that is killed is a process of its own; cli/test_own_lines.py has one that ends.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from opdcliff.cli import command

REST = "estimator: null, warmup_updates: null, updates: null"
ARMS = (
    f"[{{name: c5, clip: c5, multiples: [0.8, 1.2], seeds: [0, 1], {REST}}},"
    f"{{name: none, clip: none_, multiples: [1.2], seeds: [0], {REST}}}]"
)
WORDS = ("debug=seconds", "tracking=off", "engine.device=cpu", f"protocol.arms={ARMS}")
TABLES = ("cells.csv", "onsets.csv", "calibration.csv", "references.json", "cliff.csv")
pytestmark = pytest.mark.slow

# Only a failing test waits this long.
PATIENCE_S = 300.0


def start(folder: Path) -> subprocess.Popen[bytes]:
    program = Path(sys.executable).with_name("opdcliff")
    environment = {k: v for k, v in os.environ.items() if k != "OPDCLIFF_RUNS"}
    return subprocess.Popen(
        [str(program), "study", *WORDS],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )


def wait_until(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE_S
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.05)
    return holds()


def group_lives(leader: int) -> bool:
    """Whether any process of the group runs, other than one that has ended unnoticed."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, group = stat.read_text().rpartition(")")[2].split()[:3]
            if int(group) == leader and state != "Z":
                return True
    return False


def finish(folder: Path) -> str:
    """Run the study here, to its end; what it printed."""
    out = io.StringIO()
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stdout(out),
        pytest.MonkeyPatch.context() as p,
    ):
        p.delenv("OPDCLIFF_RUNS", raising=False)
        assert command.main(["study", *WORDS]) == 0
    return out.getvalue()


def tables(folder: Path) -> dict[str, bytes]:
    results = folder / "runs" / "results" / "studies" / "mini" / "quick"
    return {name: (results / name).read_bytes() for name in TABLES}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("whole")
    return folder, finish(folder)


def test_a_study_writes_every_table_and_prints_them(whole: tuple[Path, str]) -> None:
    folder, out = whole
    results = folder / "runs" / "results" / "studies" / "mini" / "quick"
    cells = pd.read_csv(results / "cells.csv")
    assert len(cells) == 5
    assert set(cells["clip"]) == {"c5", "none_"}
    assert cells.parse_rate.between(0, 1).all()
    assert (results / "cliff.png").stat().st_size > 10_000
    assert (results / "cliff.svg").read_text().startswith("<?xml")
    for title in ("Teacher and warm start", "Calibration", "Cells", "Observed onset"):
        assert title in out


def test_a_second_call_trains_nothing_and_writes_the_same(whole: tuple[Path, str]) -> None:
    folder, _ = whole
    before = tables(folder)
    shutil.rmtree(folder / "runs" / "results")
    stamps = mtimes(folder / "runs")
    finish(folder)
    now = mtimes(folder / "runs")
    assert {path: now[path] for path in stamps} == stamps
    assert tables(folder) == before


def mtimes(folder: Path) -> dict[Path, int]:
    """When every record and asset was written last."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_killed_study_goes_on_to_the_same_tables(whole: tuple[Path, str], tmp_path: Path) -> None:
    process = start(tmp_path)
    assert wait_until(lambda: list(tmp_path.glob("runs/quick/*/metrics.jsonl")) != [])
    assert process.poll() is None, "the study ended before it could be killed"
    # The study alone: its workers have to notice.
    process.kill()
    ended = wait_until(lambda: not group_lives(process.pid))
    if not ended:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert ended, "workers outlived the study"
    assert not (tmp_path / "runs" / "results").exists()
    finish(tmp_path)
    assert tables(tmp_path) == tables(whole[0])
