"""About how long a study takes here: measured, scaled by what has to run, silent where unknown."""

from __future__ import annotations

import re

import pytest

from opdcliff.settings import load
from opdcliff.settings.compose import compose_one
from opdcliff.settings.schema import RunConfig
from opdcliff.study import duration


def quick(*words: str) -> RunConfig:
    return load(compose_one(["protocol=quick", *words]))


@pytest.fixture
def unit(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """A machine half as fast as that of the constants; the calls that measured it."""
    calls: list[tuple[int, int]] = []

    def measured(arch: object, threads: int, workers: int) -> float:
        calls.append((threads, workers))
        return 2 * duration.UNIT_S

    monkeypatch.setattr(duration, "measured_unit", measured)
    return calls


def minutes(text: str | None) -> int:
    assert text is not None
    return int(re.match(r"about (\d+) minutes? here", text)[1])  # type: ignore[index]


def test_planned_updates_are_those_of_all_cells() -> None:
    assert duration.planned_updates(quick()) == 31 * 200
    half = quick("optim.updates=100")
    assert duration.planned_updates(half) == 31 * 100


def test_a_slower_machine_takes_longer_and_workers_share_the_cells(
    unit: list[tuple[int, int]],
) -> None:
    both = minutes(duration.announcement(quick(), 6200, fine_tuning=False))
    alone = minutes(duration.announcement(quick("protocol.workers=1"), 6200, fine_tuning=False))
    assert alone == pytest.approx(2 * both, abs=2)
    assert unit == [(1, 2), (1, 1)]
    # Where a unit took .1455 s two workers took 462 s for the cells.
    assert both == pytest.approx(462 * 2 * duration.UNIT_S / 0.1455 / 60, abs=1)


def test_what_is_finished_is_not_counted_and_models_that_are_not_there_are(
    unit: list[tuple[int, int]],
) -> None:
    config = quick()
    whole = minutes(duration.announcement(config, 6200, fine_tuning=False))
    assert minutes(duration.announcement(config, 3100, fine_tuning=False)) < whole
    assert minutes(duration.announcement(config, 6200, fine_tuning=True)) > whole


@pytest.mark.parametrize(
    ("words", "updates"),
    [
        ([], 0),
        (["debug=seconds"], 20),
        (["model.student=DIR", "model.teacher=DIR", "model.arch=null"], 6200),
    ],
)
def test_nothing_is_measured_for_little_work_or_loaded_models(
    words: list[str], updates: int, unit: list[tuple[int, int]]
) -> None:
    config = quick(*[word for word in words if "model" not in word])
    if "model.arch=null" in words:
        config.model.arch = None
    assert duration.announcement(config, updates, fine_tuning=False) is None
    assert unit == []


def test_the_workload_runs_and_takes_time() -> None:
    arch = quick().model.arch
    assert arch is not None
    assert duration.work(arch, 1) > 0
