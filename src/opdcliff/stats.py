"""Statistics of a grid: onset per seed, intervals over seeds, intervals of one cell.

The seed is the unit: an onset is estimated per seed, and its spread over seeds is the uncertainty.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from opdcliff.errors import ConfigError


@dataclass(frozen=True)
class Onset:
    """Where one seed's parse rate falls through a level.

    point: lambda at which the monotone fit crosses the level, NaN if it does not.
    below, above: the grid cell that holds the crossing; outside the grid one side is infinite.
    """

    point: float
    below: float
    above: float


def onset_of_seed(lams: Sequence[float], parse_rates: Sequence[float], level: float) -> Onset:
    """Crossing of a decreasing isotonic fit with `level`, linear inside its grid cell.

    lams: the grid, without repeats; parse_rates: final strict parse rates in [0, 1], one each.
    Raises ConfigError for a grid of fewer than two lambdas, repeats, or values that are not finite.
    Source: docs/protocol.md, "Onset, per seed".
    """
    order = np.argsort(lams)
    x = np.asarray(lams, dtype=float)[order]
    y = np.asarray(parse_rates, dtype=float)[order]
    if len(x) < 2 or len(set(x.tolist())) < len(x) or not np.isfinite([x, y]).all():
        raise ConfigError(
            f"onset of lams={x.tolist()}, parse rates={y.tolist()}: needs two or more distinct "
            "finite lambdas with one finite rate each"
        )
    fit = optimize.isotonic_regression(y, increasing=False).x
    under = np.flatnonzero(fit < level)
    if len(under) == 0:
        return Onset(math.nan, float(x[-1]), math.inf)
    first = int(under[0])
    if first == 0:
        return Onset(math.nan, -math.inf, float(x[0]))
    high, low = fit[first - 1], fit[first]
    share = (high - level) / (high - low)
    point = x[first - 1] + share * (x[first] - x[first - 1])
    return Onset(float(point), float(x[first - 1]), float(x[first]))


def t_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Student interval of the mean over seeds; NaN for under two values or a NaN among them."""
    array = np.asarray(values, dtype=float)
    if len(array) < 2 or not np.isfinite(array).all():
        return math.nan, math.nan
    half = stats.t.ppf(0.5 + confidence / 2, len(array) - 1) * array.std(ddof=1)
    half /= math.sqrt(len(array))
    return float(array.mean() - half), float(array.mean() + half)


def wilson(successes: int, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson interval of a rate: sampling of prompts within one run only."""
    interval = stats.binomtest(successes, count).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)
