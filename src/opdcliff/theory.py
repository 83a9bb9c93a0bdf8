"""Closed forms of the extrapolation cliff at one near-deterministic position.

Symbols (docs/theory.md, "One position"): p and b are the masses that the teacher and the warm
start (base) put on the modal class, q the student's; c is the clip strength; lam the
reward-extrapolation coefficient lambda; z = logit q; eta the step size.

Every function is elementwise and broadcasts: floats in, a float out; arrays in, an array out.
Arguments outside their domain raise TheoryDomainError; nothing is clamped, NaN is refused.
Domains: 0 < p < 1, 0 < b < 1, c > 1, lam >= 0, eta > 0, updates > 0, all but z finite.
"""

from __future__ import annotations

import math
from typing import overload

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special

from opdcliff.errors import TheoryDomainError

Array = NDArray[np.float64]
_SERIES_FROM = 500.0  # exp(x) * E1(x) would overflow or underflow soon after


@overload
def logit(x: float) -> float: ...
@overload
def logit(x: ArrayLike) -> Array: ...
def logit(x: ArrayLike) -> float | Array:
    """Log odds log(x / (1 - x)) of a mass 0 < x < 1."""
    return _out(special.logit(_mass("x", x)))


@overload
def sigmoid(z: float) -> float: ...
@overload
def sigmoid(z: ArrayLike) -> Array: ...
def sigmoid(z: ArrayLike) -> float | Array:
    """Inverse of `logit`, 1 / (1 + exp(-z)); infinities map to 0 and 1."""
    values = np.asarray(z, dtype=np.float64)
    return _out(special.expit(_require("z", values, ~np.isnan(values), "a number, not NaN")))


@overload
def clip_safe_logit(p: float, c: float) -> float: ...
@overload
def clip_safe_logit(p: ArrayLike, c: ArrayLike) -> Array: ...
def clip_safe_logit(p: ArrayLike, c: ArrayLike) -> float | Array:
    """Largest logit q at which the tail ratio (1-p)/(1-q) is still at most c.

    z_c = log((c - 1 + p)/(1 - p)). Source: docs/theory.md, point 3 [D].
    """
    p, c = _mass("p", p), _clip(c)
    return _out(special.logit(p) + _clip_gain(p, c))


@overload
def fixed_point_logit(p: float, b: float, lam: float) -> float: ...
@overload
def fixed_point_logit(p: ArrayLike, b: ArrayLike, lam: ArrayLike) -> Array: ...
def fixed_point_logit(p: ArrayLike, b: ArrayLike, lam: ArrayLike) -> float | Array:
    """Logit of the student's modal mass at which the unclipped update vanishes.

    z*(lam) = lam logit p - (lam - 1) logit b. Source: docs/theory.md, point 2 [D].
    """
    p, b, lam = _mass("p", p), _mass("b", b), _lam(lam)
    return _out(special.logit(b) + lam * (special.logit(p) - special.logit(b)))


@overload
def fixed_point(p: float, b: float, lam: float) -> float: ...
@overload
def fixed_point(p: ArrayLike, b: ArrayLike, lam: ArrayLike) -> Array: ...
def fixed_point(p: ArrayLike, b: ArrayLike, lam: ArrayLike) -> float | Array:
    """Modal mass q*(lam) = sigmoid(z*(lam)). Source: docs/theory.md, point 2 [D]."""
    return sigmoid(fixed_point_logit(p, b, lam))


@overload
def masked_fixed_point(p: float, b: float, lam: float) -> float: ...
@overload
def masked_fixed_point(p: ArrayLike, b: ArrayLike, lam: ArrayLike) -> Array: ...
def masked_fixed_point(p: ArrayLike, b: ArrayLike, lam: ArrayLike) -> float | Array:
    """Modal mass at which the flow ends once the hard clip has removed the whole tail.

    min(1, p (p/b)^(lam-1)): there the modal advantage, the only term left, is zero. It is 1, a
    full runaway, for lam >= 1 + log(1/p)/log(p/b), which holds at lambda* unless c is close to 1.
    Source: docs/theory.md, point 8 [D].
    """
    p, b, lam = _mass("p", p), _mass("b", b), _lam(lam)
    return _out(np.exp(np.minimum(0.0, np.log(p) + (lam - 1.0) * (np.log(p) - np.log(b)))))


