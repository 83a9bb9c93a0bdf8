"""How single positions differ: their thresholds one by one, and whether one number may stand.

The medians of p and of b, taken apart, belong to a position only where all positions are alike
(docs/theory.md, point 18). Axes in names: n positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from opdcliff.errors import TheoryDomainError
from opdcliff.theory import critical_lambda, lambda_star, onset_margin

# Whose prefixes a position was met on.
WARM_START, FORCED, TEACHER = "warm_start", "forced", "teacher"
SOURCES = {
    WARM_START: "the warm start's answers",
    FORCED: "its texts forced to go on",
    TEACHER: "the teacher's answers",
}
PLAIN, TAIL = "plain", "tail"
QUANTILES = (0.10, 0.25, 0.50, 0.75, 0.90)
# One number stands for a distribution if positions that spread as these do keep the student inside
# up to this multiple of it: the default safe multiple, lam.of_threshold.
SAFE_SHARE = 0.9
# A source needs this many positions to have a say.
FEWEST = 100
_NORMAL_90 = float(stats.norm.ppf(0.9))

_Values = NDArray[np.float64]


@dataclass(frozen=True)
class Homogeneity:
    """Whether lambda* of the binding medians may stand for its positions (`homogeneity`).

    spread: how far positions lie from the boundary at that lambda*, in logits as a standard
        deviation, at the clip strength c and source where they bear least. critical_share: the
        lambda at which positions so spread give way (docs/theory.md, point 16), as a share of
        lambda*; 0 where they do at every lambda.
    """

    homogeneous: bool
    spread: float
    critical_share: float
    c: float
    source: str

    def in_words(self) -> str:
        """A sentence for the terminal."""
        where = f"c = {self.c:g}, {SOURCES.get(self.source, self.source)}"
        if self.homogeneous:
            return (
                f"homogeneous: yes. Positions spread by {self.spread:.2f} logits ({where} most); "
                f"so spread they hold up to {self.critical_share:.2f} lambda*, and one number "
                "stands for them"
            )
        return (
            f"homogeneous: no. Positions spread by {self.spread:.2f} logits ({where}), so lambda* "
            "of the medians stands for a wide distribution and nothing below it is called safe; "
            "see the quantiles"
        )


def thresholds(p: NDArray[Any], b: NDArray[Any], c: float) -> _Values:
    """lambda* of each position, infinity for p <= b.

    A mass that rounds to 0 or 1 has no finite logit and takes the limit: 1 for p = 1 and b = 0 (the
    fixed point is beyond any boundary at once), infinity for b = 1 and p = 0.
    """
    inside = (p > 0.0) & (p < 1.0) & (b > 0.0) & (b < 1.0)
    limit = np.where((b >= 1.0) | (p <= 0.0), np.inf, 1.0)
    safe_p, safe_b = np.where(inside, p, 0.5), np.where(inside, b, 0.5)
    return np.where(inside, lambda_star(safe_p, safe_b, c), limit)


def headroom(p: NDArray[Any], b: NDArray[Any], c: float, lam: float) -> _Values:
    """Logits from each position's fixed point at lam to its clip boundary (`onset_margin`)."""
    inside = (p > 0.0) & (p < 1.0) & (b > 0.0) & (b < 1.0)
    limit = np.where((b >= 1.0) | (p <= 0.0), np.inf, -np.inf)
    safe_p, safe_b = np.where(inside, p, 0.5), np.where(inside, b, 0.5)
    return np.where(inside, onset_margin(safe_p, safe_b, c, lam), limit)


def quantiles(values: NDArray[Any], weights: NDArray[Any], levels: Sequence[float]) -> _Values:
    """Smallest value at or under which a share `level` of the weight lies; NaN without weight.

    Nothing is interpolated: between a number and infinity there is no number.
    """
    total = float(weights.sum())
    if not total > 0.0:
        return np.full(len(levels), np.nan)
    order = np.argsort(values, kind="stable")
    share = np.cumsum(weights[order]) / total
    index = np.searchsorted(share, np.asarray(levels) - 1e-12)
    return np.asarray(values[order][np.minimum(index, len(order) - 1)], dtype=np.float64)


