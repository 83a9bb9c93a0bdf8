"""What grid cells alone say of the onsets of a lock, beside its sealed verdicts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest

from opdcliff.paths import REPO_ROOT
from opdcliff.verification.report import as_markdown
from opdcliff.verification.tables import bracket_table
from opdcliff.verification.verdicts import PARSE_RATE, CellValue, Outcome
from opdcliff.verification.verification import Verification, verify


@cache
def committed() -> Verification:
    return verify("mini", source="table", root=REPO_ROOT)


def with_rates(rate: Callable[[float, int], float]) -> Verification:
    """The committed study with other parse rates, of a lambda and a seed's number."""
    found = committed()
    assert found.lock is not None
    seeds = list(found.lock.seeds)
    cells = {
        (arm, lam, seed): CellValue(
            "finished", {**cell.metrics, PARSE_RATE: rate(lam, seeds.index(seed))}
        )
        for (arm, lam, seed), cell in found.cells.items()
    }
    return replace(found, cells=cells)


def test_the_committed_study_reads_the_same_by_its_cells() -> None:
    table = bracket_table(committed()).set_index("test")
    assert table["brackets alone say"].to_dict() == {
        "T1": "inside the window",
        "T1_exact": "below the window",
        "T2": "inside the window",
        "T3": "inside the window",
        "T3_exact": "below the window",
    }
    assert table.interval["T1"] == "[1.7961, 1.8375]"


@pytest.mark.parametrize(
    ("rate", "said"),
    [
        (lambda lam, _: float(lam < 1.70), "below the window"),
        (lambda lam, _: float(lam < 1.95), "above the window"),
        (lambda lam, _: float(lam < 1.83), "inside the window"),
        (lambda lam, number: float(lam < (1.70 if number % 2 else 1.95)), "over an end of the"),
        # None crosses.
        (lambda *_: 1.0, "above the window"),
        (lambda *_: 0.0, "below the window"),
    ],
)
def test_a_reading_is_where_the_interval_lies(
    rate: Callable[[float, int], float], said: str
) -> None:
    found = with_rates(rate)
    assert bracket_table(found).set_index("test")["brackets alone say"]["T1"].startswith(said)
    assert said in as_markdown(found)


def test_a_test_that_was_not_judged_has_no_reading() -> None:
    found = committed()
    verdicts = [
        replace(v, outcome=Outcome.INADMISSIBLE if v.id == "T1" else v.outcome)
        for v in found.verdicts
    ]
    table = bracket_table(replace(found, verdicts=verdicts))
    assert table.test.tolist() == ["T1_exact", "T2", "T3", "T3_exact"]
