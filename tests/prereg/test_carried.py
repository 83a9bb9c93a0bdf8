"""A shortfall that an earlier lock saw is carried in logits to another pair."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from grid_frames import calibration
from opdcliff.errors import ConfigError, InadmissibleError, TamperedError
from opdcliff.paths import REPO_ROOT, StudyPaths
from opdcliff.prereg.claims.carried import Shortfall, carried_tests, earlier_shortfall
from opdcliff.prereg.claims.grounds import Grounds
from opdcliff.prereg.pilot import PilotFacts
from opdcliff.settings.checks import load
from opdcliff.settings.compose import compose_one
from opdcliff.theory import threshold
from opdcliff.verification import VERDICTS, LockedArm, LockedTest, OnsetEstimator, read_lock
from opdcliff.verification.committed import seal_tables

COMMITTED = StudyPaths(REPO_ROOT / "runs", REPO_ROOT / "results", REPO_ROOT / "prereg")
PILOT = PilotFacts(spread_lo=0.04, spread_hi=0.05, wobble=0.005, speed_lo=0.11, speed_hi=0.12)
STEP = 0.01


@pytest.fixture
def copied(tmp_path: Path) -> StudyPaths:
    """The lock of the mini study and its verdicts, to be changed."""
    for name in ("prereg", "results/locked"):
        shutil.copytree(REPO_ROOT / name / "mini", tmp_path / name / "mini")
    return StudyPaths(tmp_path / "runs", tmp_path / "results", tmp_path / "prereg")


def carried(p: float, b: float, earlier: Shortfall | None) -> list[LockedTest]:
    """Tests of a pair of masses p and b, whose lambda* is known to the last digit."""
    config = load(compose_one(["experiment=near_p99"]))
    assert config.protocol.predictions is not None
    star = threshold.lambda_star(p, b, 2.0)
    table = calibration(p=p, b=b, lambda_star_c2_lo=star, lambda_star_c2_hi=star)
    settings = {
        "clip": {"name": "c2", "strength": 2.0},
        "optim": {"updates": 300},
        "lam": {"warmup_updates": 150},
    }
    lams = [round(star + STEP * (place - 10), 4) for place in range(13)]
    arm = LockedArm.model_construct(name="fine_grid", settings=settings, lams=lams, multiples=lams)
    grounds = Grounds(config, config.protocol.predictions, {"fine_grid": arm}, table, PILOT, 4)
    return carried_tests(grounds, earlier)


def test_the_shortfall_is_that_of_the_verdict_in_logits() -> None:
    found = earlier_shortfall("mini/T3", COMMITTED)
    lock, _ = read_lock(REPO_ROOT / "prereg" / "mini")
    assert lock is not None
    assert found is not None
    p, b = (lock.calibration["binding"][name] for name in ("p", "b"))
    verdicts = json.loads((REPO_ROOT / "results/locked/mini/verdicts.json").read_text())
    low, high = verdicts["tests"]["T3"]["interval"]
    gap = threshold.logit(p) - threshold.logit(b)
    star = threshold.lambda_star(p, b, 2.0)
    assert found.low == pytest.approx(gap * (star - float(high)))
    assert found.high == pytest.approx(gap * (star - float(low)))
    assert found.said == f"mini/T3, p = {p:.4f}, c = 2"
    assert earlier_shortfall(None, COMMITTED) is None


@pytest.mark.parametrize(("p", "b"), [(0.856, 0.48), (0.95, 0.48), (0.99, 0.3)])
def test_the_window_takes_it_off_lambda_star(p: float, b: float) -> None:
    (test,) = carried(p, b, Shortfall(0.05, 0.085, "another/T3"))
    gap, star = threshold.logit(p) - threshold.logit(b), threshold.lambda_star(p, b, 2.0)
    low, high = test.window.bounds
    half = STEP / 2 + 1e-4
    assert low == pytest.approx(star - 0.085 / gap - half, abs=1.5e-4)
    assert high == pytest.approx(star - 0.05 / gap + half, abs=1.5e-4)
    assert test.id == "N3"
    assert isinstance(test.estimator, OnsetEstimator)
    assert test.estimator.by == "brackets"
    assert "0.0500 to 0.0850 logits short, as in another/T3" in test.window.derivation


def test_nothing_is_tested_where_nothing_is_carried() -> None:
    assert carried(0.95, 0.48, None) == []


def test_a_shortfall_beyond_the_grid_makes_no_lock() -> None:
    with pytest.raises(ConfigError, match="shift or widen the grid"):
        carried(0.95, 0.48, Shortfall(0.3, 0.31, "another/T3"))


@pytest.mark.parametrize(("steps_short", "cells"), [(5.8, 0), (6.0, 0), (5.55, 1), (6.55, 1)])
def test_a_window_without_a_whole_cell_makes_no_lock(steps_short: float, cells: int) -> None:
    """A window of 1.1 steps, moved over the grid: only a cell that it holds can confirm it."""
    logits = STEP * (threshold.logit(0.95) - threshold.logit(0.48))
    earlier = Shortfall((steps_short - 0.1) * logits, steps_short * logits, "another/T3")
    if cells == 0:
        with pytest.raises(ConfigError, match=r"N3, arm fine_grid: no cell of the grid \[.* whole"):
            carried(0.95, 0.48, earlier)
        return
    (test,) = carried(0.95, 0.48, earlier)
    low, high = test.window.bounds
    assert high - low == pytest.approx(1.1 * STEP, abs=3e-4)


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("mini/T9", "is no test of that lock; allowed: mini/T1, "),
        ("mini", "is no test of that lock"),
        ("mini/lift", "reads no onset at a clip; name a test that does"),
    ],
)
def test_what_reads_no_onset_is_refused_by_name(named: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"carried={named}.*{said}"):
        earlier_shortfall(named, COMMITTED)


def test_a_lock_that_is_not_there_is_refused() -> None:
    with pytest.raises(InadmissibleError, match="nothing is locked there"):
        earlier_shortfall("minni/T1", COMMITTED)


def resealed(paths: StudyPaths, content: dict[str, Any]) -> None:
    """Other verdicts of the mini study, as if `verify` had written them."""
    folder = paths.committed.locked_dir("mini")
    (folder / VERDICTS).write_text(json.dumps(content))
    seal_tables(folder, {})


def verdicts_of(paths: StudyPaths) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(
        (paths.committed.locked_dir("mini") / VERDICTS).read_text()
    )
    return content


def test_edited_verdicts_carry_nothing(copied: StudyPaths) -> None:
    content = verdicts_of(copied)
    content["tests"]["T3"]["interval"][0] -= 0.01
    (copied.committed.locked_dir("mini") / VERDICTS).write_text(json.dumps(content))
    with pytest.raises(TamperedError, match=r"verdicts\.json was edited"):
        earlier_shortfall("mini/T3", copied)


def test_verdicts_of_another_lock_carry_nothing(copied: StudyPaths) -> None:
    resealed(copied, verdicts_of(copied) | {"lock_sha256": "0" * 64})
    with pytest.raises(ConfigError, match=r"verdicts.json is of another lock; restore both"):
        earlier_shortfall("mini/T3", copied)


def test_a_lock_without_verdicts_carries_nothing(copied: StudyPaths) -> None:
    folder = copied.committed.locked_dir("mini")
    (folder / VERDICTS).unlink()
    seal_tables(folder, {})
    with pytest.raises(ConfigError, match=r"verdicts.json does not exist; `opdcliff verify` makes"):
        earlier_shortfall("mini/T3", copied)
    shutil.rmtree(folder)
    with pytest.raises(InadmissibleError, match="is missing"):
        earlier_shortfall("mini/T3", copied)


@pytest.mark.parametrize("interval", [None, ["-Infinity", 1.37], [1.35, "Infinity"]])
def test_an_onset_without_two_ends_carries_nothing(copied: StudyPaths, interval: Any) -> None:
    content = verdicts_of(copied)
    content["tests"]["T3"]["interval"] = interval
    resealed(copied, content)
    with pytest.raises(ConfigError, match="carried=mini/T3 has no onset between two ends"):
        earlier_shortfall("mini/T3", copied)


def test_an_edited_lock_carries_nothing(copied: StudyPaths) -> None:
    path = copied.prereg_dir("mini") / "T3.yaml"
    path.write_text(path.read_text().replace("seeds: ", "seeds: 1", 1))
    with pytest.raises(ConfigError, match=r"lock.json is not as it was sealed; restore it"):
        earlier_shortfall("mini/T3", copied)
