"""Tests of a lock that rest on settled students: where they fall, and where they do not."""

from __future__ import annotations

import dataclasses
import math

import pandas as pd
import pytest

from opdcliff.errors import ConfigError
from opdcliff.paths import REPO_ROOT
from opdcliff.prereg.claims import previews
from opdcliff.prereg.claims.grounds import Grounds
from opdcliff.prereg.pilot import PilotFacts
from opdcliff.preview.curve import Preview
from opdcliff.settings.checks import load
from opdcliff.settings.compose import compose_one
from opdcliff.verification.lock import LockedArm, read_lock
from opdcliff.verification.locked_test import LockedTest
from opdcliff.verification.verdicts import CellValue, Outcome, judge

GRID = [1.5, 1.55, 1.6, 1.65, 1.7, 1.75, 1.8, 1.85, 1.9, 1.95]
SEEDS = range(8)


@pytest.fixture(scope="module")
def grounds() -> Grounds:
    """Those of `mini`, its fine grid and an arm without a clip on the grid above."""
    lock, _ = read_lock(REPO_ROOT / "prereg" / "mini")
    config = load(compose_one(["protocol=mini"]))
    assert lock is not None
    assert config.protocol.predictions is not None
    fine = lock.arm("fine_grid")
    free = {**fine.settings, "clip": {"name": "none_", "rule": "none", "strength": None}}
    arms = {
        "fine_grid": fine.model_copy(update={"lams": GRID}),
        "no_clip": LockedArm(name="no_clip", kind="opd", multiples=[], lams=GRID, settings=free),
    }
    named = dataclasses.replace(config.protocol.predictions, previews=["fine_grid"], least_seeds=5)
    facts = PilotFacts(**lock.pilot["facts"])
    table = pd.DataFrame(lock.calibration["table"])
    return Grounds(config, named, arms, table, facts, len(SEEDS))


def curve(
    falls: float | None, margin: float, c: float = 5.0, error: float = 0.02
) -> list[dict[str, object]]:
    """Rates of .95 up to a lambda, and of .03 beyond."""
    rates = {lam: 0.95 if falls is None or lam < falls else 0.03 for lam in GRID}
    named = {"rule": "none" if math.isinf(c) else "mask", "c": c, "margin": margin}
    return [
        {
            **named,
            "lam": lam,
            "parse_rate": rate,
            "parse_lo": rate - error,
            "parse_hi": rate + error,
            "mean_length": 30.0,
        }
        for lam, rate in rates.items()
    ]


def found(*curves: list[dict[str, object]]) -> Preview:
    table = pd.DataFrame([row for rows in curves for row in rows])
    return Preview(table, [], {}, {"teacher": 0.96, "warm_start": 0.3})


def written(grounds: Grounds, previewed: Preview, arm: str = "fine_grid") -> LockedTest:
    asked = dataclasses.replace(grounds.predictions, previews=[arm])
    tests = previews.preview_tests(dataclasses.replace(grounds, predictions=asked), previewed)
    assert [test.id for test in tests] == [f"P_{arm}"]
    return tests[0]


def runs_falling_at(test: LockedTest, falls: float) -> dict[tuple[str, float, int], CellValue]:
    rates = {lam: 0.98 if lam < falls else 0.04 for lam in GRID}
    return {
        (test.design.arm, lam, seed): CellValue("finished", {"eval/parse_rate": rate})
        for lam, rate in rates.items()
        for seed in SEEDS
    }


def test_the_window_is_the_cells_in_which_the_two_curves_fall(grounds: Grounds) -> None:
    test = written(grounds, found(curve(1.83, 0.0), curve(1.77, 0.1)))
    assert test.window.bounds == (1.75, 1.85)
    assert "0.1000 logits" in test.window.derivation
    assert "previews" in test.provenance["window"]
    falls = {1.78: Outcome.CONFIRMED, 1.83: Outcome.CONFIRMED}
    falls |= {1.73: Outcome.REFUTED, 1.88: Outcome.REFUTED}
    for at, outcome in falls.items():
        assert judge(test, runs_falling_at(test, at), SEEDS).outcome is outcome, at