@overload
def lambda_star(p: float, b: float, c: float) -> float: ...
@overload
def lambda_star(p: ArrayLike, b: ArrayLike, c: ArrayLike) -> Array: ...
def lambda_star(p: ArrayLike, b: ArrayLike, c: ArrayLike) -> float | Array:
    """Clip-safety threshold: the lam at which the fixed point meets the clip boundary.

    lambda* = (z_c - logit b)/(logit p - logit b), written here as
    1 + log(1 + (c-1)/p)/(logit p - logit b), which loses no digits for c -> 1. Infinity where
    p <= b (see `no_threshold_reason`). Source: Theorem 4.1, Eq. 4 [S]; docs/theory.md, point 4.
    """
    p, b, c = _mass("p", p), _mass("b", b), _clip(c)
    sharpening = special.logit(p) - special.logit(b)
    sharpens = sharpening > 0.0
    gain = _clip_gain(p, c) / np.where(sharpens, sharpening, 1.0)
    return _out(np.where(sharpens, 1.0 + gain, np.inf))


@overload
def lambda_star_neutral(p: float, c: float) -> float: ...
@overload
def lambda_star_neutral(p: ArrayLike, c: ArrayLike) -> Array: ...
def lambda_star_neutral(p: ArrayLike, c: ArrayLike) -> float | Array:
    """Threshold for the neutral base b = 1/2: z_c / logit p; infinity where p <= 1/2.

    Source: Theorem 4.1 at b = 1/2 [S]; docs/theory.md, point 4.
    """
    return lambda_star(p, 0.5, c)


def no_threshold_reason(p: float, b: float) -> str | None:
    """Say in words why `lambda_star` is infinite at (p, b); None where it is finite."""
    p, b = float(_mass("p", p)), float(_mass("b", b))
    sharpening = float(special.logit(p) - special.logit(b))
    if sharpening > 0.0:
        return None
    if sharpening == 0.0:
        return f"teacher and base agree (p = b = {p:.6g}): extrapolation leaves the student there"
    return (
        f"the teacher is less sure than the base (p = {p:.6g} < b = {b:.6g}): "
        "extrapolation does not sharpen this position"
    )


@overload
def modal_mass_for(lam_star: float, b: float, c: float) -> float: ...
@overload
def modal_mass_for(lam_star: ArrayLike, b: ArrayLike, c: ArrayLike) -> Array: ...
def modal_mass_for(lam_star: ArrayLike, b: ArrayLike, c: ArrayLike) -> float | Array:
    """Teacher mass p at which `lambda_star(p, b, c)` equals lam_star > 1.

    lambda* falls strictly from infinity at p = b to 1 at p = 1 (in the form given there, the
    numerator falls and the denominator grows with p), so every lam_star > 1 has one solution.
    Errors: TheoryDomainError too where lam_star is so near 1 that p is 1 to double precision,
    or so large that p is b. Source: docs/theory.md, points 4 and 6 [D].
    """
    lam_star, b, c = _finite("lam_star", lam_star, 1.0), _mass("b", b), _clip(c)
    return _out(np.vectorize(_solve_modal_mass, otypes=[np.float64])(lam_star, b, c))


@overload
def onset_margin(p: float, b: float, c: float, lam: float) -> float: ...
@overload
def onset_margin(p: ArrayLike, b: ArrayLike, c: ArrayLike, lam: ArrayLike) -> Array: ...
def onset_margin(p: ArrayLike, b: ArrayLike, c: ArrayLike, lam: ArrayLike) -> float | Array:
    """Logits between the fixed point and the clip boundary; negative beyond the cliff.

    z_c - z*(lam) = (lambda* - lam)(logit p - logit b); finite for p <= b too, where only the left
    side is defined. Source: docs/theory.md, point 14 [D].
    """
    p, b, c, lam = _mass("p", p), _mass("b", b), _clip(c), _lam(lam)
    # through lambda* where there is one, so that the margin is exactly zero at lambda*
    sharpening = special.logit(p) - special.logit(b)
    threshold = np.asarray(lambda_star(p, b, c))
    sharpens = np.isfinite(threshold)
    inside = (np.where(sharpens, threshold, 1.0) - lam) * sharpening
    return _out(np.where(sharpens, inside, inside + _clip_gain(p, c)))


