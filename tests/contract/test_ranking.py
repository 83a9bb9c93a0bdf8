"""NDCG against hand-computed values, scikit-learn, and its defined edge cases."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from opdcliff.contract.ranking import Gain, ndcg_at_k, ranked_grades, ranking_metrics
from opdcliff.errors import ConfigError, DataError

_grades = st.lists(st.integers(0, 5), min_size=2, max_size=12)


def test_by_hand() -> None:
    # DCG@3 of (1, 3, 0): 1/1 + 7/log2(3); ideal (3, 1, 0): 7/1 + 1/log2(3).
    expected = (1 + 7 / math.log2(3)) / (7 + 1 / math.log2(3))
    assert ndcg_at_k((1, 3, 0), 3) == pytest.approx(expected, rel=1e-12)
    assert ndcg_at_k((1, 3, 0), 1) == pytest.approx(1 / 7, rel=1e-12)
    assert ndcg_at_k((1, 3, 0), 1, "linear") == pytest.approx(1 / 3, rel=1e-12)


@settings(deadline=None)
@given(_grades.filter(any), st.integers(1, 14), st.sampled_from(["exp", "linear"]))
def test_equals_scikit_learn(grades: list[int], k: int, gain: Gain) -> None:
    gains = [2.0**g - 1 if gain == "exp" else g for g in grades]
    scores = np.arange(len(grades), 0, -1)
    expected = ndcg_score([gains], [scores], k=k)
    assert ndcg_at_k(grades, k, gain) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@settings(deadline=None)
@given(_grades, st.integers(1, 14), st.sampled_from(["exp", "linear"]))
def test_range_and_ideal(grades: list[int], k: int, gain: Gain) -> None:
    assert 0.0 <= ndcg_at_k(grades, k, gain) <= 1.0
    assert ndcg_at_k(sorted(grades, reverse=True), k, gain) == 1.0


def test_all_orders_of_a_zero_list_are_ideal() -> None:
    assert ndcg_at_k((0, 0, 0), 2) == 1.0
    assert {ndcg_at_k(order, 3) for order in permutations((0, 0, 0))} == {1.0}


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="k=0"):
        ndcg_at_k((1, 0), 0)
    with pytest.raises(ConfigError, match="gain=log"):
        ndcg_at_k((1, 0), 1, "log")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="grade -1"):
        ndcg_at_k((1, -1), 1)
    with pytest.raises(DataError, match="answers"):
        ranking_metrics([])


def test_ranked_grades_follow_the_ranking() -> None:
    assert ranked_grades(("C", "A", "B"), ("A", "B", "C"), (3, 0, 1)) == (1, 3, 0)


def test_metrics_of_parsed_and_of_all_answers() -> None:
    metrics = ranking_metrics([(1, 3, 0), None, (3, 1, 0), None], ks=(1, 3))
    first, second = ndcg_at_k((1, 3, 0), 3), 1.0
    assert set(metrics) == {"ndcg1_parsed", "ndcg1_all", "ndcg3_parsed", "ndcg3_all"}
    assert metrics["ndcg1_parsed"] == pytest.approx((1 / 7 + 1) / 2)
    assert metrics["ndcg1_all"] == pytest.approx((1 / 7 + 1) / 4)
    assert metrics["ndcg3_parsed"] == pytest.approx((first + second) / 2)
    assert metrics["ndcg3_all"] == pytest.approx((first + second) / 4)


def test_gain_reaches_the_aggregate() -> None:
    assert ranking_metrics([(1, 3)], gain="linear")["ndcg1_all"] == pytest.approx(1 / 3)


def test_nothing_parsed_is_nan_and_zero() -> None:
    metrics = ranking_metrics([None, None])
    assert math.isnan(metrics["ndcg1_parsed"])
    assert metrics["ndcg1_all"] == 0.0


@pytest.mark.parametrize("gain", ["exp", "linear"])
@pytest.mark.parametrize("top", [1023, 1024, 1500, 10**400])
def test_grades_that_are_counts_or_prices_do_not_overflow(top: int, gain: Gain) -> None:
    assert ndcg_at_k([top, 3], 1, gain) == 1.0
    assert ndcg_at_k([3, top], 1, gain) < 0.01
    # All that counts is what a grade gains beside the others.
    assert ndcg_at_k([top, top], 2, gain) == 1.0
    if gain == "exp":
        assert ndcg_at_k([top - 1, top, top - 2], 2) == pytest.approx(
            (0.5 + 1 / math.log2(3)) / (1 + 0.5 / math.log2(3)), rel=1e-12
        )


@given(grades=st.lists(st.integers(0, 900), min_size=1, max_size=6), k=st.integers(1, 6))
def test_small_grades_have_the_bits_of_the_plain_formula(grades: list[int], k: int) -> None:
    def dcg(ordered: list[int]) -> float:
        return math.fsum((2.0**g - 1.0) / math.log2(i + 2) for i, g in enumerate(ordered[:k]))

    ideal = dcg(sorted(grades, reverse=True))
    assert ndcg_at_k(grades, k) == (dcg(grades) / ideal if ideal > 0 else 1.0)
