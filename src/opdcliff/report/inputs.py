"""What a report is made of, checked first: verdicts must be those of the committed table."""

from __future__ import annotations

import html
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from opdcliff.errors import InadmissibleError, TamperedError
from opdcliff.paths import StudyPaths
from opdcliff.storage import decode_floats, in_words
from opdcliff.verification import (
    TABLE,
    VERDICTS,
    Integrity,
    Lock,
    LockedTest,
    as_json,
    bracket_table,
    check_tables,
    read_columns,
    runs_of,
    verify_runs,
)

# What git says depends on how much of the history a checkout has, so these may differ here.
_ANCHORED = ("integrity", "exit_code", "deviations")
_DESCRIPTION = re.compile(r"<dc:description>(.*?)</dc:description>", re.S)
_LOCKED = re.compile(r"(\S+): locked, lock ([0-9a-f]+), records ([0-9a-f]+)")


@dataclass(frozen=True)
class Drawing:
    """One committed figure: its bytes and provenance, or why it is left out.

    elsewhere: it rests on locks, and none of them is the one of this report.
    """

    name: str
    svg: bytes = b""
    provenance: str = ""
    missing: str = ""
    elsewhere: bool = False


@dataclass(frozen=True)
class ReportInputs:
    """Committed results of one locked protocol.

    here: what git says of the committed table on this checkout, which may hold less history.
    brackets: what the grid cells of the seeds alone say, beside the sealed verdicts.
    """

    protocol: str
    lock: Lock
    tests: list[LockedTest]
    verdicts: dict[str, Any]
    cells: pd.DataFrame
    provenance: dict[str, Any]
    here: Integrity
    paths: StudyPaths
    brackets: pd.DataFrame

    def drawing(self, name: str) -> Drawing:
        """A figure of results/figures, if it was drawn from the records of these verdicts."""
        path = self.paths.readable.figures_dir() / f"{name}.svg"
        if not path.is_file():
            where = f"results/figures/{name}.svg"
            return Drawing(name, missing=f"{where} is missing; `opdcliff figures` draws it")
        svg = path.read_bytes()
        found = _DESCRIPTION.search(svg.decode("utf-8", "replace"))
        provenance = html.unescape(found[1]).strip() if found else ""
        locked = _LOCKED.findall(provenance)
        mine = [row for row in locked if row[0] == self.protocol]
        if locked and not mine:
            return Drawing(name, elsewhere=True)
        for protocol, lock, records in mine:
            runs = str(self.verdicts["runs_sha256"])
            if not (self.lock.sha256.startswith(lock) and runs.startswith(records)):
                return Drawing(
                    name,
                    missing=f"drawn from {protocol}, lock {lock}, records {records}, which are not "
                    "those of this report; `opdcliff figures` draws it again",
                )
        return Drawing(name, svg, provenance or "not noted in the file")


def read_inputs(protocol: str, paths: StudyPaths) -> ReportInputs:
    """Read the committed results of a protocol and recompute its verdicts from its table.

    Raises:
        InadmissibleError: a file is missing, or the verdicts are not those of the table.
        TamperedError: lock, sealed code or table do not hold.
    """
    folder = paths.readable.locked_dir(protocol)
    committed = _verdicts(folder / VERDICTS, protocol)
    found = verify_runs(
        protocol, paths, runs_of("table", protocol, paths, entity=None, project=None)
    )
    if found.lock is None or found.integrity is Integrity.TAMPERED:
        reasons = "; ".join(dict.fromkeys(d.what for d in found.deviations))
        raise TamperedError(f"{protocol} gives no report: {reasons}; restore the files from git")
    recomputed = decode_floats(as_json(found))
    different = _differences(recomputed, committed) or _hidden(recomputed, committed)
    if different:
        raise InadmissibleError(
            f"{folder / VERDICTS} is not what {TABLE} gives: {different[0]}"
            f"{f' and {len(different) - 1} more' if len(different) > 1 else ''}; restore both from "
            f"git, or run `opdcliff verify protocol={protocol}`"
        )
    return ReportInputs(
        protocol,
        found.lock,
        found.tests,
        committed,
        read_columns(folder / TABLE),
        check_tables(folder),
        found.integrity,
        paths,
        bracket_table(found),
    )


def _verdicts(path: Path, protocol: str) -> dict[str, Any]:
    try:
        content: dict[str, Any] = decode_floats(json.loads(path.read_text(encoding="utf-8")))
        content["integrity"] = Integrity(content["integrity"])
    except FileNotFoundError as error:
        raise InadmissibleError(
            f"{path} is missing; `opdcliff verify protocol={protocol}` makes it"
        ) from error
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InadmissibleError(
            f"{path} is no verdict file ({in_words(error)}); restore it from git"
        ) from error
    return content


def _differences(ours: Any, theirs: Any, place: str = "") -> list[str]:
    """Places where two results differ, floats to nine digits: libraries round differently."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        keys = [k for k in dict.fromkeys([*ours, *theirs]) if place or k not in _ANCHORED]
        return [
            line
            for key in keys
            for line in _differences(ours.get(key), theirs.get(key), f"{place}.{key}".strip("."))
        ]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        pairs = enumerate(zip(ours, theirs, strict=True))
        return [x for n, (a, b) in pairs for x in _differences(a, b, f"{place}[{n}]")]
    if isinstance(ours, float) and isinstance(theirs, int | float):
        near = math.isclose(ours, theirs, rel_tol=1e-9, abs_tol=1e-12)
        if near or (math.isnan(ours) and math.isnan(theirs)):
            return []
    return [] if ours == theirs else [f"{place} is {theirs!r} and the table gives {ours!r}"]


def _hidden(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """What the table itself shows against the runs, or the file against itself, untold."""
    told = {item["what"] for item in theirs["deviations"]}
    seen = [d["what"] for d in ours["deviations"] if d["integrity"] == Integrity.DEVIATED]
    found = [f"{what!r} is not among its deviations" for what in seen if what not in told]
    order = [str(item) for item in Integrity]
    gravest = max((d["integrity"] for d in theirs["deviations"]), key=order.index, default=order[0])
    if theirs["integrity"] != gravest:
        found.append(f"integrity is {theirs['integrity']} and its deviations say {gravest}")
    return found
