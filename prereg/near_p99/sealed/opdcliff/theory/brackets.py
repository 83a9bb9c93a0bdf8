"""The mean onset over seeds where each seed's onset is known to its grid cell only.

A cliff is a jump: a seed says between which two lambdas it falls; the crossing that `onset_of_seed`
draws inside the cell is a convention. Model: onset_i ~ Normal(mu, sigma), mu and sigma unknown, of
which l_i <= onset_i <= u_i is seen. With P_i = Phi((u_i - mu)/sigma) - Phi((l_i - mu)/sigma),

    loglik(mu) = sup over sigma > 0 of sum_i log P_i,     D(mu) = 2 (max loglik - loglik(mu)),

and mu belongs to the interval while D(mu) <= n log(1 + t^2/(n - 1)), t the Student quantile with
n - 1 degrees: for brackets that shrink to points this is `t_interval` exactly. Where the mean is a
grid line and seeds fall on either side of it like coins, D takes few values; the bound is at least
that of the most uneven split which a sign test at the same confidence keeps (it is the larger one
at 5, 8 and 11 seeds). sum log P_i is concave in (mu/sigma, 1/sigma) (Burridge 1981), so that the
set is an interval. Source: [D] docs/theory.md, point 19; coverage [M] there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

from opdcliff.errors import ConfigError
from opdcliff.theory.onset import Onset, WindowTest, check_window

Array = NDArray[np.float64]

# Inverse spreads tried first, in units of one over the width of a cell; then finer around the best.
_INVERSE_SPREADS = np.geomspace(1e-5, 1e5, 201)
_ZOOMS, _ZOOM_POINTS = 2, 41
# How far an end of the interval is looked for, in cells, before it counts as infinite.
_FARTHEST = 1e6
# Cells within which an end of the interval is that of a bracket.
_NEAR = 1e-4
# Added to the D of a split that belongs to the interval, so that rounding does not decide it.
_SLACK = 1e-6
# Of a probability under which its logarithm says no more.
_LEAST = 1e-300


def bracket_test(onsets: Sequence[Onset], lo: float, hi: float, confidence: float) -> WindowTest:
    """Whether the mean onset of all seeds to come lies in the window (lo, hi), from brackets alone.

    Reads `below` and `above` of each onset; a seed that does not cross counts with its open side.
    mean: the middle of the most likely ones. low, high: the interval of that confidence; infinite
    where the seeds leave a side open. p_inside as in `window_test`: the larger p-value of the two
    sides, from t = sqrt((n - 1)(exp(D/n) - 1)) at the window's ends; the interval may say less,
    where a sign test sets its bound.
    Under two seeds: all NaN, p_inside 1. Raises ConfigError as `window_test`, and for a bracket
    that is empty.
    """
    check_window(lo, hi)
    if len(onsets) < 2:
        return WindowTest(math.nan, math.nan, math.nan, 1.0)
    seen = _Brackets.of(onsets)
    low, high = seen.interval(confidence)
    # An infinite bound has p = 0 and drops out of the maximum.
    over = 0.0 if math.isinf(lo) else seen.p_beyond(lo, 1)
    under = 0.0 if math.isinf(hi) else seen.p_beyond(hi, -1)
    return WindowTest(seen.mean, low, high, max(over, under))


def bracket_interval(onsets: Sequence[Onset], confidence: float = 0.95) -> tuple[float, float]:
    """Interval of the mean onset from brackets alone, as in `bracket_test`."""
    if len(onsets) < 2:
        return math.nan, math.nan
    return _Brackets.of(onsets).interval(confidence)


@dataclass(frozen=True)
class _Brackets:
    """Brackets in units of a cell around an origin, and where their likelihood is largest."""

    lower: Array
    upper: Array
    # The same, all lower then all upper ones, in lambda and to the bit: a window may end there.
    ends: list[float]
    origin: float
    unit: float
    best: float
    most: float

    @classmethod
    def of(cls, onsets: Sequence[Onset]) -> _Brackets:
        lower = np.array([onset.below for onset in onsets])
        upper = np.array([onset.above for onset in onsets])
        if not (lower < upper).all():
            at = int(np.argmin(lower < upper))
            raise ConfigError(
                f"bracket ({lower[at]}, {upper[at]}) of seed {at}: needs below < above"
            )
        widths = (upper - lower)[np.isfinite(upper - lower)]
        ends = np.concatenate([lower, upper])
        origin = float(np.median(ends[np.isfinite(ends)])) if np.isfinite(ends).any() else 0.0
        unit = float(np.median(widths)) if len(widths) else 1.0
        lower, upper = (lower - origin) / unit, (upper - origin) / unit
        best = _most_likely(lower, upper)
        most = _loglik(best, lower, upper)
        return cls(lower, upper, ends.tolist(), origin, unit, best, most)

    @property
    def mean(self) -> float:
        return self.origin + self.unit * self.best

    def distance(self, mu: float) -> float:
        """D of a mean, in the units of this."""
        return max(0.0, 2.0 * (self.most - _loglik(mu, self.lower, self.upper)))

    def interval(self, confidence: float) -> tuple[float, float]:
        cut = _cut(len(self.lower), confidence)
        low, high = (self._end(lambda mu: self.distance(mu) - cut, side) for side in (-1, 1))
        return low, high

    def p_beyond(self, bound: float, side: int) -> float:
        """p of "the mean lies on this bound or before it", seen from the other side: 1 above it."""
        mu = (bound - self.origin) / self.unit
        count = len(self.lower)
        t = math.sqrt((count - 1) * math.expm1(self.distance(mu) / count))
        return float(stats.t.sf(math.copysign(t, side * (self.best - mu)), count - 1))

    def _end(self, over: Callable[[float], float], side: int) -> float:
        """Where `over` turns positive on one side of the best mean."""
        near, step = self.best, 1.0
        while over(self.best + side * step) <= 0.0:
            near = self.best + side * step
            step *= 2.0
            if step > _FARTHEST:
                return side * math.inf
        found = float(optimize.brentq(over, near, self.best + side * step, xtol=1e-9))
        # Where the likelihood drops at the end of a bracket, that end belongs to the interval.
        near_end = np.abs(np.concatenate([self.lower, self.upper]) - found)
        if near_end.min() < _NEAR:
            return self.ends[int(near_end.argmin())]
        return self.origin + self.unit * found


def _cut(count: int, confidence: float) -> float:
    """The largest D of a mean that is not excluded."""
    t = stats.t.ppf(0.5 + confidence / 2, count - 1)
    side = np.arange(count // 2 + 1)
    kept = side[2.0 * stats.binom.cdf(side, count, 0.5) > 1.0 - confidence]
    # Seeds on either side of a grid line that is the mean: D is likelihood of halves under that.
    split = 2.0 * count * (math.log(2.0) - stats.entropy([kept, count - kept]))
    return float(max(count * math.log1p(t * t / (count - 1)), split.max(initial=0.0) + _SLACK))


def _most_likely(lower: Array, upper: Array) -> float:
    """The middle of the means of largest likelihood, or one of them."""
    inner, outer = float(lower.max()), float(upper.min())
    if inner < outer:
        # All brackets meet: any mean there has likelihood 1, without spread.
        if math.isinf(inner) or math.isinf(outer):
            return outer - 1.0 if math.isinf(inner) else inner + 1.0
        return (inner + outer) / 2
    ends = np.concatenate([lower, upper])
    ends = ends[np.isfinite(ends)]
    found = optimize.minimize_scalar(
        lambda mu: -_loglik(mu, lower, upper),
        bounds=(float(ends.min()) - 1.0, float(ends.max()) + 1.0),
        method="bounded",
        options={"xatol": 1e-9},
    )
    return float(found.x)


def _loglik(mu: float, lower: Array, upper: Array) -> float:
    """Largest log-likelihood of a mean over all spreads."""
    tried = _INVERSE_SPREADS
    for zoom in range(_ZOOMS + 1):
        value = _log_probability(mu, tried, lower, upper)
        at = int(value.argmax())
        if zoom < _ZOOMS:
            around = tried[max(at - 1, 0)], tried[min(at + 1, len(tried) - 1)]
            tried = np.geomspace(*around, _ZOOM_POINTS)
    return float(value[at])


def _log_probability(mu: float, inverse: Array, lower: Array, upper: Array) -> Array:
    low, high = (inverse[:, None] * (side - mu) for side in (lower, upper))
    total: Array = np.log(np.maximum(special.ndtr(high) - special.ndtr(low), _LEAST)).sum(-1)
    return total
