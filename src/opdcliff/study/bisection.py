"""Which cells of a study bisection asks for: seed by seed, from the middle of an arm's lambdas."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from opdcliff.models import Prepared
from opdcliff.paths import StudyPaths
from opdcliff.records import OUTCOMES, read_record
from opdcliff.settings import science
from opdcliff.storage import digest
from opdcliff.study.cells import Cell
from opdcliff.theory import LEVEL, bisected
from opdcliff.verification import PARSE_RATE


def asked_for(cells: Sequence[Cell], prepared: Prepared, paths: StudyPaths) -> list[Cell]:
    """The cells that each seed of each arm needs, as far as those with an outcome tell.

    All those on the path of `theory.bisected`, the next one included. A run that diverged does not
    hold.
    """
    arms: dict[str, dict[float, Cell]] = defaultdict(dict)
    for cell in cells:
        # Of an arm and a seed all settings but lambda are the same, and lambda is not among them.
        arms[digest(science(cell.config), "arm")][cell.lam] = cell
    asked: list[Cell] = []
    for of_lam in arms.values():

        def holds(lam: float, of_lam: dict[float, Cell] = of_lam) -> bool | None:
            asked.append(of_lam[lam])
            return _holds(of_lam[lam], prepared, paths)

        bisected(list(of_lam), holds)
    return asked


def _holds(cell: Cell, prepared: Prepared, paths: StudyPaths) -> bool | None:
    status = cell.status(prepared, paths)
    if status not in OUTCOMES:
        return None
    if status == "diverged":
        return False
    return bool(read_record(cell.folder(prepared, paths)).history[PARSE_RATE].iloc[-1] >= LEVEL)