@overload
def updates_to_exit(
    p: float, b: float, c: float, lam: float, eta: float, *, z0: float | None = None
) -> float: ...
@overload
def updates_to_exit(
    p: ArrayLike,
    b: ArrayLike,
    c: ArrayLike,
    lam: ArrayLike,
    eta: ArrayLike,
    *,
    z0: ArrayLike | None = None,
) -> Array: ...
def updates_to_exit(
    p: ArrayLike,
    b: ArrayLike,
    c: ArrayLike,
    lam: ArrayLike,
    eta: ArrayLike,
    *,
    z0: ArrayLike | None = None,
) -> float | Array:
    """Updates N(lam) that the expected flow needs to leave the clip-safe region.

    N = (1/eta) integral_{z0}^{z_c} dz / [s(z)(1 - s(z))(z*(lam) - z)], s the sigmoid. z0 is the
    start, logit b unless given, |z0| <= 100. Infinite where z* <= z_c, so for lam <= lambda*; 0
    where z0 is outside already. It diverges like log 1/(lam - lambda*).

    With 1/(s(1-s)) = 2 + e^z + e^-z the integral is exact in exponential integrals:
    eta N = 2 log(t0/t1) + e^z* (E1(t1) - E1(t0)) + e^-z* (Ei(t0) - Ei(t1)), t0 = z* - z0 and
    t1 = z* - z_c. The flow assumes that the modal token is not clipped itself (p/c <= s(z0)).
    eta is the step on z (see `simulate.class_step`). Source: docs/theory.md, point 9 [D].
    """
    p, b, c, lam = _mass("p", p), _mass("b", b), _clip(c), _lam(lam)
    eta = _finite("eta", eta, 0.0)
    start = special.logit(b) if z0 is None else _start(z0)
    boundary = np.asarray(clip_safe_logit(p, c))
    beyond = -np.asarray(onset_margin(p, b, c, lam))
    leaves = (beyond > 0.0) & (start < boundary)
    # 1.0 stands in where the answer is 0 or infinite, so that no nan is ever computed
    eta_n = _eta_updates(
        np.where(leaves, start, boundary - 1.0), boundary, np.where(leaves, beyond, 1.0)
    )
    outcome = np.where(leaves, eta_n / eta, np.inf)
    return _out(np.where(start >= boundary, 0.0, outcome))


@overload
def lambda_for_budget(
    p: float, b: float, c: float, eta: float, updates: float, *, z0: float | None = None
) -> float: ...
@overload
def lambda_for_budget(
    p: ArrayLike,
    b: ArrayLike,
    c: ArrayLike,
    eta: ArrayLike,
    updates: ArrayLike,
    *,
    z0: ArrayLike | None = None,
) -> Array: ...
def lambda_for_budget(
    p: ArrayLike,
    b: ArrayLike,
    c: ArrayLike,
    eta: ArrayLike,
    updates: ArrayLike,
    *,
    z0: ArrayLike | None = None,
) -> float | Array:
    """Observed cliff lambda_N: the smallest lam that leaves the region within `updates` updates.

    Inverse of `updates_to_exit` in lam; above lambda* and falling to it (to the last digit, for
    long budgets) as the budget grows. Infinity where p <= b. z0 must lie inside the region.
    Source: docs/theory.md, point 9 [D]; the subject of Corollary 4.2 [P].
    """
    p, b, c = _mass("p", p), _mass("b", b), _clip(c)
    eta, updates = _finite("eta", eta, 0.0), _finite("updates", updates, 0.0)
    sharpening = special.logit(p) - special.logit(b)
    boundary = np.asarray(clip_safe_logit(p, c))
    start = special.logit(b) if z0 is None else _start(z0)
    inside = (start < boundary) | (sharpening <= 0.0)
    _require("z0", np.broadcast_to(start, inside.shape), inside, "below z_c, in the safe region")
    solve = np.vectorize(_solve_excess_lambda, otypes=[np.float64])
    return _out(
        np.asarray(lambda_star(p, b, c)) + solve(sharpening, start, boundary, eta * updates)
    )


def lambda_at(update: int, lam: float, warmup_updates: int) -> float:
    """Coefficient of update 0, 1, ...: linear from 1 to lam over warmup_updates, then lam.

    Source: docs/theory.md, point 15.
    """
    if update >= warmup_updates:
        return lam
    return 1.0 + (lam - 1.0) * update / warmup_updates


def _clip_gain(p: Array, c: Array) -> Array:
    """z_c - logit p, free of cancellation for c -> 1."""
    return np.asarray(np.log1p((c - 1.0) / p))


def _eta_updates(start: Array, boundary: Array, beyond: Array) -> Array:
    """eta * N for a fixed point `beyond` logits past `boundary`; all factors stay in range."""
    far = beyond + (boundary - start)
    rising = np.exp(boundary) * _scaled_e1(beyond) - np.exp(start) * _scaled_e1(far)
    falling = np.exp(-start) * _scaled_ei(far) - np.exp(-boundary) * _scaled_ei(beyond)
    return np.asarray(2.0 * np.log1p((boundary - start) / beyond) + rising + falling)


