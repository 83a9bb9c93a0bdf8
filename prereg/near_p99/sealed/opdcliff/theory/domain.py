"""Domains of the formulas: what each symbol may be, and one readable error where it is not.

Nothing is clamped; NaN is refused.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from opdcliff.errors import TheoryDomainError

Array = NDArray[np.float64]


def mass(name: str, value: ArrayLike) -> Array:
    """A mass strictly between 0 and 1."""
    array = np.asarray(value, dtype=np.float64)
    return require(name, array, (array > 0.0) & (array < 1.0), "strictly between 0 and 1")


def strength(value: ArrayLike) -> Array:
    """A clip strength c > 1."""
    return finite("c", value, 1.0)


def coefficient(value: ArrayLike) -> Array:
    """An extrapolation coefficient lam >= 0."""
    array = np.asarray(value, dtype=np.float64)
    return require("lam", array, (array >= 0.0) & (array < np.inf), "finite and at least 0")


def finite(name: str, value: ArrayLike, above: float) -> Array:
    """A finite number above a bound."""
    array = np.asarray(value, dtype=np.float64)
    valid = (array > above) & (array < np.inf)
    return require(name, array, valid, f"finite and above {above:g}")


def start_logit(value: ArrayLike) -> Array:
    """A logit to start from, |z0| <= 100."""
    array = np.asarray(value, dtype=np.float64)
    return require("z0", array, np.abs(array) <= 100.0, "a logit between -100 and 100")


def require(name: str, array: Array, valid: NDArray[np.bool_], allowed: str) -> Array:
    """The array, or TheoryDomainError with its first value that is not valid."""
    if not np.all(valid):
        offender = float(np.ravel(array)[np.argmin(np.ravel(valid))])
        raise TheoryDomainError(
            f"{name} = {offender!r} is outside the domain: it must be {allowed}"
        )
    return array


def as_given(values: ArrayLike) -> float | Array:
    """A float for a single value, else the array."""
    array = np.asarray(values, dtype=np.float64)
    return float(array) if array.ndim == 0 else array