def test_a_window_says_which_entries_were_held(grounds: Grounds) -> None:
    rare = dataclasses.replace(grounds.config.preview, rare=1e-5)
    config = dataclasses.replace(grounds.config, preview=rare)
    test = written(
        dataclasses.replace(grounds, config=config), found(curve(1.83, 0.0), curve(1.77, 0.1))
    )
    assert "entries of less than 1e-05 in the warm start" in test.window.derivation


def test_a_rate_that_may_be_on_either_side_of_the_level_widens_the_window(
    grounds: Grounds,
) -> None:
    for margin, opens in ((0.1, (1.7, 1.85)), (0.0, (1.75, 1.9))):
        rows = {0.0: curve(1.83, 0.0), 0.1: curve(1.77, 0.1)}
        at = {0.1: 1.75, 0.0: 1.85}[margin]
        for row in rows[margin]:
            if row["lam"] == at:
                row |= {"parse_rate": 0.5, "parse_lo": 0.4, "parse_hi": 0.6}
        assert written(grounds, found(*rows.values())).window.bounds == opens


def test_no_fall_without_a_margin_leaves_the_window_open_above(grounds: Grounds) -> None:
    test = written(grounds, found(curve(None, 0.0), curve(1.77, 0.1)))
    assert test.window.bounds == (1.75, math.inf)
    assert judge(test, runs_falling_at(test, 9.0), SEEDS).outcome is Outcome.CONFIRMED
    assert judge(test, runs_falling_at(test, 1.73), SEEDS).outcome is Outcome.REFUTED


def test_where_nothing_falls_runs_are_to_hold_at_the_largest_lambda(grounds: Grounds) -> None:
    test = written(grounds, found(curve(None, 0.0, c=math.inf)), "no_clip")
    assert test.estimator.kind == "contrast"
    assert test.estimator.of.lam == GRID[-1]
    assert test.window.bounds == (pytest.approx(0.95 - 0.02 - 0.3), math.inf)
    start = {
        ("warm_start", 1.0, seed): CellValue("finished", {"eval/parse_rate": 0.3}) for seed in SEEDS
    }
    for at, outcome in ((9.0, Outcome.CONFIRMED), (1.83, Outcome.REFUTED)):
        assert judge(test, runs_falling_at(test, at) | start, SEEDS).outcome is outcome


def test_a_grid_that_begins_beyond_the_fall_is_refused(grounds: Grounds) -> None:
    with pytest.raises(ConfigError, match="begin it lower"):
        written(grounds, found(curve(1.83, 0.0), curve(1.4, 0.1)))


def test_a_band_over_most_of_the_grid_is_refused(grounds: Grounds) -> None:
    with pytest.raises(ConfigError, match="more than half of the grid"):
        written(grounds, found(curve(1.83, 0.0), curve(1.57, 0.1)))


def test_what_is_sampled_are_the_arms_that_are_asked_for_at_the_margin_of_the_pilot(
    grounds: Grounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {}

    def preview(config: object, paths: object, **given: object) -> Preview:
        asked.update(given)
        return found(curve(1.83, 0.0))

    monkeypatch.setattr(previews, "preview", preview)
    both = dataclasses.replace(grounds.predictions, previews=["fine_grid", "no_clip"])
    previews.sampled(dataclasses.replace(grounds, predictions=both), None, None)  # type: ignore[arg-type]
    points = {str(clip): lams for clip, lams in asked["points"].items()}
    assert points == {"c = 5": GRID, "no clip": GRID}
    # lambda* less the lower end of T1's window before its half step, in logits.
    low = min(
        previews.onset_bounds(
            grounds.masses("fine_grid"), grounds.pilot, grounds.setting("fine_grid")
        )[0]
    )
    row = grounds.masses("fine_grid")[0]
    assert asked["margin_at"](5.0) == pytest.approx((row.star(5.0) - low) * row.gain, rel=0.02)
    none = dataclasses.replace(grounds.predictions, previews=[])
    assert previews.sampled(dataclasses.replace(grounds, predictions=none), None, None) is None  # type: ignore[arg-type]
