"""Statistics of a grid against scikit-learn, scipy and closed forms."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.isotonic import IsotonicRegression

from opdcliff.errors import ConfigError
from opdcliff.stats import Onset, onset_of_seed, t_interval, wilson

GRID = [1.0, 1.2, 1.4, 1.6, 1.8, 2.0]
rates = st.lists(st.integers(0, 20).map(lambda n: n / 20), min_size=2, max_size=8)


# ---- onset ----------------------------------------------------------------------------------


@given(rates, st.sampled_from([0.25, 0.5, 0.625]))
def test_the_onset_is_where_an_isotonic_fit_meets_the_level(
    values: list[float], level: float
) -> None:
    x = np.linspace(1.0, 2.0, len(values))
    fit = IsotonicRegression(increasing=False).fit(x, values).predict(x)
    onset = onset_of_seed(x.tolist(), values, level)
    if fit.min() >= level:
        assert math.isnan(onset.point)
        assert (onset.below, onset.above) == (x[-1], math.inf)
    elif fit.max() < level:
        assert math.isnan(onset.point)
        assert (onset.below, onset.above) == (-math.inf, x[0])
    else:
        assert np.interp(onset.point, x, fit) == pytest.approx(level, abs=1e-12)
        assert (onset.below, onset.above) in list(pairwise(x.tolist()))
        assert onset.below <= onset.point < onset.above
        assert np.interp(onset.below, x, fit) >= level > np.interp(onset.above, x, fit)


@pytest.mark.parametrize("level", [0.3, 0.5, 0.61])
def test_a_linear_ramp_is_crossed_exactly(level: float) -> None:
    onset = onset_of_seed(GRID, [1.0 - (x - 1.0) for x in GRID], level)
    assert onset.point == pytest.approx(2.0 - level, abs=1e-12)


def test_a_step_is_crossed_inside_its_cell() -> None:
    onset = onset_of_seed(GRID, [0.9, 0.9, 0.9, 0.1, 0.1, 0.1], 0.5)
    assert (onset.below, onset.above) == (1.4, 1.6)
    assert onset.point == pytest.approx(1.5)
    assert onset_of_seed(GRID, [1, 0.5, 0.5, 0, 0, 0], 0.5).point == 1.4


def test_a_bump_is_pooled_before_the_crossing() -> None:
    # 0.4 then 0.8 violate the order; their mean 0.6 stays over the level.
    onset = onset_of_seed(GRID, [1.0, 0.4, 0.8, 0.2, 0.0, 0.0], 0.5)
    assert onset.point == pytest.approx(1.4 + 0.2 * (0.6 - 0.5) / (0.6 - 0.2))


def test_the_order_of_the_grid_does_not_matter() -> None:
    values = [0.95, 0.9, 0.7, 0.3, 0.1, 0.0]
    order = [3, 0, 5, 1, 4, 2]
    shuffled = onset_of_seed([GRID[i] for i in order], [values[i] for i in order], 0.5)
    assert shuffled == onset_of_seed(GRID, values, 0.5)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.9, Onset(math.nan, 2.0, math.inf)), (0.1, Onset(math.nan, -math.inf, 1.0))],
)
def test_a_seed_that_does_not_cross_has_no_point(value: float, expected: Onset) -> None:
    assert repr(onset_of_seed(GRID, [value] * 6, 0.5)) == repr(expected)


@pytest.mark.parametrize(
    ("lams", "values"),
    [
        ([1.0], [0.5]),
        ([], []),
        ([1.0, 1.0, 2.0], [0.9, 0.8, 0.1]),
        ([1.0, 1.5, 2.0], [0.9, math.nan, 0.1]),
        ([1.0, math.nan, 2.0], [0.9, 0.5, 0.1]),
        ([1.0, math.nan, math.nan], [0.9, 0.5, 0.1]),
        ([1.0, 1.5, math.inf], [0.9, 0.5, 0.1]),
        ([1.0, 1.5, 2.0], [0.9, 0.5, -math.inf]),
    ],
)
def test_a_grid_that_has_no_onset_is_refused(lams: list[float], values: list[float]) -> None:
    with pytest.raises(ConfigError, match="two or more distinct finite lambdas"):
        onset_of_seed(lams, values, 0.5)


# ---- intervals ------------------------------------------------------------------------------


@pytest.mark.parametrize("confidence", [0.95, 0.8])
def test_the_t_interval_is_that_of_the_one_sample_test(confidence: float) -> None:
    values = [1.81, 1.84, 1.79, 1.86, 1.83]
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(confidence)
    assert t_interval(values, confidence) == pytest.approx((expected.low, expected.high))
    assert t_interval(values) == t_interval(values, 0.95)


def test_equal_values_have_an_interval_of_no_width() -> None:
    assert t_interval([1.5, 1.5, 1.5]) == (1.5, 1.5)


@pytest.mark.parametrize("values", [[], [1.8], [1.8, math.nan], [1.8, 1.9, math.inf]])
def test_an_undefined_interval_is_not_a_number(values: list[float]) -> None:
    assert all(math.isnan(bound) for bound in t_interval(values))


@pytest.mark.parametrize("confidence", [0.95, 0.8])
@pytest.mark.parametrize(("successes", "count"), [(0, 10), (10, 10), (3, 10), (61, 256), (1, 1)])
def test_the_wilson_interval_solves_its_equation(
    successes: int, count: int, confidence: float
) -> None:
    rate, z = successes / count, stats.norm.ppf(0.5 + confidence / 2)
    middle = (rate + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(rate * (1 - rate) / count + (z / count) ** 2 / 4)
    low, high = wilson(successes, count, confidence)
    assert (low, high) == pytest.approx((middle - half, middle + half), abs=1e-12)
    # Both ends lie one and a bit standard errors of their own away from the rate.
    for bound in (low, high):
        if 0 < bound < 1:
            assert abs(bound - rate) == pytest.approx(z * math.sqrt(bound * (1 - bound) / count))
