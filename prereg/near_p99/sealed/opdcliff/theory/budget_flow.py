"""The flow on a budget: how many updates a lambda needs to leave the clip-safe region.

Symbols and conventions as in `theory`; eta is the step size on z.
"""

from __future__ import annotations

import math
from typing import overload

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special

from opdcliff.theory.domain import (
    Array,
    as_given,
    coefficient,
    finite,
    mass,
    require,
    start_logit,
    strength,
)
from opdcliff.theory.threshold import clip_safe_logit, lambda_star, onset_margin

_SERIES_FROM = 500.0  # exp(x) * E1(x) would overflow or underflow soon after


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
    p, b, c, lam = mass("p", p), mass("b", b), strength(c), coefficient(lam)
    eta = finite("eta", eta, 0.0)
    start = special.logit(b) if z0 is None else start_logit(z0)
    boundary = np.asarray(clip_safe_logit(p, c))
    beyond = -np.asarray(onset_margin(p, b, c, lam))
    leaves = (beyond > 0.0) & (start < boundary)
    # 1.0 stands in where the answer is 0 or infinite, so that no nan is ever computed
    eta_n = _eta_updates(
        np.where(leaves, start, boundary - 1.0), boundary, np.where(leaves, beyond, 1.0)
    )
    outcome = np.where(leaves, eta_n / eta, np.inf)
    return as_given(np.where(start >= boundary, 0.0, outcome))


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
    p, b, c = mass("p", p), mass("b", b), strength(c)
    eta, updates = finite("eta", eta, 0.0), finite("updates", updates, 0.0)
    sharpening = special.logit(p) - special.logit(b)
    boundary = np.asarray(clip_safe_logit(p, c))
    start = special.logit(b) if z0 is None else start_logit(z0)
    inside = (start < boundary) | (sharpening <= 0.0)
    require("z0", np.broadcast_to(start, inside.shape), inside, "below z_c, in the safe region")
    solve = np.vectorize(_solve_excess_lambda, otypes=[np.float64])
    return as_given(
        np.asarray(lambda_star(p, b, c)) + solve(sharpening, start, boundary, eta * updates)
    )


def lambda_at(update: int, lam: float, warmup_updates: int) -> float:
    """Coefficient of update 0, 1, ...: linear from 1 to lam over warmup_updates, then lam.

    Source: docs/theory.md, point 15.
    """
    if update >= warmup_updates:
        return lam
    return 1.0 + (lam - 1.0) * update / warmup_updates


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
