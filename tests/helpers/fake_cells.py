"""Cells that in a worker process do a deed instead of training; see test_pool.py, fake_study.py."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path

import markov
from opdcliff.models.prepare import Prepared
from opdcliff.paths import StudyPaths
from opdcliff.processes.preemption import requested, stop_if_requested
from opdcliff.records.writer import RunRecord
from opdcliff.study.cells import Cell

PREPARED = Prepared(Path("data"), Path("models"), "ab" * 32)
# Only a failing test waits this long.
PATIENCE_S = 300


@dataclass(frozen=True)
class FakeCell(Cell):
    """deed: finish, raise, die, die_once, segfault, exhaust (the memory), wait (for the file
    `release` in the log folder), or leave (when it is asked to; leave_once).
    """

    deed: str = "finish"
    log: Path = Path()

    @property
    def name(self) -> str:
        return f"{self.config.seed}-{self.deed}"

    def folder(self, prepared: Prepared, paths: StudyPaths) -> Path:
        """The first thing `run_cell` asks for."""
        folder = super().folder(prepared, paths)
        if multiprocessing.parent_process() is not None:
            with (self.log / self.name).open("a") as attempts:
                attempts.write(f"{os.getpid()}\n")
            self._act(folder, prepared)
        return folder

    def _act(self, folder: Path, prepared: Prepared) -> None:
        match self.deed:
            case "raise":
                raise RuntimeError("too\nlittle bread")
            case "die":
                os._exit(9)
            case "die_once" if len(attempts_of(self)) == 1:
                os._exit(9)
            case "segfault":
                ctypes.string_at(0)
            case "exhaust":
                _, most = resource.getrlimit(resource.RLIMIT_AS)
                held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
                resource.setrlimit(resource.RLIMIT_AS, (held + 2**24, most))
                bytearray(2**30)
            case "leave" | "leave_once" if self.deed == "leave" or len(attempts_of(self)) == 1:
                deadline = time.monotonic() + PATIENCE_S
                while not requested():
                    if time.monotonic() > deadline:
                        raise TimeoutError("nobody asked this cell to leave")
                    time.sleep(0.02)
                # Saving takes a while; who does not wait for it ends this process.
                time.sleep(1.0)
                (self.log / "left").touch()
                stop_if_requested()
            case "wait":
                while not (self.log / "release").exists():
                    time.sleep(0.02)
        record = RunRecord.create(
            folder,
            identity=self.identity(prepared),
            config={},
            seed=self.config.seed,
            protocol=self.protocol,
            name=self.name,
        )
        record.close("finished")


def attempts_of(cell: FakeCell) -> list[int]:
    """Process ids of the workers that began the cell, in order."""
    log = cell.log / cell.name
    return [int(line) for line in log.read_text().splitlines()] if log.exists() else []


def make(deeds: list[str], folder: Path) -> tuple[list[FakeCell], StudyPaths]:
    """One cell per deed, and paths inside the folder."""
    (folder / "log").mkdir(exist_ok=True)
    cells = [
        FakeCell(markov.config(f"seed={seed}"), 1.5, "pooled", deed=deed, log=folder / "log")
        for seed, deed in enumerate(deeds)
    ]
    return cells, StudyPaths(folder / "runs", folder / "results")
