"""Closed forms against reference values, limits, a quadrature and each other."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import integrate

from opdcliff.errors import TheoryDomainError
from opdcliff.theory import budget_flow
from opdcliff.theory import threshold as threshold_module

MASS = st.floats(0.001, 0.999)
CLIP = st.floats(1.01, 50.0)
REFERENCE = [
    (0.9, 0.5, 5.0, 1.771244),
    (0.99, 0.5, 5.0, 1.352001),
    (0.999, 0.5, 5.0, 1.233140),
    (0.9993, 0.5, 5.0, 1.221649),
    (0.99, 0.9, 5.0, 1.674544),
    (0.9, 0.5, 2.0, 1.340072),
]


@st.composite
def sharpening_positions(draw: st.DrawFn) -> tuple[float, float, float]:
    """(p, b, c) with b < p, far enough apart for a finite, moderate lambda*."""
    b = draw(st.floats(0.01, 0.95))
    p = draw(st.floats(b + 0.02, 0.9995))
    return p, b, draw(CLIP)


def quadrature(z0: float, z_c: float, z_star: float) -> float:
    """eta * N straight from the definition, in the variable log(z* - z) to tame the end z_c."""

    def integrand(u: float) -> float:
        q = 1.0 / (1.0 + math.exp(-(z_star - math.exp(u))))
        return 1.0 / (q * (1.0 - q))

    low, high = math.log(z_star - z_c), math.log(z_star - z0)
    return float(integrate.quad(integrand, low, high, epsabs=0.0, epsrel=1e-11, limit=400)[0])


@pytest.mark.parametrize(("p", "b", "c", "expected"), REFERENCE)
def test_lambda_star_reference_values(p: float, b: float, c: float, expected: float) -> None:
    assert threshold_module.lambda_star(p, b, c) == pytest.approx(expected, abs=5.1e-7)


@pytest.mark.parametrize(("p", "b", "c", "_expected"), REFERENCE)
def test_lambda_star_is_equation_4_as_printed(p: float, b: float, c: float, _expected: float):
    base_odds = math.log((1 - b) / b)
    printed = (math.log((1 - p) / (c - 1 + p)) - base_odds) / (math.log((1 - p) / p) - base_odds)
    assert threshold_module.lambda_star(p, b, c) == pytest.approx(printed, rel=1e-12)


def test_published_marker_and_the_values_derived_from_it() -> None:
    p = threshold_module.modal_mass_for(1.22, 0.5, 5.0)
    assert p == pytest.approx(0.999337, abs=5e-7)
    predicted = threshold_module.lambda_star_neutral(p, np.array([2.0, 3.0, 10.0]))
    np.testing.assert_allclose(predicted, [1.0948, 1.1502, 1.3147], atol=5e-5)


def test_limits_of_lambda_star() -> None:
    assert threshold_module.lambda_star(0.9, 0.5, 1.0 + 1e-12) == pytest.approx(1.0, abs=1e-11)
    # the excess over 1 keeps its digits even there
    excess = threshold_module.lambda_star(0.9, 0.5, 1.0 + 2.0**-40) - 1.0
    assert excess == pytest.approx(2.0**-40 / 0.9 / math.log(9.0), rel=1e-3)
    approach = threshold_module.lambda_star(0.9, np.array([0.8, 0.89, 0.899, 0.9 - 1e-9]), 5.0)
    assert np.all(np.diff(approach) > 0.0)
    assert approach[-1] > 1e6
    assert threshold_module.lambda_star(0.9, 0.9, 5.0) == math.inf
    assert threshold_module.lambda_star(0.4, 0.9, 5.0) == math.inf
    assert threshold_module.lambda_star_neutral(0.5, 5.0) == math.inf


def test_no_threshold_reason() -> None:
    assert threshold_module.no_threshold_reason(0.9, 0.5) is None
    assert "agree" in str(threshold_module.no_threshold_reason(0.7, 0.7))
    assert "does not sharpen" in str(threshold_module.no_threshold_reason(0.4, 0.9))
    with pytest.raises(TheoryDomainError, match=r"p = 1\.0 "):
        threshold_module.no_threshold_reason(1.0, 0.5)


@given(sharpening_positions(), st.floats(1.05, 10.0))
def test_lambda_star_increases_in_c_and_exceeds_1(
    position: tuple[float, float, float], factor: float
) -> None:
    p, b, c = position
    assert (
        1.0 < threshold_module.lambda_star(p, b, c) < threshold_module.lambda_star(p, b, c * factor)
    )


@given(MASS, CLIP)
def test_lambda_star_reduces_to_the_neutral_form(p: float, c: float) -> None:
    neutral = math.log((c - 1 + p) / (1 - p)) / math.log(p / (1 - p)) if p > 0.5 else math.inf
    assume(p <= 0.5 or p > 0.501)
    assert threshold_module.lambda_star_neutral(p, c) == pytest.approx(neutral, rel=1e-9)
    assert threshold_module.lambda_star_neutral(p, c) == threshold_module.lambda_star(p, 0.5, c)


@given(sharpening_positions())
def test_fixed_point_at_lambda_star_is_the_clip_boundary(
    position: tuple[float, float, float],
) -> None:
    p, b, c = position
    threshold = threshold_module.lambda_star(p, b, c)
    z_c = threshold_module.clip_safe_logit(p, c)
    assert threshold_module.fixed_point_logit(p, b, threshold) == pytest.approx(z_c, abs=1e-9)
    assert threshold_module.onset_margin(p, b, c, threshold) == 0.0
    q = threshold_module.fixed_point(p, b, threshold)
    assert (1 - p) / (1 - q) == pytest.approx(c, rel=1e-6)


@given(MASS, MASS, CLIP, st.floats(0.0, 4.0))
def test_onset_margin_is_the_distance_in_logits(p: float, b: float, c: float, lam: float) -> None:
    distance = threshold_module.clip_safe_logit(p, c) - threshold_module.fixed_point_logit(
        p, b, lam
    )
    assert threshold_module.onset_margin(p, b, c, lam) == pytest.approx(distance, abs=1e-9)


def test_fixed_point_is_the_normalised_geometric_mixture() -> None:
    p, b, lam = 0.9, 0.6, 1.7
    modal, tail = p**lam * b ** (1 - lam), (1 - p) ** lam * (1 - b) ** (1 - lam)
    assert threshold_module.fixed_point(p, b, lam) == pytest.approx(
        modal / (modal + tail), rel=1e-12
    )
    assert threshold_module.fixed_point(p, b, 1.0) == pytest.approx(p)
    assert threshold_module.fixed_point(p, b, 0.0) == pytest.approx(b)


def test_masked_fixed_point_zeroes_the_modal_advantage() -> None:
    p, b, lam = 0.9, 0.5, 1.07
    q = threshold_module.masked_fixed_point(p, b, lam)
    assert q < 1.0
    assert lam * math.log(p) - math.log(q) - (lam - 1) * math.log(b) == pytest.approx(
        0.0, abs=1e-12
    )
    full = 1 + math.log(1 / p) / math.log(p / b)
    assert threshold_module.masked_fixed_point(p, b, full - 1e-6) < 1.0
    assert threshold_module.masked_fixed_point(p, b, full + 1e-6) == 1.0


@given(sharpening_positions())
def test_modal_mass_round_trip(position: tuple[float, float, float]) -> None:
    p, b, c = position
    back = threshold_module.modal_mass_for(threshold_module.lambda_star(p, b, c), b, c)
    assert threshold_module.logit(back) == pytest.approx(threshold_module.logit(p), abs=1e-7)


@given(st.floats(0.01, 0.9), CLIP)
def test_lambda_star_falls_in_p(b: float, c: float) -> None:
    thresholds = threshold_module.lambda_star(np.linspace(b, 1.0, 200)[1:-1], b, c)
    assert np.all(np.diff(thresholds) < 0.0)


def test_modal_mass_beyond_double_precision_is_refused() -> None:
    with pytest.raises(TheoryDomainError, match=r"cannot tell from 1;"):
        threshold_module.modal_mass_for(1.001, 0.5, 5.0)
    with pytest.raises(TheoryDomainError, match=r"cannot tell from 0\.5;"):
        threshold_module.modal_mass_for(1e20, 0.5, 5.0)


def test_updates_to_exit_reference_setting() -> None:
    lam = 1.02 * threshold_module.lambda_star(0.876, 0.476, 5.0)
    assert budget_flow.updates_to_exit(0.876, 0.476, 5.0, lam, 0.05) == pytest.approx(1928, abs=1.0)


@settings(deadline=None)
@given(sharpening_positions(), st.floats(-9.0, 2.5), st.floats(-8.0, -0.01))
def test_updates_to_exit_is_the_integral(
    position: tuple[float, float, float], exponent: float, start: float
) -> None:
    p, b, c = position
    lam = threshold_module.lambda_star(p, b, c) + 10.0**exponent
    z_c, z_star = (
        threshold_module.clip_safe_logit(p, c),
        threshold_module.fixed_point_logit(p, b, lam),
    )
    for z0 in (None, z_c + start):
        z_start = threshold_module.logit(b) if z0 is None else z0
        # near the boundary z* - z_c is itself a difference of rounded numbers
        gap = -threshold_module.onset_margin(p, b, c, lam)
        expected = quadrature(z_start, z_star - gap, z_star) / 0.1
        closed = budget_flow.updates_to_exit(p, b, c, lam, 0.1, z0=z0)
        assert closed == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("lam", [60.0, 67.0, 69.0, 70.0, 75.0, 140.0, 1e4])
def test_updates_to_exit_far_beyond_the_cliff(lam: float) -> None:
    # straddles the switch from the special functions to their asymptotic series
    p, b, c = 0.9993, 0.5, 5.0
    z_c, z_star = (
        threshold_module.clip_safe_logit(p, c),
        threshold_module.fixed_point_logit(p, b, lam),
    )
    expected = quadrature(0.0, z_c, z_star)
    assert budget_flow.updates_to_exit(p, b, c, lam, 1.0) == pytest.approx(expected, rel=1e-10)


def test_updates_to_exit_outside_its_cliff() -> None:
    threshold = threshold_module.lambda_star(0.9, 0.5, 5.0)
    assert budget_flow.updates_to_exit(0.9, 0.5, 5.0, threshold, 0.1) == math.inf
    assert budget_flow.updates_to_exit(0.9, 0.5, 5.0, 1.0, 0.1) == math.inf
    assert budget_flow.updates_to_exit(0.4, 0.6, 5.0, 9.0, 0.1) == math.inf
    z_c = threshold_module.clip_safe_logit(0.9, 5.0)
    assert budget_flow.updates_to_exit(0.9, 0.5, 5.0, 1.0, 0.1, z0=z_c) == 0.0
    assert budget_flow.updates_to_exit(0.9, 0.5, 5.0, 1.0, 0.1, z0=z_c - 1e-9) == math.inf
    # a warm start more certain than the clip allows is outside before the first update
    assert budget_flow.updates_to_exit(0.5, 0.99, 5.0, 1.2, 0.1) == 0.0


def test_updates_to_exit_diverges_like_a_logarithm() -> None:
    p, b, c, eta = 0.9, 0.5, 5.0, 0.1
    excess = np.array([1e-6, 1e-7, 1e-8])
    n = budget_flow.updates_to_exit(p, b, c, threshold_module.lambda_star(p, b, c) + excess, eta)
    q_c = threshold_module.sigmoid(threshold_module.clip_safe_logit(p, c))
    per_decade = math.log(10.0) / (eta * q_c * (1 - q_c))
    np.testing.assert_allclose(np.diff(n), per_decade, rtol=1e-4)


@given(sharpening_positions(), st.floats(0.01, 1.0), st.floats(1.05, 4.0))
def test_updates_to_exit_falls_in_lam(
    position: tuple[float, float, float], excess: float, factor: float
) -> None:
    p, b, c = position
    near, far = threshold_module.lambda_star(p, b, c) + np.array([excess, excess * factor])
    n_near, n_far = (budget_flow.updates_to_exit(p, b, c, lam, 0.1) for lam in (near, far))
    assert 0.0 < n_far < n_near < math.inf


@settings(deadline=None)
@given(sharpening_positions(), st.floats(0.001, 5.0), st.floats(0.01, 1.0), st.booleans())
def test_lambda_for_budget_round_trip(
    position: tuple[float, float, float], excess: float, eta: float, from_teacher: bool
) -> None:
    p, b, c = position
    z0 = threshold_module.logit(p) if from_teacher else None
    lam = threshold_module.lambda_star(p, b, c) + excess
    updates = budget_flow.updates_to_exit(p, b, c, lam, eta, z0=z0)
    assert budget_flow.lambda_for_budget(p, b, c, eta, updates, z0=z0) == pytest.approx(
        lam, rel=1e-6
    )


def test_lambda_for_budget_falls_to_lambda_star() -> None:
    budgets = np.array([1e-3, 1.0, 300.0, 1000.0, 3000.0, 1e5, 1e300])
    found = budget_flow.lambda_for_budget(0.876, 0.476, 5.0, 0.05, budgets)
    threshold = threshold_module.lambda_star(0.876, 0.476, 5.0)
    assert np.all(np.diff(found[:-2]) < 0.0)
    assert np.all(found[:-2] > threshold)
    assert found[-1] == threshold
    assert budget_flow.lambda_for_budget(0.4, 0.6, 5.0, 0.05, 100.0) == math.inf


BAD_CALLS = [
    (lambda: threshold_module.lambda_star(1.0, 0.5, 5.0), "p = 1.0 "),
    (lambda: threshold_module.lambda_star(0.0, 0.5, 5.0), "p = 0.0 "),
    (lambda: threshold_module.lambda_star(0.9, 1.0, 5.0), "b = 1.0 "),
    (lambda: threshold_module.lambda_star(0.9, -0.1, 5.0), "b = -0.1 "),
    (lambda: threshold_module.lambda_star(0.9, 0.5, 1.0), "c = 1.0 .*above 1"),
    (lambda: threshold_module.lambda_star(0.9, 0.5, math.inf), "c = inf "),
    (lambda: threshold_module.lambda_star(math.nan, 0.5, 5.0), "p = nan "),
    (lambda: threshold_module.lambda_star([0.9, 1.5, 2.0], 0.5, 5.0), "p = 1.5 .*between 0 and 1"),
    (lambda: threshold_module.fixed_point(0.9, 0.5, -0.1), "lam = -0.1 .*at least 0"),
    (lambda: threshold_module.fixed_point_logit(0.9, 0.5, math.inf), "lam = inf "),
    (lambda: threshold_module.onset_margin(0.9, 0.5, 5.0, math.nan), "lam = nan "),
    (lambda: threshold_module.masked_fixed_point(0.9, 0.0, 1.0), "b = 0.0 "),
    (lambda: threshold_module.clip_safe_logit(0.9, 0.5), "c = 0.5 "),
    (lambda: threshold_module.logit(0.0), "x = 0.0 "),
    (lambda: threshold_module.sigmoid(math.nan), "z = nan "),
    (lambda: threshold_module.modal_mass_for(1.0, 0.5, 5.0), "lam_star = 1.0 .*above 1"),
    (lambda: budget_flow.updates_to_exit(0.9, 0.5, 5.0, 2.0, 0.0), "eta = 0.0 .*above 0"),
    (lambda: budget_flow.updates_to_exit(0.9, 0.5, 5.0, 2.0, 0.1, z0=math.nan), "z0 = nan "),
    (lambda: budget_flow.lambda_for_budget(0.9, 0.5, 5.0, 0.1, 0.0), "updates = 0.0 "),
    (
        lambda: budget_flow.lambda_for_budget(0.9, 0.5, 5.0, 0.1, 9.0, z0=4.0),
        "z0 = 4.0 .*below z_c",
    ),
]


@pytest.mark.parametrize(("call", "words"), BAD_CALLS)
def test_values_outside_the_domain_are_refused(call, words: str) -> None:
    with pytest.raises(TheoryDomainError, match=words):
        call()


P = np.array([[0.9], [0.99], [0.3]])
B = np.array([0.4, 0.5, 0.6, 0.95])
VECTORISED = [
    lambda p, b: threshold_module.logit(p) + threshold_module.sigmoid(b),
    lambda p, b: threshold_module.clip_safe_logit(p, 1.0 + b),
    lambda p, b: threshold_module.fixed_point_logit(p, b, 1.3),
    lambda p, b: threshold_module.fixed_point(p, b, 1.3),
    lambda p, b: threshold_module.masked_fixed_point(p, b, 1.3),
    lambda p, b: threshold_module.lambda_star(p, b, 5.0),
    lambda p, b: threshold_module.lambda_star_neutral(p, 4.0 + b),
    lambda p, b: threshold_module.modal_mass_for(1.0 + p, b, 5.0),
    lambda p, b: threshold_module.onset_margin(p, b, 5.0, 1.3),
    lambda p, b: budget_flow.updates_to_exit(p, b, 5.0, 2.0, 0.1),
    lambda p, b: budget_flow.lambda_for_budget(p, b, 5.0, 0.1, 1000.0),
]


@pytest.mark.parametrize("formula", VECTORISED)
def test_arrays_broadcast_to_what_a_loop_gives(formula) -> None:
    whole = formula(P, B)
    loop = [[formula(float(p), float(b)) for b in B] for p in P[:, 0]]
    assert isinstance(whole, np.ndarray)
    assert all(type(value) is float for row in loop for value in row)
    np.testing.assert_allclose(whole, loop, rtol=1e-12)


@pytest.mark.parametrize(("b", "ulps"), [(0.13417883016232368, 1200), (0.19094374795229485, 1)])
def test_masses_that_nearly_agree_have_their_threshold(b: float, ulps: int) -> None:
    p = b
    for _ in range(ulps):
        p = float(np.nextafter(p, 1.0))
    right = 1 + math.log1p(4 / p) / math.log1p((p - b) / (b * (1 - p)))
    assert threshold_module.lambda_star(p, b, 5.0) == pytest.approx(right, rel=1e-12)
    assert threshold_module.no_threshold_reason(p, b) is None
    assert threshold_module.lambda_star(b, p, 5.0) == math.inf
    assert "less sure" in str(threshold_module.no_threshold_reason(b, p))


def test_the_two_ways_to_subtract_logits_meet() -> None:
    b = 0.3
    for gap in (1.9e-7, 2.1e-7, 2.3e-7):
        right = 1 + math.log1p(4 / (b + gap)) / math.log1p(gap / (b * (1 - b - gap)))
        assert threshold_module.lambda_star(b + gap, b, 5.0) == pytest.approx(right, rel=1e-7)
