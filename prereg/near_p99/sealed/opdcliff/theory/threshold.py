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
from numpy.typing import ArrayLike
from scipy import optimize, special

from opdcliff.errors import TheoryDomainError
from opdcliff.theory.domain import Array, as_given, coefficient, finite, mass, require, strength

# Odds of p and b that differ by less, relatively, are subtracted before the logarithm is taken.
_NEAR = 1e-6


@overload
def logit(x: float) -> float: ...
@overload
def logit(x: ArrayLike) -> Array: ...
def logit(x: ArrayLike) -> float | Array:
    """Log odds log(x / (1 - x)) of a mass 0 < x < 1."""
    return as_given(special.logit(mass("x", x)))


@overload
def sigmoid(z: float) -> float: ...
@overload
def sigmoid(z: ArrayLike) -> Array: ...
def sigmoid(z: ArrayLike) -> float | Array:
    """Inverse of `logit`, 1 / (1 + exp(-z)); infinities map to 0 and 1."""
    values = np.asarray(z, dtype=np.float64)
    return as_given(special.expit(require("z", values, ~np.isnan(values), "a number, not NaN")))


@overload
def clip_safe_logit(p: float, c: float) -> float: ...
@overload
def clip_safe_logit(p: ArrayLike, c: ArrayLike) -> Array: ...
def clip_safe_logit(p: ArrayLike, c: ArrayLike) -> float | Array:
    """Largest logit q at which the tail ratio (1-p)/(1-q) is still at most c.

    z_c = log((c - 1 + p)/(1 - p)). Source: docs/theory.md, point 3 [D].
    """
    p, c = mass("p", p), strength(c)
    return as_given(special.logit(p) + clip_gain(p, c))


@overload
def fixed_point_logit(p: float, b: float, lam: float) -> float: ...
@overload
def fixed_point_logit(p: ArrayLike, b: ArrayLike, lam: ArrayLike) -> Array: ...
def fixed_point_logit(p: ArrayLike, b: ArrayLike, lam: ArrayLike) -> float | Array:
    """Logit of the student's modal mass at which the unclipped update vanishes.

    z*(lam) = lam logit p - (lam - 1) logit b. Source: docs/theory.md, point 2 [D].
    """
    p, b, lam = mass("p", p), mass("b", b), coefficient(lam)
    return as_given(special.logit(b) + lam * (special.logit(p) - special.logit(b)))


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
    p, b, lam = mass("p", p), mass("b", b), coefficient(lam)
    return as_given(np.exp(np.minimum(0.0, np.log(p) + (lam - 1.0) * (np.log(p) - np.log(b)))))


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
    p, b, c = mass("p", p), mass("b", b), strength(c)
    sharpening = _sharpening(p, b)
    sharpens = sharpening > 0.0
    gain = clip_gain(p, c) / np.where(sharpens, sharpening, 1.0)
    return as_given(np.where(sharpens, 1.0 + gain, np.inf))


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
    p, b = float(mass("p", p)), float(mass("b", b))
    sharpening = float(_sharpening(mass("p", p), mass("b", b)))
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
    lam_star, b, c = finite("lam_star", lam_star, 1.0), mass("b", b), strength(c)
    return as_given(np.vectorize(_solve_modal_mass, otypes=[np.float64])(lam_star, b, c))


@overload
def onset_margin(p: float, b: float, c: float, lam: float) -> float: ...
@overload
def onset_margin(p: ArrayLike, b: ArrayLike, c: ArrayLike, lam: ArrayLike) -> Array: ...
def onset_margin(p: ArrayLike, b: ArrayLike, c: ArrayLike, lam: ArrayLike) -> float | Array:
    """Logits between the fixed point and the clip boundary; negative beyond the cliff.

    z_c - z*(lam) = (lambda* - lam)(logit p - logit b); finite for p <= b too, where only the left
    side is defined. Source: docs/theory.md, point 14 [D].
    """
    p, b, c, lam = mass("p", p), mass("b", b), strength(c), coefficient(lam)
    # through lambda* where there is one, so that the margin is exactly zero at lambda*
    sharpening = _sharpening(p, b)
    threshold = np.asarray(lambda_star(p, b, c))
    sharpens = np.isfinite(threshold)
    inside = (np.where(sharpens, threshold, 1.0) - lam) * sharpening
    return as_given(np.where(sharpens, inside, inside + clip_gain(p, c)))


def _sharpening(p: Array, b: Array) -> Array:
    """logit p - logit b, free of cancellation where p and b nearly agree.

    There it is log(1 + (p - b)/(b (1 - p))), whose difference is exact.
    """
    near = (p - b) / (b * (1.0 - p))
    apart = special.logit(p) - special.logit(b)
    return np.asarray(np.where(np.abs(near) < _NEAR, np.log1p(np.maximum(near, -_NEAR)), apart))


def clip_gain(p: Array, c: Array) -> Array:
    """z_c - logit p = log(1 + (c-1)/p), free of cancellation for c -> 1."""
    return np.asarray(np.log1p((c - 1.0) / p))


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
