"""The committed results: anybody can recompute the verdicts from the committed table of runs."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from opdcliff.paths import REPO_ROOT, StudyPaths
from opdcliff.storage import encode_floats
from opdcliff.verification import report as report_module
from opdcliff.verification.run_sources import runs_of
from opdcliff.verification.verification import Integrity, Verification, verify_runs

PATHS = StudyPaths(REPO_ROOT / "runs", REPO_ROOT / "results", REPO_ROOT / "prereg")
LOCKS = sorted(path.name for path in (REPO_ROOT / "results/locked").iterdir())
# What git says depends on how much of the history a checkout has.
ANCHORED = ("integrity", "exit_code", "deviations")


# How the README says an outcome of the locks beside `mini`, by column.
COLUMNS = {"CONFIRMED": 2, "REFUTED": 3, "INCONCLUSIVE": 4}


@pytest.fixture(scope="module", params=LOCKS)
def recomputed(request: pytest.FixtureRequest) -> Verification:
    name = request.param
    return verify_runs(name, PATHS, runs_of("table", name, PATHS, entity=None, project=None))


def committed(name: str) -> dict[str, Any]:
    text = (PATHS.committed.locked_dir(name) / "verdicts.json").read_text()
    content: dict[str, Any] = json.loads(text)
    return content


def differences(ours: Any, theirs: Any, where: str) -> list[str]:
    """Places where two plain values differ; numbers by more than another processor's rounding."""
    if isinstance(ours, dict) and isinstance(theirs, dict) and ours.keys() == theirs.keys():
        return [line for k in ours for line in differences(ours[k], theirs[k], f"{where}.{k}")]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        pairs = enumerate(zip(ours, theirs, strict=True))
        return [line for i, pair in pairs for line in differences(*pair, f"{where}[{i}]")]
    if isinstance(ours, float) and isinstance(theirs, float):
        same = math.isclose(ours, theirs, rel_tol=1e-9, abs_tol=1e-12)
    else:
        same = ours == theirs
    return [] if same else [f"{where}: {ours!r} for {theirs!r}"]


def readme_rows() -> list[list[str]]:
    lines = (REPO_ROOT / "README.md").read_text().splitlines()
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line[:1] == "|"]


def test_every_lock_has_results() -> None:
    assert len(LOCKS) >= 7
    for name in LOCKS:
        assert (REPO_ROOT / "prereg" / name / "lock.json").is_file()


def test_the_lock_still_holds(recomputed: Verification) -> None:
    assert recomputed.integrity is not Integrity.TAMPERED


def test_the_committed_table_gives_the_committed_verdicts(recomputed: Verification) -> None:
    ours = json.loads(json.dumps(encode_floats(report_module.as_json(recomputed))))
    theirs = committed(recomputed.protocol)
    assert ours.keys() == theirs.keys()
    for key in ours.keys() - set(ANCHORED):
        assert differences(ours[key], theirs[key], key) == []


def test_every_cell_that_a_lock_asks_for_was_run(recomputed: Verification) -> None:
    # Of a bisected grid, those that the others ask for.
    assert len(recomputed.cells) == recomputed.count > 0


def test_the_first_lock_has_its_two_hundred_runs() -> None:
    assert committed("mini")["cells"] == 200


@pytest.mark.parametrize("name", LOCKS)
def test_the_committed_report_shows_the_committed_outcomes(name: str) -> None:
    report = (PATHS.committed.locked_dir(name) / "report.md").read_text()
    for test, found in committed(name)["tests"].items():
        assert f"### {test}: {found['outcome']}" in report


def test_the_readme_shows_the_committed_outcomes() -> None:
    rows = readme_rows()
    for name, test in committed("mini")["tests"].items():
        (row,) = (row for row in rows if row[0] == name)
        assert row[-1] == test["outcome"]


@pytest.mark.parametrize("name", [name for name in LOCKS if name != "mini"])
def test_the_readme_puts_every_test_of_a_lock_in_the_column_of_its_outcome(name: str) -> None:
    (row,) = (row for row in readme_rows() if row[0].startswith(f"[{name}]("))
    shown = {
        test: outcome
        for outcome, column in COLUMNS.items()
        for test in row[column].split(", ")
        if test
    }
    found = committed(name)
    assert shown == {test: each["outcome"] for test, each in found["tests"].items()}
    assert ("DEVIATED" in row[1]) == (found["integrity"] == "DEVIATED")
