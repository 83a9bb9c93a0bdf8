"""The committed results: anybody can recompute the verdicts from the committed table of runs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from opdcliff.paths import REPO_ROOT, StudyPaths
from opdcliff.verification import report as report_module
from opdcliff.verification.run_sources import runs_of
from opdcliff.verification.verification import Integrity, Verification, verify_runs

PATHS = StudyPaths(REPO_ROOT / "runs", REPO_ROOT / "results", REPO_ROOT / "prereg")
FOLDER = PATHS.committed.locked_dir("mini")
# What git says depends on how much of the history a checkout has.
ANCHORED = ("integrity", "exit_code", "deviations")


@pytest.fixture(scope="module")
def recomputed() -> Verification:
    return verify_runs("mini", PATHS, runs_of("table", "mini", PATHS, entity=None, project=None))


def committed() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FOLDER / "verdicts.json").read_text())
    return content


def test_the_lock_still_holds(recomputed: Verification) -> None:
    assert recomputed.integrity is not Integrity.TAMPERED


def test_the_committed_table_gives_the_committed_verdicts(recomputed: Verification) -> None:
    ours = json.loads(json.dumps(report_module.as_json(recomputed)))
    theirs = committed()
    assert {k: v for k, v in ours.items() if k not in ANCHORED} == {
        k: v for k, v in theirs.items() if k not in ANCHORED
    }


def test_every_locked_cell_was_run(recomputed: Verification) -> None:
    assert recomputed.lock is not None
    assert len(recomputed.cells) == len(recomputed.lock.cells()) == 200


def test_the_committed_report_shows_the_committed_outcomes() -> None:
    report = (FOLDER / "report.md").read_text()
    for name, test in committed()["tests"].items():
        assert f"### {name}: {test['outcome']}" in report


def test_the_readme_shows_the_committed_outcomes() -> None:
    rows = [line for line in (REPO_ROOT / "README.md").read_text().splitlines() if "|" in line]
    for name, test in committed()["tests"].items():
        assert any(line.startswith(f"| {name} |") and test["outcome"] in line for line in rows)
