"""How far the runs of a lock are: counted from their records, whatever state they are in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import opdcliff.prereg.counting as module
from fake_cells import PREPARED
from locked import PROTOCOL, cliff_cells, make_lock, settings_of, write_run
from opdcliff.paths import StudyPaths
from opdcliff.prereg.counting import Progress, progress
from opdcliff.records.files import RUN_LOCK
from opdcliff.records.run_lock import acquire, release
from opdcliff.verification.lock import Lock

# Of the made-up lock: 5 lambdas and 6 seeds, 3 lambdas more without a test, and the warm start.
ALL = 5 * 6 + 3 * 6 + 6
UPDATES = 200


@dataclass(frozen=True)
class PlainCell:
    path: Path
    updates: int

    @property
    def config(self) -> Any:
        return SimpleNamespace(optim=SimpleNamespace(updates=self.updates))

    def folder(self, *_: object) -> Path:
        return self.path


Look = Callable[[], Progress]


@pytest.fixture
def lock(tmp_path: Path) -> Lock:
    return make_lock(tmp_path)


@pytest.fixture
def look(tmp_path: Path, lock: Lock, monkeypatch: pytest.MonkeyPatch) -> Look:
    paths = StudyPaths(tmp_path / "runs", tmp_path / "results", tmp_path / "prereg")
    cells = {key: PlainCell(place(tmp_path, key), UPDATES) for key in lock.cells().values()}
    monkeypatch.setattr(module, "keyed_cells", lambda *_: cells)
    return lambda: progress(SimpleNamespace(), paths, lock, PREPARED)  # type: ignore[arg-type]


def place(repo: Path, key: tuple[str, float, int]) -> Path:
    return repo / "runs" / PROTOCOL / "-".join(map(str, key))


def ran(repo: Path, lock: Lock, number: int, seconds: float = 36.0, **how: Any) -> Path:
    """The record of the lock's cell of that number, whose updates took so many seconds."""
    key = list(lock.cells().values())[number]
    config = settings_of(key[0]) | {"seed": key[2], "resolved_lam": key[1], "kind": "opd"}
    config["engine"]["ranks"] = 2
    times = {"time/generate_s": 0.75 * seconds, "time/evaluate_s": 0.25 * seconds}
    rates = {"eval/parse_rate": 0.9, "eval/ndcg1_all": 0.5}
    return write_run(repo, lock, key, rates | times, config=config, **how)


def test_nothing_has_begun(look: Look) -> None:
    found = look()
    assert (found.asked, found.done, found.spent, found.left) == (ALL, 0, 0.0, None)
    assert found.states == {"to do": ALL}


def test_hours_are_those_of_all_ranks_and_what_is_left_goes_by_updates(
    look: Look, tmp_path: Path, lock: Lock
) -> None:
    ran(tmp_path, lock, 0, seconds=1800.0)
    ran(tmp_path, lock, 1, seconds=3600.0, status="collapsed")
    found = look()
    assert found.done == 2
    assert found.spent == pytest.approx(2 * (1800 + 3600) / 3600)
    assert found.left == pytest.approx((ALL - 2) * 1.5)


def test_cells_without_an_outcome_are_told_apart(look: Look, tmp_path: Path, lock: Lock) -> None:
    ran(tmp_path, lock, 0)
    ran(tmp_path, lock, 1, status="failed")
    ran(tmp_path, lock, 2, status="preempted")
    held, _ = acquire(ran(tmp_path, lock, 3, status="failed") / RUN_LOCK)
    broken = ran(tmp_path, lock, 4) / "metrics.jsonl"
    broken.write_bytes(broken.read_bytes()[:-9])
    found = look()
    release(held)
    told = {"finished": 1, "failed": 1, "preempted": 1, "running": 1, "damaged": 1}
    assert found.states == told | {"to do": ALL - 5}
    assert found.done == 1
    assert look().states["failed"] == 2


def test_a_killed_run_is_not_running(look: Look, tmp_path: Path, lock: Lock) -> None:
    folder = ran(tmp_path, lock, 0, status=None)
    # Its manifest still says so; nobody holds its lock.
    assert (folder / RUN_LOCK).is_file()
    found = look()
    assert found.states["running"] == 0
    assert found.states["killed"] == 1


def test_of_bisected_arms_those_count_that_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = make_lock(tmp_path, 3)
    paths = StudyPaths(tmp_path / "runs", tmp_path / "results", tmp_path / "prereg")
    cells = {key: PlainCell(place(tmp_path, key), UPDATES) for key in lock.cells().values()}
    monkeypatch.setattr(module, "keyed_cells", lambda *_: cells)
    before = progress(SimpleNamespace(), paths, lock, PREPARED)  # type: ignore[arg-type]
    # The middle of five lambdas, and of a contrast the lowest.
    assert before.asked == ALL - 3 * 6
    rates = cliff_cells([1.75] * 6)
    for number, (arm, lam, seed) in enumerate(lock.cells().values()):
        if arm == "fine_grid" and lam in (1.70, 1.80):
            nth = lock.seeds.index(seed)
            rate = rates[arm, lam, list({key[2]: None for key in rates})[nth]].metrics
            write_run(tmp_path, lock, (arm, lam, seed), rate)
            assert number < ALL
    after = progress(SimpleNamespace(), paths, lock, PREPARED)  # type: ignore[arg-type]
    assert after.done == 12
    assert after.asked == before.asked + 6
