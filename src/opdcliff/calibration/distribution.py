"""How single positions differ: their thresholds one by one, and whether one number may stand.

The medians of p and of b, taken apart, belong to a position only where all positions are alike
(docs/theory.md, point 18). Axes in names: n positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
# The default safe multiple, lam.of_threshold: single positions may differ from one number by as
# much as is left between it and what is called safe.
SAFE_SHARE = 0.9
# A source needs this many positions to have a say, unless none has.
FEWEST = 100
_NORMAL_90 = float(stats.norm.ppf(0.9))

_Values = NDArray[np.float64]


@dataclass(frozen=True)
class Homogeneity:
    """Whether lambda* of the binding medians may stand for its positions (`homogeneity`).

    homogeneous: agreement is at least `SAFE_SHARE`. agreement: the smallest, over clip strengths
        and sources, of the ratios of lambda* to what single positions say; the rest is of the c and
        source where it is smallest. star: lambda* of the medians. spread: of positions about the
        boundary at that lambda*, in logits. critical: the lambda at which positions so spread give
        way (docs/theory.md, point 16), 0 where they do at every one. plain, tail: range of the
        thresholds of single positions, 10 to 90% of them and 25 to 75% of the teacher's tail.
    """

    homogeneous: bool
    agreement: float
    c: float
    source: str
    star: float
    spread: float
    critical: float
    plain: tuple[float, float]
    tail: tuple[float, float]

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Homogeneity:
        """From its fields as a manifest has them, where a pair is a list."""
        pairs = {name: tuple(facts[name]) for name in ("plain", "tail")}
        fields: dict[str, Any] = {**facts, **pairs}
        return cls(**fields)

    def in_words(self) -> str:
        """A sentence for the terminal."""
        where = f"at c = {self.c:g} on {SOURCES[self.source]}"
        found = (
            f"where they differ most, {where}, single positions have lambda* {_span(self.plain)} "
            f"(10 to 90%), and {_span(self.tail)} where the teacher's tail is (25 to 75% of it), "
            f"beside {self.star:.3f} of the medians"
        )
        if self.homogeneous:
            return f"homogeneous: yes, one number stands for all positions; {found}"
        return (
            "homogeneous: no, lambda* of the medians stands for a wide distribution and promises "
            f"nothing about any one position; {found}"
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
    """Whether lambda*(p, b, c) stands for these positions of the binding class.

    It does where at every c, for every source of `FEWEST` positions, lambda* times `SAFE_SHARE`, a
    lambda that would be called safe, is at most each of these, and lambda* over it at most what the
    upper ends of the two ranges say:
    - the critical lambda of positions that spread so. At lambda* a position keeps
      h = z_c - z*(lambda*) logits, 0 where it is like the medians; the larger |h| at 10% and at 90%
      of the positions, over the normal distribution's 1.28, is the spread;
    - 10 and 90% of the thresholds of single positions;
    - 25 and 75% of them weighted by the teacher's tail, which is what can be lost. Not farther out:
      after a stray token a teacher may leave the text at once, and a percent of such positions has
      a twentieth of the tail. Source: docs/theory.md, points 16 and 18 [D].
    """
    parts = [(str(source), part) for source, part in positions.groupby("source", sort=False)]
    # A bin binds by its positions of all sources together: none alone need have enough.
    enough = [each for each in parts if len(each[1]) >= FEWEST]
    enough = enough or [max(parts, key=lambda each: len(each[1]))]
    verdicts = [_verdict(part, source, p, b, c) for c in strengths for source, part in enough]
    return min(verdicts, key=lambda verdict: verdict.agreement)


def _verdict(part: pd.DataFrame, source: str, p: float, b: float, c: float) -> Homogeneity:
    star = float(thresholds(np.array(p), np.array(b), c))
    each = part["p"].to_numpy(dtype=float), part["b"].to_numpy(dtype=float)
    stars, alike = thresholds(*each, c), np.ones(len(part))
    ends = quantiles(headroom(*each, c, star), alike, (0.1, 0.9))
    spread = float(np.abs(ends).max()) / _NORMAL_90
    critical = _critical(p, b, c, spread)
    plain = quantiles(stars, alike, (0.1, 0.9))
    # Without any tail there is nothing to lose, and nothing to differ in.
    tail = quantiles(stars, weights_of(part, TAIL), (0.25, 0.75))
    tail = np.where(np.isnan(tail), star, tail)
    ratios = [critical / star, *(low / star for low in (plain[0], tail[0]))]
    ratios += [star / high for high in (plain[1], tail[1])]
    agreement = float(min(ratios))
    return Homogeneity(
        agreement >= SAFE_SHARE,
        agreement,
        c,
        source,
        star,
        spread,
        critical,
        (float(plain[0]), float(plain[1])),
        (float(tail[0]), float(tail[1])),
    )


def _critical(p: float, b: float, c: float, spread: float) -> float:
    try:
        return critical_lambda(p, b, c, spread)
    except TheoryDomainError:
        # No rest point even at lambda = 1, or an infinite spread.
        return 0.0


def _span(ends: tuple[float, float]) -> str:
    low, high = (f"{end:.3f}" if np.isfinite(end) else "infinity" for end in ends)
    return f"{low} to {high}"


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole > 0.0 else float("nan")
