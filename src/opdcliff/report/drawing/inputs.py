"""What figures are drawn from: committed tables, the lock, and where each of them comes from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from opdcliff.errors import DataError, InadmissibleError
from opdcliff.paths import StudyPaths
from opdcliff.storage import decode_floats, file_digest
from opdcliff.verification import (
    LOCK_FILE,
    TABLE,
    TRAJECTORIES,
    VERDICTS,
    Lock,
    LockedTest,
    check_tables,
    read_columns,
    read_lock,
    read_test,
)

LOCKED, EXPLORATORY = "locked", "exploratory"
# The protocol whose lock and verdicts figures show unless they name another.
PROTOCOL = "mini"
SIMULATION = "simulation (opdcliff.theory.simulate): no data, no lock, no records, no code commit"
THEORY = "closed form (docs/theory.md): no data, no lock, no records, no code commit"


class MissingInputError(DataError):
    """A figure's input is not there; the message names the command that makes it."""


@dataclass(frozen=True)
class LockedStudy:
    """The locked study as committed: runs, verdicts, tests, and its provenance line."""

    lock: Lock
    cells: pd.DataFrame
    verdicts: dict[str, Any]
    tests: dict[str, LockedTest]
    origin: str

    def arm(self, name: str) -> pd.DataFrame:
        """The runs of one arm, by lambda and seed."""
        rows = self.cells[self.cells.arm == name]
        return rows.sort_values(["lam", "seed"], ignore_index=True)

    @property
    def binding(self) -> tuple[float, float]:
        """p and b of the class and offsets that bind, as calibrated before the lock."""
        found = self.lock.calibration["binding"]
        return float(found["p"]), float(found["b"])


@dataclass(frozen=True)
class Study:
    """One exploratory study as committed; a table it does not have is asked for and told."""

    folder: Path
    command: str
    origin: str

    def table(self, name: str) -> pd.DataFrame:
        """cells, onsets, calibration or distribution of `study`, trajectories of `collect`."""
        return read_columns(_there(self.folder / f"{name}.csv", self.command))

    def references(self) -> dict[str, dict[str, float]]:
        """Metrics of teacher and warm start."""
        path = _there(self.folder / "references.json", self.command)
        content: dict[str, dict[str, float]] = decode_floats(json.loads(path.read_text()))
        return content

    def binding(self) -> pd.Series[Any]:
        """The row of the calibration that binds."""
        table = self.table("calibration")
        return table[table.binding].iloc[0]


@dataclass(frozen=True)
class Inputs:
    """The committed results of a checkout. Every method raises MissingInputError.

    A table that was edited after its runs is a TamperedError.
    """

    paths: StudyPaths
    # Each is read and checked once: a page asks forty times for four of them.
    _locked: dict[str, LockedStudy] = field(default_factory=dict, repr=False, compare=False)

    def locked(self, protocol: str = PROTOCOL) -> LockedStudy:
        """The study of the lock in prereg/<protocol>."""
        if protocol not in self._locked:
            self._locked[protocol] = self._read_locked(protocol)
        return self._locked[protocol]

    def _read_locked(self, protocol: str) -> LockedStudy:
        folder, prereg = self._locked_dir(protocol), self.paths.prereg_dir(protocol)
        command = f"opdcliff verify protocol={protocol}"
        _there(prereg / LOCK_FILE, f"opdcliff lock protocol={protocol}")
        lock, broken = read_lock(prereg)
        if lock is None or broken:
            raise MissingInputError(f"{prereg} does not hold what was locked: {'; '.join(broken)}")
        _there(folder / TABLE, command)
        _checked(folder)
        cells = read_columns(folder / TABLE)
        verdicts = decode_floats(json.loads(_there(folder / VERDICTS, command).read_text()))
        tests = {test.id: test for test in (read_test(prereg / name) for name in lock.tests)}
        commits = ", ".join(sorted(commit[:12] for commit in set(cells.code_commit)))
        origin = (
            f"{protocol}: locked, lock {lock.sha256[:12]}, records "
            f"{verdicts['runs_sha256'][:12]}, code {commits}"
        )
        return LockedStudy(lock, cells, verdicts, tests, origin)

    def trajectories(self) -> pd.DataFrame:
        """Every evaluation of every run of the locked study."""
        path = _there(
            self._locked_dir(PROTOCOL) / TRAJECTORIES, f"opdcliff collect protocol={PROTOCOL}"
        )
        _checked(path.parent)
        return read_columns(path)

    def _locked_dir(self, protocol: str) -> Path:
        return self.paths.readable.locked_dir(protocol)

    def study(self, data: str, protocol: str, command: str) -> Study:
        """An exploratory study on one data set; `command` makes it."""
        folder = self.paths.readable.study_dir(data, protocol)
        return _exploratory(folder, f"{data}/{protocol}", command)

    def grid(self, protocol: str, command: str) -> Study:
        """A collected grid of `train -m`, which has no table but cells; `command` makes it."""
        return _exploratory(self.paths.readable.grid_dir(protocol), protocol, command)

    def preview(self, name: str, command: str, first: str = "beside.csv") -> Study:
        """Settled students, by default beside the runs of a protocol; `command` makes it."""
        folder = self.paths.readable.preview_dir(name)
        return _exploratory(folder, f"preview of {name}", command, first=first)

    def prediction(self, name: str) -> dict[float, tuple[float, float]]:
        """Predicted onsets by clip strength, of `opdcliff predict`, as committed before runs."""
        path = self.paths.committed.root / "predictions" / f"{name}.json"
        found = json.loads(_there(path, f"git checkout {path.name}").read_text())
        return {each["strength"]: (each["low"], each["high"]) for each in found["at"]}


def _exploratory(folder: Path, name: str, command: str, first: str = TABLE) -> Study:
    cells = _there(folder / first, command)
    noted = _checked(folder)
    return Study(folder, command, f"{name}: exploratory, no lock, {_records(noted, cells)}")


def _checked(folder: Path) -> dict[str, Any]:
    """What is noted about the tables of a folder, which are as they were sealed."""
    try:
        return check_tables(folder)
    except InadmissibleError as error:
        raise MissingInputError(str(error)) from error


def _records(noted: Mapping[str, Any], cells: Path) -> str:
    """Records and code of a table as `collect` noted them, else the table's own hash."""
    if not noted.get("code_commits"):
        return f"records not noted, table {file_digest(cells)[:12]}, code not noted"
    commits = ", ".join(commit[:12] for commit in noted["code_commits"])
    dirty = " with uncommitted changes" if noted["code_dirty"] else ""
    return f"records {noted['runs_sha256'][:12]}, code {commits}{dirty}"


def _there(path: Path, command: str) -> Path:
    if not path.exists():
        raise MissingInputError(f"{_shown(path)} is missing; `{command}` makes it")
    return path


def _shown(path: Path) -> Path:
    """The path from the folder of results or locks on, which is the same on every machine."""
    roots = [parent for parent in path.parents if parent.name in ("results", "prereg")]
    return path.relative_to(roots[-1].parent) if roots else path