def _scaled_e1(x: Array) -> Array:
    """exp(x) E1(x)."""
    near = np.minimum(x, _SERIES_FROM)
    return np.where(x > _SERIES_FROM, _series(-x), np.exp(near) * special.exp1(near))


def _scaled_ei(x: Array) -> Array:
    """exp(-x) Ei(x)."""
    near = np.minimum(x, _SERIES_FROM)
    return np.where(x > _SERIES_FROM, _series(x), np.exp(-near) * special.expi(near))


def _series(x: Array) -> Array:
    """Asymptotic |sum_k k!/x^(k+1)|, exact to double precision beyond _SERIES_FROM."""
    far = np.where(np.abs(x) > _SERIES_FROM, x, _SERIES_FROM)
    return np.asarray(np.abs(sum(math.factorial(k) / far * far**-k for k in range(7))))


def _solve_modal_mass(lam_star: float, b: float, c: float) -> float:
    def excess(z: float) -> float:
        return math.log1p((c - 1.0) / float(special.expit(z))) - (lam_star - 1.0) * (z - base)

    base = float(special.logit(b))
    # the gain lies between its values at p = 1 and p = b, which brackets z; the factors 1/2 and 2
    # keep rounding from closing the bracket
    low = base + 0.5 * math.log(c) / (lam_star - 1.0)
    high = base + 2.0 * math.log1p((c - 1.0) / b) / (lam_star - 1.0)
    z = optimize.brentq(excess, low, high, xtol=1e-13, rtol=1e-14)
    p = float(special.expit(z))
    if not b < p < 1.0:
        raise TheoryDomainError(
            f"lam_star = {lam_star!r} at b = {b:.6g}, c = {c:.6g} needs a teacher mass p that "
            f"double precision cannot tell from {p:.6g}; choose a value farther from its limit"
        )
    return p


def _solve_excess_lambda(sharpening: float, start: float, boundary: float, eta_n: float) -> float:
    """lambda_N - lambda* for a budget with eta * N = `eta_n`."""

    def beyond_at(log_ratio: float) -> float:
        return (boundary - start) / math.expm1(log_ratio)

    def excess(log_ratio: float) -> float:
        ends = np.asarray(start), np.asarray(boundary), np.asarray(beyond_at(log_ratio))
        return float(_eta_updates(*ends)) - eta_n

    if sharpening <= 0.0:
        return math.inf
    # 4 <= 1/(s(1-s)) <= steepest brackets the integral by multiples of log(t0/t1)
    steepest = 2.0 + 2.0 * math.cosh(max(abs(start), abs(boundary)))
    low, high = 0.5 * eta_n / steepest, 2.0 * eta_n / 4.0
    # beyond e^-600 the excess is zero to double precision, and expm1 would overflow soon
    if high > 600.0:
        high = 600.0
        if excess(high) <= 0.0:
            return 0.0
    return beyond_at(optimize.brentq(excess, low, high, xtol=1e-14, rtol=1e-13)) / sharpening


def _mass(name: str, value: ArrayLike) -> Array:
    array = np.asarray(value, dtype=np.float64)
    return _require(name, array, (array > 0.0) & (array < 1.0), "strictly between 0 and 1")


def _clip(value: ArrayLike) -> Array:
    return _finite("c", value, 1.0)


def _lam(value: ArrayLike) -> Array:
    array = np.asarray(value, dtype=np.float64)
    return _require("lam", array, (array >= 0.0) & (array < np.inf), "finite and at least 0")


def _finite(name: str, value: ArrayLike, above: float) -> Array:
    array = np.asarray(value, dtype=np.float64)
    valid = (array > above) & (array < np.inf)
    return _require(name, array, valid, f"finite and above {above:g}")


def _start(value: ArrayLike) -> Array:
    array = np.asarray(value, dtype=np.float64)
    return _require("z0", array, np.abs(array) <= 100.0, "a logit between -100 and 100")


def _require(name: str, array: Array, valid: NDArray[np.bool_], allowed: str) -> Array:
    if not np.all(valid):
        offender = float(np.ravel(array)[np.argmin(np.ravel(valid))])
        raise TheoryDomainError(
            f"{name} = {offender!r} is outside the domain: it must be {allowed}"
        )
    return array


def _out(values: ArrayLike) -> float | Array:
    array = np.asarray(values, dtype=np.float64)
    return float(array) if array.ndim == 0 else array
