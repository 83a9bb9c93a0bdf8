"""How far grades agree: of a judge with itself, with the stars, with another judge.

Every interval is a percentile interval over resampled whole lists, since the grades of one list
are not independent of each other. A statistic that its data leave undefined is NaN.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.inter_rater import cohens_kappa  # type: ignore[import-untyped]

from opdcliff.contract import Gain, ranking_metrics
from opdcliff.data import UserList
from opdcliff.grading.rubric import GRADES

Grades = Mapping[tuple[str, str], int]
_CONFIDENCE = 0.95
_Index = NDArray[np.int64]


@dataclass(frozen=True)
class Statistic:
    """A number with its interval over lists; `lists` says over how many."""

    name: str
    value: float
    low: float
    high: float
    lists: int


@dataclass(frozen=True)
class Resampling:
    """How often whole lists are drawn again, and by which seed."""

    samples: int
    seed: int

    def statistic(self, name: str, count: int, of: Callable[[_Index], float]) -> Statistic:
        """`of` at all lists, and its interval. of: takes the places of the lists to use."""
        if not count:
            return Statistic(name, math.nan, math.nan, math.nan, 0)
        rng = np.random.default_rng(self.seed)
        value = of(np.arange(count))
        draws = [of(rng.integers(count, size=count)) for _ in range(self.samples)]
        known = [draw for draw in draws if math.isfinite(draw)]
        low = high = math.nan
        if count > 1 and known and math.isfinite(value):
            tail = (1 - _CONFIDENCE) / 2
            low, high = np.quantile(known, [tail, 1 - tail]).tolist()
        return Statistic(name, value, low, high, count)


def named_by(lists: Sequence[UserList], *all_grades: Grades) -> list[UserList]:
    """The lists of which every candidate has a grade in each of these."""
    return [
        one
        for one in lists
        if all((one.user, item) in grades for grades in all_grades for item in one.items)
    ]


def between(
    lists: Sequence[UserList], first: Grades, second: Grades, how: Resampling
) -> list[Statistic]:
    """Weighted kappa (quadratic weights) and the share of equal grades of two gradings."""
    both = named_by(lists, first, second)
    tables = np.zeros((len(both), len(GRADES), len(GRADES)))
    for place, one in enumerate(both):
        for item in one.items:
            tables[place, first[one.user, item], second[one.user, item]] += 1

    def equal(index: _Index) -> float:
        table = tables[index].sum(axis=0)
        return float(np.trace(table) / table.sum())

    return [
        how.statistic(
            "kappa, quadratic", len(both), lambda index: _kappa(tables[index].sum(axis=0))
        ),
        how.statistic("equal grades", len(both), equal),
    ]


def against_stars(lists: Sequence[UserList], grades: Grades, how: Resampling) -> list[Statistic]:
    """Grades beside the stars and the purchase, which the judge was not shown.

    Spearman's rank correlation, over lists, of the grade of the bought item with the stars it got;
    and the chance that the bought item is graded above another of its list, ties counted half.
    """
    known = named_by(lists, grades)
    bought = np.array([grades[one.user, one.positive] for one in known])
    stars = np.array([one.stars for one in known])
    above = [_above(one, grades) for one in known]

    def correlation(index: _Index) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", stats.ConstantInputWarning)
            return float(stats.spearmanr(bought[index], stars[index]).statistic)

    return [
        how.statistic(
            "rank correlation",
            len(known) if len(known) > 1 else 0,
            correlation,
        ),
        _mean("bought above others", above, how),
    ]


def ndcg_beside(
    lists: Sequence[UserList],
    judges: Mapping[str, Grades],
    how: Resampling,
    *,
    k: int,
    gain: Gain,
) -> dict[str, dict[str, Statistic]]:
    """NDCG@k of the same rankings under the grades of each judge: ranking -> judge -> number.

    Rankings: the drawn order of the lists, which knows nothing; the bought item first; and the
    order of each judge's grades. Ties keep the drawn order.
    """
    both = named_by(lists, *judges.values())
    rankings: dict[str, Callable[[UserList, str], float]] = {
        "drawn order": lambda one, item: 0.0,
        "bought item first": lambda one, item: -float(item == one.positive),
    }
    for name, grades in judges.items():
        rankings[f"order of {name}"] = _order_of(grades)
    found: dict[str, dict[str, Statistic]] = {}
    for ranking, place in rankings.items():
        orders = [_ordered(one, place) for one in both]
        for judge, grades in judges.items():
            ranked = [
                [grades[one.user, item] for item in order]
                for one, order in zip(both, orders, strict=True)
            ]
            scores = [ranking_metrics([r], (k,), gain)[f"ndcg{k}_all"] for r in ranked]
            found.setdefault(ranking, {})[judge] = _mean(f"NDCG@{k}", scores, how)
    return found


def _ordered(one: UserList, place: Callable[[UserList, str], float]) -> list[str]:
    return sorted(one.items, key=lambda item: place(one, item))


def _mean(name: str, scores: Sequence[float], how: Resampling) -> Statistic:
    array = np.array(scores)
    return how.statistic(name, len(array), lambda index: float(array[index].mean()))


def _order_of(grades: Grades) -> Callable[[UserList, str], float]:
    return lambda one, item: -float(grades[one.user, item])


def _above(one: UserList, grades: Grades) -> float:
    own = grades[one.user, one.positive]
    others = [grades[one.user, item] for item in one.items if item != one.positive]
    return float(np.mean([0.5 if other == own else float(own > other) for other in others]))


def _kappa(table: NDArray[np.float64]) -> float:
    # One grade for everything, by both: chance agrees as well, and 0 is divided by 0.
    if np.count_nonzero(table.sum(axis=0) + table.sum(axis=1)) < 2:
        return math.nan
    return float(cohens_kappa(table, wt="quadratic", return_results=False))