def weights_of(part: pd.DataFrame, weighting: str) -> _Values:
    """One for each position, or the teacher's tail 1 - p there: the mass that can be lost."""
    return np.ones(len(part)) if weighting == PLAIN else 1.0 - part["p"].to_numpy(dtype=float)


def tabulate_distribution(positions: pd.DataFrame, strengths: Sequence[float]) -> pd.DataFrame:
    """Quantiles of the single-position thresholds of each class that can bind.

    positions: one row each with columns class, source, p, b. Rows: class x source x clip strength x
    weighting; `of_medians` is lambda* of the medians of p and b there, `unbounded` the share of the
    weight on positions with p <= b, which have no upper threshold and stand as infinity.
    """
    rows: list[dict[str, Any]] = []
    if positions.empty:
        return pd.DataFrame(rows)
    for (name, source), part in positions.groupby(["class", "source"], sort=False):
        p, b = (part[key].to_numpy(dtype=float) for key in ("p", "b"))
        middle = np.array([np.median(p)]), np.array([np.median(b)])
        for c in strengths:
            stars = thresholds(p, b, c)
            for weighting in (PLAIN, TAIL):
                weight = weights_of(part, weighting)
                found = quantiles(stars, weight, QUANTILES)
                rows.append(
                    {
                        "class": name,
                        "source": source,
                        "c": c,
                        "weighting": weighting,
                        "positions": len(part),
                        "p": float(middle[0][0]),
                        "b": float(middle[1][0]),
                        "of_medians": float(thresholds(*middle, c)[0]),
                        **{f"q{100 * q:.0f}": x for q, x in zip(QUANTILES, found, strict=True)},
                        "unbounded": _share(weight[np.isinf(stars)].sum(), weight.sum()),
                    }
                )
    return pd.DataFrame(rows)


def tabulate_curves(positions: pd.DataFrame, c: float) -> pd.DataFrame:
    """Single-position thresholds against the share of the weight at or under them, for a picture.

    Columns source, weighting, share, threshold (infinity where there is none).
    """
    levels = np.arange(1, 200) / 200
    parts = []
    for source, part in positions.groupby("source", sort=False):
        stars = thresholds(part["p"].to_numpy(float), part["b"].to_numpy(float), c)
        for weighting in (PLAIN, TAIL):
            found = quantiles(stars, weights_of(part, weighting), levels.tolist())
            parts.append(
                pd.DataFrame(
                    {
                        "source": source,
                        "weighting": weighting,
                        "share": levels,
                        "threshold": found,
                    }
                )
            )
    return pd.concat(parts, ignore_index=True)


def homogeneity(
    positions: pd.DataFrame, p: float, b: float, strengths: Sequence[float]
) -> Homogeneity:
    """Whether lambda*(p, b, c) stands for these positions of the binding class, at every c.

    At lambda* of the medians a position keeps h = z_c - z*(lambda*) logits: 0 where it is like the
    medians, less where it gives way earlier. The larger of |h| at 10% and at 90% of the positions
    of a source, over the normal distribution's 1.28, is the spread; shifts between sources count as
    spread. Homogeneous: `critical_lambda` of that spread is at least `SAFE_SHARE` of lambda*, at
    every c and for every source of `FEWEST` positions. Source: docs/theory.md, points 16, 18 [D].
    """
    verdicts = []
    for c in strengths:
        star = float(thresholds(np.array(p), np.array(b), c))
        for source, part in positions.groupby("source", sort=False):
            if len(part) < FEWEST:
                continue
            room = headroom(part["p"].to_numpy(float), part["b"].to_numpy(float), c, star)
            ends = quantiles(room, np.ones(len(part)), (0.1, 0.9))
            spread = float(np.abs(ends).max()) / _NORMAL_90
            share = _critical_share(p, b, c, spread, star)
            verdicts.append(Homogeneity(share >= SAFE_SHARE, spread, share, c, str(source)))
    # The widest decides; a class that binds has at least one source of enough positions.
    return min(verdicts, key=lambda verdict: (verdict.critical_share, -verdict.spread))


def _critical_share(p: float, b: float, c: float, spread: float, star: float) -> float:
    try:
        return critical_lambda(p, b, c, spread) / star
    except TheoryDomainError:
        # No rest point even at lambda = 1, or an infinite spread.
        return 0.0


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole > 0.0 else float("nan")
