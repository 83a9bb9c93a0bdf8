"""A lock that is decided by grid cells: run round by round, verified, and told."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from locked import PROTOCOL, make_lock, rate_at, run_git, write_run
from opdcliff.cli.command import main
from opdcliff.paths import StudyPaths
from opdcliff.verification.judging import wanted
from opdcliff.verification.lock import Lock
from opdcliff.verification.locked_test import read_test
from opdcliff.verification.run_sources import runs_of
from opdcliff.verification.verdicts import Cells, CellValue, Outcome
from opdcliff.verification.verification import Integrity, Verification, verify_runs


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lock:
    """A committed lock; records say that they ran at its commit."""
    made = make_lock(tmp_path, 3)
    commit = run_git(tmp_path, "rev-parse", "HEAD")
    monkeypatch.setattr("opdcliff.storage.provenance.git_state", lambda _: (commit, False))
    monkeypatch.chdir(tmp_path)
    return made


def run_rounds(lock: Lock, repo: Path) -> list[int]:
    """Run what is asked for until nothing is; returns how many cells each round had."""
    tests = [read_test(repo / "prereg" / PROTOCOL / name) for name in lock.tests]
    done: dict[tuple[str, float, int], CellValue] = {}
    rounds = []
    while missing := [key for key in wanted(tests, lock, done) if key not in done]:
        rounds.append(len(missing))
        for key in missing:
            rate = {"eval/parse_rate": rate_at(lock, key)}
            write_run(repo, lock, key, rate)
            done[key] = CellValue("finished", rate)
    return rounds


def checked(repo: Path) -> Verification:
    paths = StudyPaths(repo / "runs", repo / "results", repo / "prereg")
    runs = runs_of("records", PROTOCOL, paths, entity=None, project=None)
    return verify_runs(PROTOCOL, paths, runs)


def test_rounds_end_in_verdicts_on_fewer_runs(lock: Lock, tmp_path: Path) -> None:
    # First all of the arms that no test bisects, four lambdas, the middle lambda, 1.80, and the one
    # that the contrast reads, 1.70. Then the seed that holds at 1.80 needs 1.85, the others 1.75.
    assert run_rounds(lock, tmp_path) == [6 * (4 + 2), 6]
    found = checked(tmp_path)
    assert (found.integrity, found.mismatches) == (Integrity.CLEAN, [])
    assert found.count == len(found.cells) == 42 < len(lock.cells())
    (onset,) = (verdict for verdict in found.verdicts if verdict.id == "T1")
    assert onset.outcome is Outcome.CONFIRMED
    assert onset.points == pytest.approx([1.825] + [1.775] * 5)
    assert found.otherwise_today == []


def test_a_missing_run_of_the_path_is_asked_for(lock: Lock, tmp_path: Path) -> None:
    run_rounds(lock, tmp_path)
    shutil.rmtree(tmp_path / "runs" / PROTOCOL / f"fine_grid-1.75-{lock.seeds[1]}")
    found = checked(tmp_path)
    (onset,) = (verdict for verdict in found.verdicts if verdict.id == "T1")
    assert onset.outcome is Outcome.NOT_RUN
    assert f"the first: fine_grid lam=1.75 seed={lock.seeds[1]}" in onset.reason
    assert found.count == len(found.cells) + 1 == 42


def test_a_run_beside_the_path_changes_nothing(lock: Lock, tmp_path: Path) -> None:
    run_rounds(lock, tmp_path)
    before = checked(tmp_path)
    write_run(tmp_path, lock, ("fine_grid", 1.90, lock.seeds[1]), {"eval/parse_rate": 0.99})
    after = checked(tmp_path)
    assert after.verdicts == before.verdicts
    assert after.integrity is Integrity.CLEAN


def test_the_report_says_how_onsets_were_decided(
    lock: Lock, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_rounds(lock, tmp_path)
    assert main(["verify", f"protocol={PROTOCOL}"]) == 0
    assert "CONFIRMED" in capsys.readouterr().out
    text = (tmp_path / "runs" / "results" / "locked" / PROTOCOL / "report.md").read_text()
    assert "42 of 42 locked cells have an outcome" in text
    assert "decided by the grid cells of the seeds alone" in text
    assert "seed bootstrap" not in text.split("### lift")[0]
    assert "The onset from its grid cells alone" not in text


def test_what_is_wanted_of_a_lock_by_points_is_all_of_it(tmp_path: Path) -> None:
    made = make_lock(tmp_path)
    tests = [read_test(tmp_path / "prereg" / PROTOCOL / name) for name in made.tests]
    nothing: Cells = {}
    assert wanted(tests, made, nothing) == list(made.cells().values())
