"""Tests of a lock: which there are, what decides them, and that the committed ones come out."""

from __future__ import annotations

import dataclasses
from typing import Any

import pandas as pd
import pytest

from opdcliff.paths import REPO_ROOT
from opdcliff.prereg import predictions
from opdcliff.prereg.claims.grounds import Grounds
from opdcliff.prereg.pilot import PilotFacts
from opdcliff.prereg.predictions import write_tests
from opdcliff.settings.checks import load
from opdcliff.settings.compose import compose_one
from opdcliff.verification.lock import Lock, read_lock
from opdcliff.verification.locked_test import LockedTest, OnsetEstimator, Window, read_test

FOLDER = REPO_ROOT / "prereg" / "mini"


@pytest.fixture(scope="module")
def lock() -> Lock:
    made, _ = read_lock(FOLDER)
    assert made is not None
    return made


def written(lock: Lock, *, bisect: bool = False, **changes: Any) -> dict[str, LockedTest]:
    """The tests of the protocol `mini` from what its lock rests on."""
    config = load(compose_one(["protocol=mini"]))
    assert config.protocol.predictions is not None
    config.protocol.bisect = bisect
    named = dataclasses.replace(config.protocol.predictions, **changes)
    facts = PilotFacts(**lock.pilot["facts"])
    arms = {arm.name: arm for arm in lock.arms}
    table = pd.DataFrame(lock.calibration["table"])
    tests = write_tests(Grounds(config, named, arms, table, facts, len(lock.seeds)), None, None)
    return {test.id: test for test in tests}


def test_what_was_locked_would_be_locked_again(lock: Lock) -> None:
    made = written(lock)
    assert {f"{name}.yaml" for name in made} == lock.tests.keys()
    for name, test in made.items():
        old = read_test(FOLDER / f"{name}.yaml")
        # The words of a test have changed since.
        assert test.window.bounds == old.window.bounds
        same = ["metric", "design", "minimum_seeds", "correction", "estimator"]
        if isinstance(test.estimator, OnsetEstimator):
            same.append("window")
        for field in same:
            assert getattr(test, field) == getattr(old, field), (name, field)


@pytest.fixture
def no_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows take seconds each, and are what another test is about."""
    made_up = Window(lo=1.0, hi=2.0, derivation="made up")
    for name in ("onset_window", "cell_window", "checked_window"):
        monkeypatch.setattr(predictions, name, lambda *_: made_up)


def test_a_null_leaves_its_test_out(lock: Lock, no_windows: None) -> None:
    assert list(written(lock)) == [
        *("T1", "T2", "T3", "T1_exact", "T3_exact"),
        *("flatness", "lift", "parity"),
    ]
    fewer = written(lock, extended=[], larger_model=None)
    assert list(fewer) == ["T1", "T3", "T1_exact", "T3_exact", "flatness", "lift"]
    least = written(lock, extended=[], small_clip=None, far_below=None, larger_model=None)
    assert list(least) == ["T1", "T1_exact", "lift"]


def test_brackets_decide_where_the_protocol_says_so(lock: Lock, no_windows: None) -> None:
    for bisect, by in ((False, "points"), (True, "brackets")):
        onsets = [
            test
            for test in written(lock, bisect=bisect).values()
            if isinstance(test.estimator, OnsetEstimator)
        ]
        assert len(onsets) == 5
        for test in onsets:
            assert isinstance(test.estimator, OnsetEstimator)
            assert test.estimator.by == by
            assert ("bisection" in test.stopping) == (by == "brackets")
