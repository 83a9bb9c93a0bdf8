"""How far the runs of a lock are: cells done, running and failed, hours spent and left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from opdcliff.errors import RecordError
from opdcliff.models import Prepared
from opdcliff.paths import StudyPaths
from opdcliff.prereg.confirm import Key, keyed_cells
from opdcliff.records import OUTCOMES, Record, is_running, read_record
from opdcliff.settings import RunConfig
from opdcliff.verification import CellValue, Lock, final_of, read_test, wanted

RUNNING, KILLED, DAMAGED, WAITING = "running", "killed", "damaged", "to do"


@dataclass(frozen=True)
class Progress:
    """Cells that a lock asks for so far, by what has become of them.

    asked: all of them; a bisected arm asks for more as its cells come in. spent, left: device
    hours, wall time in updates and evaluations times ranks; left is None before a first cell.
    """

    asked: int
    states: Counter[str]
    spent: float
    left: float | None

    @property
    def done(self) -> int:
        """Cells with an outcome."""
        return sum(self.states[status] for status in OUTCOMES)


def progress(config: RunConfig, paths: StudyPaths, lock: Lock, prepared: Prepared) -> Progress:
    """Look at the records of a lock's cells.

    Raises:
        ConfigError: the settings at hand would make other cells than the locked ones.
    """
    cells = keyed_cells(config, lock, prepared)
    folders = {key: cell.folder(prepared, paths) for key, cell in cells.items()}
    found = {key: _looked_at(folder) for key, folder in folders.items()}
    states = {key: state for key, (state, _) in found.items()}
    read = {key: record for key, (_, record) in found.items() if record is not None}
    records = {key: record for key, record in read.items() if states[key] in OUTCOMES}
    done = {key: CellValue(r.status, final_of(r.history)) for key, r in records.items()}
    folder = paths.prereg_dir(lock.protocol)
    asked = wanted([read_test(folder / name) for name in lock.tests], lock, done)
    spent = device_hours(read.values())
    missing = [cells[key].config.optim.updates for key in asked if key not in done]
    return Progress(
        len(asked), Counter(states[key] for key in asked), spent, _left(records, missing)
    )


def device_hours(records: Iterable[Record]) -> float:
    """Wall time of updates and evaluations times ranks, in hours, over records.

    What a restarted run had done since its last checkpoint is not in it.
    """
    return sum(
        float(record.history.filter(regex="^time/").sum().sum())
        * int(record.config["engine"]["ranks"])
        / 3600.0
        for record in records
    )


def _left(records: dict[Key, Record], missing: list[int]) -> float | None:
    """Hours of the updates that are missing, at what an update has taken."""
    if not missing:
        return 0.0
    updates = sum(int(record.history.step.iloc[-1]) for record in records.values())
    return sum(missing) * device_hours(records.values()) / updates if updates else None


def _looked_at(folder: Path) -> tuple[str, Record | None]:
    """What has become of a cell, and its record where that can be read."""
    running = is_running(folder)
    if not folder.is_dir():
        return WAITING, None
    try:
        record = read_record(folder)
    except RecordError:
        # One that is being written may be caught in the middle.
        return (RUNNING if running else DAMAGED), None
    if running or record.status != RUNNING:
        return (RUNNING if running else record.status), record
    # Its last word, and nobody is there to write another.
    return KILLED, record
