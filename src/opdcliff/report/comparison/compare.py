"""One's own tables of a study beside the committed ones: every number judged, none left out.

What is allowed is derived in `tolerance`; here tables are read, rows found and counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import pandas as pd

from opdcliff.errors import NotReproducedError
from opdcliff.paths import StudyPaths
from opdcliff.report.comparison.calibration import calibration_allowed, first_star, star_spread
from opdcliff.report.comparison.tables import (
    CALIBRATION,
    CELLS,
    KEYS,
    ONSETS,
    REFERENCES,
    Tables,
    read_tables,
)
from opdcliff.report.comparison.tolerance import (
    IDENTITY,
    Allowed,
    Runs,
    around_positive,
    is_share,
    onset_allowed,
    share_of_answers,
    within,
)
from opdcliff.terminal import ARM_KEYS
from opdcliff.verification import check_tables

# The name of a record holds the hash of its models, which is another one under other kernels.
_NAME = "record"
_SHOWN = 3
# Gets the committed row, the name of a column, and the row here.
Allowing = Callable[[pd.Series, str, pd.Series], Allowed | None]


class Agreement(StrEnum):
    """How one number of a rerun stands to the committed one."""

    SAME = "same"
    WITHIN = "within"
    OUTSIDE = "outside"
    NOT_JUDGED = "not judged"


@dataclass(frozen=True)
class Comparison:
    """Every number of a study: columns table, row, column, ours, committed, low, high, verdict,
    reason; with the tables that they come from."""

    name: str
    numbers: pd.DataFrame
    ours: Tables
    committed: Tables

    def count(self, verdict: Agreement) -> int:
        """Numbers of one verdict."""
        return int((self.numbers.verdict == verdict).sum())

    def last_line(self) -> str:
        """What came out, for a reproduced study."""
        left = self.count(Agreement.NOT_JUDGED)
        return (
            f"reproduced: {len(self.numbers)} numbers, of which {self.count(Agreement.SAME)} the "
            f"same bits and {self.count(Agreement.WITHIN)} within the tolerance"
            + (f"; of {left} nothing is claimed" if left else "")
        )

    def raise_if_different(self) -> None:
        """Raise NotReproducedError, naming the first numbers that are outside."""
        outside = self.numbers[self.numbers.verdict == Agreement.OUTSIDE]
        if outside.empty:
            return
        said = [
            f"{n['table']} {n['row']} {n['column']} is {n['ours'] or 'missing'}, committed "
            f"{n['committed'] or 'missing'}"
            + ("" if math.isnan(n["low"]) else f", allowed {n['low']:.4g} to {n['high']:.4g}")
            for n in outside.head(_SHOWN).to_dict("records")
        ]
        more = f"; and {len(outside) - _SHOWN} more" if len(outside) > _SHOWN else ""
        raise NotReproducedError(
            f"not reproduced: {len(outside)} of {len(self.numbers)} numbers of {self.name} are "
            f"outside the tolerance: {'; '.join(said)}{more}; comparison.csv has each with its "
            "reason"
        )


def compare(data: str, protocol: str, paths: StudyPaths) -> Comparison:
    """Set `runs/results/studies/<data>/<protocol>` beside the committed tables of that name.

    Raises:
        InadmissibleError: a table is missing or is none.
        TamperedError: a committed table was edited.
    """
    committed_dir = paths.committed.study_dir(data, protocol)
    if committed_dir.is_dir():
        check_tables(committed_dir)
    committed = read_tables(
        committed_dir, f"nothing is committed of the study data={data} protocol={protocol}"
    )
    ours = read_tables(
        paths.own.study_dir(data, protocol),
        f"run the study {data}/{protocol} first (`opdcliff study`)",
    )
    return compared(f"{data}/{protocol}", ours, committed)


def compared(name: str, ours: Tables, committed: Tables) -> Comparison:
    """Judge every number of the tables of a study."""
    rows = [
        *_judged(CELLS, ours, committed, _of_cells(ours, committed)),
        *_judged(ONSETS, ours, committed, _of_onsets(committed)),
        *_judged(CALIBRATION, ours, committed, _of_calibration(committed)),
        *_judged(REFERENCES, ours, committed, _of_references(committed)),
    ]
    return Comparison(name, pd.DataFrame(rows), ours, committed)


def judge(ours: str, committed: str, allowed: Allowed | None) -> Agreement:
    """The verdict on one printed number. allowed: None where it must be equal."""
    if ours == committed:
        return Agreement.SAME
    if allowed is None:
        return Agreement.OUTSIDE
    if not allowed.claimed:
        return Agreement.NOT_JUDGED
    if allowed.words:
        return Agreement.WITHIN if ours in allowed.words else Agreement.OUTSIDE
    value = float(ours or "nan")
    fits = allowed.blank if math.isnan(value) else allowed.low <= value <= allowed.high
    return Agreement.WITHIN if fits else Agreement.OUTSIDE


def _judged(
    table: str, ours: Tables, committed: Tables, allowing: Allowing
) -> Iterator[dict[str, Any]]:
    """Every number of one table, and rows that only one side has."""
    own, theirs = ours.text[table], committed.text[table]
    there = {key: number for number, key in enumerate(ours.keys[table])}
    for number, key in enumerate(committed.keys[table]):
        about = {"table": table, "row": _row_name(table, theirs.iloc[number])}
        if key not in there:
            yield about | _line("row", "", "there", None, Agreement.OUTSIDE, "the row is missing")
            continue
        row, mine = committed.typed[table].iloc[number], ours.typed[table].iloc[there[key]]
        for column in [c for c in theirs.columns if c != _NAME and c not in KEYS[table]]:
            left = str(own[column].iloc[there[key]]) if column in own else ""
            right = str(theirs.iloc[number][column])
            allowed = allowing(row, column, mine)
            verdict = judge(left, right, allowed)
            reason = IDENTITY if allowed is None else allowed.reason
            yield about | _line(column, left, right, allowed, verdict, reason)
    for key, number in there.items():
        if key not in committed.keys[table]:
            about = {"table": table, "row": _row_name(table, own.iloc[number])}
            reason = "no such row is committed"
            yield about | _line("row", "there", "", None, Agreement.OUTSIDE, reason)


def _line(
    column: str, ours: str, committed: str, allowed: Allowed | None, verdict: Agreement, reason: str
) -> dict[str, Any]:
    bounds = (math.nan, math.nan) if allowed is None else (allowed.low, allowed.high)
    return {
        "column": column,
        "ours": ours,
        "committed": committed,
        "low": bounds[0],
        "high": bounds[1],
        "verdict": str(verdict),
        "reason": reason,
    }


def _row_name(table: str, row: pd.Series) -> str:
    """What a reader calls a row."""
    if table == CALIBRATION:
        return f"{row['class']} {row['offsets']}"
    if table == REFERENCES:
        return str(row["model"])
    arm = f"{row['clip']} {row['estimator']} w{row['warmup']} n{row['budget']}"
    return f"{arm} lam={row['lam']} seed={row['seed']}" if table == CELLS else arm


def _of_cells(ours: Tables, committed: Tables) -> Allowing:
    calibration = committed.typed[CALIBRATION]
    ratio = first_star(ours.typed[CALIBRATION]) / first_star(calibration)
    runs = Runs(committed.typed[CELLS], star_spread(calibration), ratio if ratio > 0 else 1.0)
    return runs.allowed


def _of_onsets(committed: Tables) -> Allowing:
    cells, spread = committed.typed[CELLS], star_spread(committed.typed[CALIBRATION])

    def allowed(row: pd.Series, column: str, own: pd.Series) -> Allowed | None:
        mine = cells[(cells[ARM_KEYS] == row[ARM_KEYS]).all(axis=1)]
        return onset_allowed(row, column, own, sorted(mine.lam.unique()), spread)

    return allowed


def _of_calibration(committed: Tables) -> Allowing:
    table = committed.typed[CALIBRATION]
    return lambda row, column, _: calibration_allowed(row, column, table)


def _of_references(committed: Tables) -> Allowing:
    runs = Runs(committed.typed[CELLS], 0.0)

    def allowed(row: pd.Series, column: str, _: pd.Series) -> Allowed | None:
        name, value = column.removeprefix("eval/"), row[column]
        if is_share(name):
            parse = row["eval/parse_rate"] if "parsed" in name else 1.0
            return share_of_answers(value, row["eval/prompts"] * parse)
        if name == "mean_length":
            spread = runs.largest_spread(name)
            if math.isnan(spread):
                return within(value, math.inf, "a spread over seeds")
            return Allowed(
                *around_positive(value, spread), "largest spread over seeds of the cells"
            )
        return None

    return allowed
