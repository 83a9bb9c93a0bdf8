"""Single positions: quantiles that know infinity, weights by tail, when one number may stand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit

from opdcliff.calibration.distribution import (
    FEWEST,
    FORCED,
    PLAIN,
    QUANTILES,
    SAFE_SHARE,
    TAIL,
    TEACHER,
    WARM_START,
    headroom,
    homogeneity,
    quantiles,
    tabulate_curves,
    tabulate_distribution,
    thresholds,
)
from opdcliff.theory.spread import critical_lambda
from opdcliff.theory.threshold import clip_safe_logit, fixed_point_logit, lambda_star


def positions(p: Any, b: Any, source: str = WARM_START, count: int = 200) -> pd.DataFrame:
    columns = {"p": np.broadcast_to(p, count), "b": np.broadcast_to(b, count)}
    return pd.DataFrame({"class": "text", "source": source, "prompt": 0, "offset": 0} | columns)


def _slow_quantile(values: list[float], weights: list[float], level: float) -> float:
    """The first of the sorted values at which the weight so far reaches the level."""
    so_far, whole = 0.0, math.fsum(weights)
    for value, weight in sorted(zip(values, weights, strict=True)):
        so_far += weight
        if so_far / whole >= level - 1e-9:
            return value
    return max(values)


# Quantiles


@given(
    st.lists(
        st.tuples(st.floats(1, 50) | st.just(math.inf), st.floats(0.001, 1)),
        min_size=1,
        max_size=30,
    ),
    st.sampled_from([0.1, 0.25, 0.5, 0.75, 0.9]),
)
def test_quantiles_are_those_of_a_slow_walk_over_sorted_values(
    pairs: list[tuple[float, float]], level: float
) -> None:
    values, weights = map(list, zip(*pairs, strict=True))
    (found,) = quantiles(np.array(values), np.array(weights), [level])
    assert found == _slow_quantile(values, weights, level)


def test_positions_without_a_threshold_are_infinite_and_never_nan() -> None:
    values = np.array([1.2, np.inf, 1.5, np.inf])
    assert quantiles(values, np.ones(4), [0.25, 0.5, 0.75, 0.9]).tolist() == [1.2, 1.5] + 2 * [
        math.inf
    ]
    # A tail of no mass anywhere leaves nothing to lose: there is no quantile of it.
    assert np.isnan(quantiles(values, np.zeros(4), [0.5])).all()


def test_thresholds_take_their_limits_where_a_mass_rounds_to_0_or_1() -> None:
    p = np.array([0.99, 0.5, 1.0, 0.9, 0.0, 0.9, 1.0])
    b = np.array([0.5, 0.9, 0.5, 1.0, 0.5, 0.0, 1.0])
    found = thresholds(p, b, 5.0)
    assert found[0] == pytest.approx(1.352001, abs=1e-6)
    assert found[1:].tolist() == [math.inf, 1.0, math.inf, math.inf, 1.0, math.inf]
    assert np.isneginf(headroom(p, b, 5.0, 1.3)[[2, 5]]).all()
    assert np.isposinf(headroom(p, b, 5.0, 1.3)[[3, 4, 6]]).all()


@given(st.floats(0.01, 0.999), st.floats(0.01, 0.999), st.floats(1.1, 9), st.floats(1, 4))
def test_headroom_is_the_way_from_the_fixed_point_to_the_boundary(
    p: float, b: float, c: float, lam: float
) -> None:
    (found,) = headroom(np.array([p]), np.array([b]), c, lam)
    expected = clip_safe_logit(p, c) - fixed_point_logit(p, b, lam)
    assert found == pytest.approx(expected, abs=1e-6 * max(1.0, abs(expected)))


# The table


def test_the_table_has_plain_and_tail_weighted_quantiles_per_source() -> None:
    # Nine in ten positions inside a word, one where the text may end: it has nearly all the tail.
    p, b = np.array([0.999] * 180 + [0.7] * 20), np.array([0.8] * 180 + [0.5] * 20)
    table = tabulate_distribution(pd.concat([positions(p, b), positions(0.9, 0.5, FORCED)]), [5, 2])
    assert len(table) == 2 * 2 * 2
    own = table[(table.source == WARM_START) & (table.c == 5)].set_index("weighting")
    inside, ends = lambda_star(0.999, 0.8, 5), lambda_star(0.7, 0.5, 5)
    assert own.loc[PLAIN, ["q10", "q50", "q90"]].tolist() == pytest.approx([inside] * 3)
    assert own.loc[TAIL, ["q10", "q50", "q90"]].tolist() == pytest.approx([ends] * 3)
    assert own.of_medians.tolist() == pytest.approx([inside] * 2)
    assert own.positions.tolist() == [200, 200]
    assert (table[table.source == FORCED].q50 > 1).all()


def test_the_table_says_how_much_has_no_threshold() -> None:
    p, b = np.array([0.9] * 150 + [0.2] * 50), np.full(200, 0.5)
    table = tabulate_distribution(positions(p, b), [5.0]).set_index("weighting")
    assert table.loc[PLAIN, "unbounded"] == pytest.approx(0.25)
    assert table.loc[TAIL, "unbounded"] == pytest.approx(50 * 0.8 / (50 * 0.8 + 150 * 0.1))
    assert table.loc[TAIL, "q50"] == math.inf
    assert not table[[f"q{100 * q:.0f}" for q in QUANTILES]].isna().any(axis=None)
    assert tabulate_distribution(positions(p, b)[:0], [5.0]).empty


def test_curves_rise_and_meet_the_table() -> None:
    rng = np.random.default_rng(0)
    rows = positions(rng.uniform(0.4, 0.999, 300), rng.uniform(0.3, 0.7, 300), count=300)
    curves = tabulate_curves(rows, 5.0)
    table = tabulate_distribution(rows, [5.0]).set_index("weighting")
    for weighting, curve in curves.groupby("weighting"):
        assert (np.diff(curve["share"]) > 0).all()
        assert curve.threshold.is_monotonic_increasing
        (median,) = curve[np.isclose(curve["share"], 0.5)].threshold
        assert median == table.loc[weighting, "q50"]


# Homogeneity


def _spread_out(p: float, b: float, spread: float, source: str = WARM_START) -> pd.DataFrame:
    """Positions whose headroom at lambda* of (p, b) is normal with that standard deviation."""
    star = lambda_star(p, b, 5.0)
    away = np.random.default_rng(1).normal(0, spread, 4000)
    # Headroom rises with logit b, lambda* - 1 logits for each.
    return positions(p, expit(logit(b) + away / (star - 1.0)), source, count=4000)


@pytest.mark.parametrize("spread", [0.02, 0.1])
def test_the_spread_is_that_of_the_headroom_and_its_price_that_of_point_16(spread: float) -> None:
    found = homogeneity(_spread_out(0.8557, 0.4563, spread), 0.8557, 0.4563, [5.0])
    assert found.spread == pytest.approx(spread, rel=0.08)
    assert found.critical == critical_lambda(0.8557, 0.4563, 5.0, found.spread)
    assert found.agreement <= found.critical / found.star
    assert found.homogeneous
    assert "homogeneous: yes" in found.in_words()


def test_a_wide_distribution_is_not_homogeneous_and_its_sentence_promises_nothing() -> None:
    found = homogeneity(_spread_out(0.8557, 0.4563, 1.0), 0.8557, 0.4563, [5.0])
    assert not found.homogeneous
    assert found.agreement < SAFE_SHARE
    assert "homogeneous: no" in found.in_words()
    assert "promises nothing" in found.in_words()
    assert "safe" not in found.in_words()


def test_text_as_titles_have_it_is_not_homogeneous() -> None:
    """Also where all but a few positions are inside of words: the tail is with the few."""
    for few in (80, 15):
        p = np.array([0.9999] * (200 - few) + [0.87] * few)
        found = homogeneity(positions(p, p * 0.6), 0.9999, 0.6, [5.0, 2.0])
        assert not found.homogeneous
        assert found.tail == pytest.approx([lambda_star(0.87, 0.522, found.c)] * 2)


@pytest.mark.parametrize("factor", [0.85, 0.95, 1.05, 1.2])
def test_thresholds_of_single_positions_may_differ_by_what_safe_leaves(factor: float) -> None:
    star = lambda_star(0.8557, 0.4563, 5.0)
    wanted = 1.0 + factor * star - 1.0
    b = expit(logit(0.8557) - np.log1p(4.0 / 0.8557) / (wanted - 1.0))
    found = homogeneity(positions(0.8557, b), 0.8557, 0.4563, [5.0])
    assert found.plain == pytest.approx([wanted] * 2)
    assert found.agreement <= min(factor, 1 / factor) + 1e-9
    assert found.homogeneous is (found.agreement >= SAFE_SHARE)
    assert found.homogeneous or factor != 1.05


def test_one_source_that_differs_is_enough_if_it_has_enough_positions() -> None:
    alike = positions(0.8557, 0.4563)
    for count, holds in ((FEWEST - 1, True), (FEWEST, False)):
        other = positions(0.99, 0.3, TEACHER, count)
        found = homogeneity(pd.concat([alike, other]), 0.8557, 0.4563, [5.0])
        assert found.homogeneous is holds
    assert found.source == TEACHER


def test_a_percent_of_stray_positions_does_not_make_it_wide() -> None:
    p = np.array([0.8557] * 195 + [1e-6] * 5)
    assert homogeneity(positions(p, 0.4563), 0.8557, 0.4563, [5.0, 2.0]).homogeneous


def test_masses_of_exactly_one_are_a_verdict_and_no_error() -> None:
    found = homogeneity(positions(1.0, 0.5), 1.0, 0.5, [5.0])
    assert not found.homogeneous


def test_sources_of_few_positions_each_still_give_a_verdict() -> None:
    """A bin binds by the positions of all sources together."""
    part = pd.DataFrame({"p": [0.86] * 60, "b": [0.46] * 60})
    positions = pd.concat([part.assign(source=WARM_START), part.assign(source=FORCED)])
    assert homogeneity(positions, 0.86, 0.46, [5.0, 2.0]).homogeneous
    assert not homogeneity(positions.assign(b=0.7), 0.86, 0.46, [5.0]).homogeneous
