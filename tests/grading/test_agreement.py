"""Agreement beside scikit-learn, scipy and numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import cohen_kappa_score, ndcg_score

from opdcliff.data import UserList
from opdcliff.grading.agreement import (
    Resampling,
    against_stars,
    between,
    named_by,
    ndcg_beside,
)

FEW = Resampling(samples=20, seed=0)
Grades = dict[tuple[str, str], int]


def lists_of(count: int, size: int = 4, stars: list[int] | None = None) -> list[UserList]:
    items = tuple(f"i{n}" for n in range(size))
    return [
        UserList(f"u{n}", (), items, items, "i1", 3 if stars is None else stars[n])
        for n in range(count)
    ]


def grades_of(table: list[list[int]]) -> Grades:
    return {(f"u{n}", f"i{k}"): g for n, row in enumerate(table) for k, g in enumerate(row)}


def drawn(count: int, seed: int, size: int = 4) -> list[list[int]]:
    found: list[list[int]] = np.random.default_rng(seed).integers(0, 5, (count, size)).tolist()
    return found


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**6), st.integers(2, 30))
def test_kappa_is_that_of_scikit_learn(seed: int, count: int) -> None:
    first, second = drawn(count, seed), drawn(count, seed + 1)
    kappa, equal = between(lists_of(count), grades_of(first), grades_of(second), FEW)
    a, b = np.ravel(first), np.ravel(second)
    wanted = cohen_kappa_score(a, b, weights="quadratic", labels=range(5))
    assert kappa.value == pytest.approx(wanted, abs=1e-12)
    assert equal.value == pytest.approx(float(np.mean(a == b)))
    assert kappa.lists == count


def test_kappa_by_hand() -> None:
    # Squared differences seen: 0 1 0 1, mean 1/2. Of every grade of one with every of the other:
    # 6 for the 0, 2 for each 1, 6 for the 2; 16 in 16 pairs, mean 1. So 1 - (1/2) / 1.
    kappa, equal = between(lists_of(1), grades_of([[0, 1, 1, 2]]), grades_of([[0, 2, 1, 1]]), FEW)
    assert kappa.value == pytest.approx(0.5)
    assert equal.value == 0.5
    # One list says nothing about how lists differ.
    assert math.isnan(kappa.low)


def test_equal_gradings_agree_and_constant_ones_say_nothing() -> None:
    table = drawn(20, 0)
    kappa, equal = between(lists_of(20), grades_of(table), grades_of(table), FEW)
    assert (kappa.value, kappa.low, kappa.high, equal.value) == (1.0, 1.0, 1.0, 1.0)
    flat = grades_of([[2] * 4] * 20)
    kappa, equal = between(lists_of(20), flat, flat, FEW)
    assert math.isnan(kappa.value)
    assert equal.value == 1.0


def test_lists_that_one_of_them_lacks_are_left_out() -> None:
    first, second = grades_of(drawn(5, 0)), grades_of(drawn(5, 1))
    del second["u3", "i2"]
    assert [one.user for one in named_by(lists_of(5), first, second)] == ["u0", "u1", "u2", "u4"]
    assert between(lists_of(5), first, second, FEW)[0].lists == 4
    nothing = between(lists_of(5), first, {}, FEW)[0]
    assert nothing.lists == 0
    assert math.isnan(nothing.value)


def test_the_interval_covers_what_the_lists_were_drawn_from() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(100):
        first = rng.integers(0, 5, (40, 4))
        # A grade of the other is the same half of the time, else drawn anew: kappa 1/2.
        same = rng.random((40, 4)) < 0.5
        second = np.where(same, first, rng.integers(0, 5, (40, 4)))
        found, _ = between(
            lists_of(40),
            grades_of(first.tolist()),
            grades_of(second.tolist()),
            Resampling(samples=200, seed=seed),
        )
        covered += found.low <= 0.5 <= found.high
    # 95 of 100 wanted; a percentile interval of 40 lists covers a little less.
    assert covered >= 85


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(3, 40))
def test_the_rank_correlation_is_that_of_scipy(seed: int, count: int) -> None:
    table = drawn(count, seed)
    stars = np.random.default_rng(seed + 1).integers(1, 6, count).tolist()
    found, above = against_stars(lists_of(count, stars=stars), grades_of(table), FEW)
    own = [row[1] for row in table]
    if len(set(own)) > 1 and len(set(stars)) > 1:
        assert found.value == pytest.approx(stats.spearmanr(own, stars).statistic, abs=1e-12)
    else:
        assert math.isnan(found.value)
    # The share of won pairs, ties half, is the U statistic of Mann and Whitney over its largest.
    shares = [
        stats.mannwhitneyu([row[1]], [row[0], *row[2:]]).statistic / (len(row) - 1) for row in table
    ]
    assert above.value == pytest.approx(np.mean(shares))


def test_a_judge_that_follows_the_purchase_is_seen() -> None:
    table = [[0, 4, 1, 2]] * 10
    found, above = against_stars(lists_of(10, stars=[1, 2, 3, 4, 5] * 2), grades_of(table), FEW)
    assert math.isnan(found.value)
    assert above.value == 1.0


def test_ndcg_beside_is_that_of_scikit_learn_and_a_judges_own_order_is_ideal() -> None:
    first, second = drawn(30, 0), drawn(30, 1)
    judges = {"a": grades_of(first), "b": grades_of(second)}
    found = ndcg_beside(lists_of(30), judges, FEW, k=3, gain="exp")
    assert set(found) == {"drawn order", "bought item first", "order of a", "order of b"}
    assert found["order of a"]["a"].value == found["order of b"]["b"].value == 1.0
    wanted = []
    for rank, grades in zip(first, second, strict=True):
        # Ties keep the drawn order.
        order = sorted(range(4), key=lambda k, r=rank: -r[k])
        scores = [0.0] * 4
        for place, k in enumerate(order):
            scores[k] = -place
        gains = [2**grade - 1 for grade in grades]
        wanted.append(ndcg_score([gains], [scores], k=3) if any(gains) else 1.0)
    assert found["order of a"]["b"].value == pytest.approx(np.mean(wanted))
    assert found["drawn order"]["a"].value < 1.0


def test_the_same_seed_gives_the_same_interval() -> None:
    first, second = grades_of(drawn(10, 0)), grades_of(drawn(10, 1))
    assert between(lists_of(10), first, second, FEW) == between(lists_of(10), first, second, FEW)
