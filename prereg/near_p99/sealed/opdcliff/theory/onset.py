"""Statistics of a grid: onset per seed, intervals over seeds, intervals of one cell.

The seed is the unit: an onset is estimated per seed, and its spread over seeds is the uncertainty.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from opdcliff.errors import ConfigError

Array = NDArray[np.float64]

# The level whose crossing is the onset: about midway between the plateaus below and above the
# cliff. A locked protocol sets its own.
LEVEL = 0.5


@dataclass(frozen=True)
class Onset:
    """Where one seed's parse rate falls through a level.

    point: lambda at which the monotone fit crosses the level, NaN if it does not.
    below, above: the grid cell that holds the crossing; outside the grid one side is infinite.
    """

    point: float
    below: float
    above: float


@dataclass(frozen=True)
class WindowTest:
    """Where the mean over seeds lies, against a window.

    mean, low, high: mean over seeds and its t-interval, NaN where it is undefined.
    p_inside: p-value of the null "the true mean lies outside the window"; small means inside.
    """

    mean: float
    low: float
    high: float
    p_inside: float


def onset_of_seed(lams: Sequence[float], parse_rates: Sequence[float], level: float) -> Onset:
    """Crossing of a decreasing isotonic fit with `level`, linear inside its grid cell.

    lams: the grid, without repeats; parse_rates: final strict parse rates in [0, 1], one each.
    Raises ConfigError for a grid of fewer than two lambdas, repeats, or values that are not finite.
    Source: docs/protocol.md, "Onset, per seed".
    """
    return _crossing(*_monotone_fit(lams, parse_rates), level)


def width_of_seed(
    lams: Sequence[float], parse_rates: Sequence[float], upper: float, lower: float
) -> float:
    """Sharpness of one seed's cliff: lambda between the crossings of two levels, upper > lower.

    NaN if the fit of `onset_of_seed` does not cross both. A jump inside one grid cell has a width
    of (upper - lower)/(height of the jump) grid steps: a width under one step is a bound, no more.
    Raises ConfigError for upper <= lower, and as `onset_of_seed` does.
    Source: docs/protocol.md, "Onset, per seed".
    """
    if not upper > lower:
        raise ConfigError(f"width between the levels {upper} and {lower}: needs upper > lower")
    fit = _monotone_fit(lams, parse_rates)
    return _crossing(*fit, lower).point - _crossing(*fit, upper).point


def t_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Student interval of the mean over seeds; NaN for under two values or a NaN among them.

    Coverage at 95% (tests/theory/test_onset.py; 8 seeds of 256 prompts, 8,000 simulated studies):
    94.9% for a smooth fall over two grid steps and 93.8% for a jump, both with onsets that spread
    over seeds by an sd of half a step. With a smaller spread it is too short: at 0.1 steps 92% for
    the smooth fall and 27% for the jump, at none 1%: a jump shows no more than the cells of the
    seeds' brackets, from which `brackets.bracket_interval` takes an interval that covers.
    """
    array = np.asarray(values, dtype=float)
    if not _is_sample(array):
        return math.nan, math.nan
    half = stats.t.ppf(0.5 + confidence / 2, len(array) - 1) * array.std(ddof=1)
    half /= math.sqrt(len(array))
    return float(array.mean() - half), float(array.mean() + half)


def bootstrap_interval(
    values: Sequence[float], confidence: float = 0.95, *, samples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of the mean over resampled whole seeds, beside `t_interval`.

    values: one number per seed, each from the seed's whole grid. NaN for under two values or a
    NaN among them. Too short for few seeds: at 95%, and where `t_interval` covers 94.9% and 93.8%
    of 8,000 simulated studies of 8 seeds, it covers 87.9% and 85.2%.
    """
    array = np.asarray(values, dtype=float)
    if not _is_sample(array):
        return math.nan, math.nan
    if np.ptp(array) == 0.0:  # the mean of equal values may differ from them by rounding
        return float(array[0]), float(array[0])
    interval = stats.bootstrap(
        (array,),
        np.mean,
        n_resamples=samples,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def window_test(values: Sequence[float], lo: float, hi: float, confidence: float) -> WindowTest:
    """Test whether the mean over seeds lies inside the open window (lo, hi).

    p_inside is the larger p-value of two one-sided t tests, mean > lo and mean < hi (TOST); with
    one bound infinite it is that of the other side (non-inferiority, superiority). The interval of
    confidence 1 - 2 alpha lies inside the window exactly where p_inside < alpha: a 90% interval
    inside is the same decision as TOST at 5%. Equal values have p_inside 0 inside and 1 elsewhere.
    Under two values or a NaN among them: all NaN, p_inside 1, so that no test is never a pass.
    Raises ConfigError for lo >= hi, a NaN bound, or two infinite ones.
    Source: Schuirmann (1987), J. Pharmacokin. Biopharm. 15, 657-680.
    """
    check_window(lo, hi)
    array = np.asarray(values, dtype=float)
    if not _is_sample(array):
        return WindowTest(math.nan, math.nan, math.nan, 1.0)
    if np.ptp(array) == 0.0:
        value = float(array[0])
        return WindowTest(value, value, value, 0.0 if lo < value < hi else 1.0)
    # An infinite bound has p = 0 and drops out of the maximum.
    over = stats.ttest_1samp(array, lo, alternative="greater").pvalue
    under = stats.ttest_1samp(array, hi, alternative="less").pvalue
    low, high = t_interval(values, confidence)
    return WindowTest(float(array.mean()), low, high, float(max(over, under)))


def check_window(lo: float, hi: float) -> None:
    """Raise ConfigError for lo >= hi, a NaN bound, or two infinite ones."""
    if not lo < hi or (math.isinf(lo) and math.isinf(hi)):
        raise ConfigError(f"window ({lo}, {hi}): needs lo < hi and at least one finite bound")


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm-adjusted p-value of each named test; NaN, a test that is missing, counts as 1.

    Source: Holm (1979), Scand. J. Stat. 6, 65-70.
    """
    # Half a second to import, and only verdicts need it.
    from statsmodels.stats.multitest import multipletests  # type: ignore[import-untyped]

    p = np.nan_to_num(np.asarray(list(p_values.values()), dtype=float), nan=1.0)
    return dict(zip(p_values, multipletests(p, method="holm")[1].tolist(), strict=True))


def wilson(successes: int, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson interval of a rate: sampling of prompts within one run only."""
    interval = stats.binomtest(successes, count).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def _monotone_fit(lams: Sequence[float], parse_rates: Sequence[float]) -> tuple[Array, Array]:
    """Sorted grid and the decreasing isotonic fit on it."""
    order = np.argsort(lams)
    x = np.asarray(lams, dtype=float)[order]
    y = np.asarray(parse_rates, dtype=float)[order]
    if len(x) < 2 or len(set(x.tolist())) < len(x) or not np.isfinite([x, y]).all():
        raise ConfigError(
            f"onset of lams={x.tolist()}, parse rates={y.tolist()}: needs two or more distinct "
            "finite lambdas with one finite rate each"
        )
    # Rounded, since pooling can leave a mean that ties with a level one ulp below it.
    return x, optimize.isotonic_regression(y, increasing=False).x.round(12)


def _crossing(x: Array, fit: Array, level: float) -> Onset:
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


def _is_sample(array: Array) -> bool:
    """Whether a spread over seeds is defined: two or more values, all finite."""
    return len(array) >= 2 and bool(np.isfinite(array).all())
