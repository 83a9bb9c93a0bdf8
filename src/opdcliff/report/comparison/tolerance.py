"""How far a number of a rerun may lie from the committed one: derived, not chosen.

Another processor rounds the last bits of a sum differently. A bit is enough to change a drawn
token, that token the rest of the answer, and answers the next update. So a rerun elsewhere is no
copy but another draw: of the same run with other random numbers, hence as far from the committed
run as seeds are from each other. From that, and from nothing else:

- a number of a run lies in the range of the committed seeds at its lambda and at the neighbouring
  lambdas of its arm (an onset is claimed to a grid cell, docs/protocol.md, so the curve may shift
  by one cell), widened by `SIGMAS` standard errors of the difference of two draws. The variance of
  one draw is the larger of that over seeds, pooled over these lambdas, and for a share of n answers
  x (1 - x) / n, the most that numbers in [0, 1] of mean x can have;
- a single run has no seeds beside it and takes the largest spread over seeds of its table; the
  spread of numbers that are positive by what they are is that of their logarithm. The tail ratio
  may jump up, as far as it does in one of 900 evaluations (`JUMPS`);
- lambda is a multiple of the lambda* of one's own models, and an onset lies by lambda*: both are
  compared as shares of it. An onset lies within the width of the grid cell that it was committed
  with, the ends of its interval within what such shifts do to a t-interval;
- teacher and warm start are trained anew, and their p and b with them. That spread was measured
  (`retrained`). How often the clip acts and the tail ratio follow the odds of rare tokens, and move
  with them; a count of prompts lies within `SIGMAS` binomial standard errors of a difference;
- what says which run it is (clip, seed, prompts, ...) is equal.

`SIGMAS` is so large that all numbers of a study would lie within at once in 99 of 100 honest
reruns, were they normal and their spreads known; what is neither was measured (`JUMPS`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from opdcliff.report.comparison.retrained import RARE, SIGMAS, SPREADS, TWO_DRAWS, apart
from opdcliff.terminal import ARM_KEYS
from opdcliff.theory import t_interval

# lambda is rounded to four decimals in names and tables, lambda* to six digits.
_ROUNDED = 2e-4
_SHARES = ("parse_", "ndcg", "truncated", "fail/")
_COUNTED = ("updates", "collapsed_at")
_POSITIVE = ("mean_length", "tail_ratio", "clip_fraction")
NEIGHBOURS = "committed seeds at this and the neighbouring lambdas"
RETRAINED = "what models trained from nudged weights differ by"
IDENTITY = "must be equal: it says which run this is"


# Ratios beyond the clip are those of tokens that a model gives next to no mass, whose log-odds move
# as those of a class that is almost certain; the tail ratio is one of free text.
_OF_MODELS = {"clip_fraction": RARE, "tail_ratio": SPREADS["text"].b}
# A mean of ratios that have no bound, on one batch: of 898 evaluations of locked runs that parse,
# 895 lie within 9% of the median over their seeds and the others 2.8 to 6.9 times above it [M].
JUMPS = {"tail_ratio": 6.9}


@dataclass(frozen=True)
class Allowed:
    """The values that a rerun may have.

    low, high: bounds of a number. blank: whether it may be missing. words: allowed texts, for what
    is no number. claimed: False where nothing is claimed of the number, so that nothing is judged.
    """

    low: float
    high: float
    reason: str
    blank: bool = False
    words: frozenset[str] = frozenset()
    claimed: bool = True


def within(value: float, distance: float, reason: str) -> Allowed:
    """`distance` to both sides of the committed value; infinite: nothing is claimed."""
    if not math.isfinite(value) or not math.isfinite(distance):
        return Allowed(-math.inf, math.inf, f"{reason} is not finite", blank=True, claimed=False)
    return Allowed(value - distance, value + distance, reason)


def is_share(column: str) -> bool:
    """Whether a column is a mean of numbers in [0, 1] over answers."""
    return column.startswith(_SHARES)


def sampling_variance(share: float, answers: float) -> float:
    """The most variance that a mean of `answers` numbers in [0, 1] can have; never 0."""
    seen = (share * answers + 1.0) / (answers + 2.0)
    return seen * (1.0 - seen) / max(answers, 1.0)


def share_of_answers(share: float, answers: float) -> Allowed:
    """A share that was measured once, on `answers` answers."""
    distance = SIGMAS * TWO_DRAWS * math.sqrt(sampling_variance(share, answers))
    reason = f"{SIGMAS:.2g} standard errors of the difference of two samples of answers"
    if math.isnan(share):
        return Allowed(math.nan, math.nan, reason, blank=True)
    return Allowed(max(share - distance, 0.0), min(share + distance, 1.0), reason)


def around_positive(value: float, spread: float, of_models: float = 0.0) -> tuple[float, float]:
    """The same for a positive number. spread, of_models: of its logarithm.

    of_models: by how much models trained anew move it.
    """
    factor = math.exp(SIGMAS * TWO_DRAWS * math.hypot(spread, of_models))
    return value / factor, value * factor


@dataclass(frozen=True)
class Runs:
    """Tolerances around a committed cells.csv, in numbers; `rank_lams` has numbered its lambdas.

    star_spread: of the logarithm of lambda*, see `retrained.Spread`. ratio: of the lambda* here to
    the committed one at the first calibrated clip strength, whose multiples the lambdas of an arm
    without a clip are.
    """

    table: pd.DataFrame
    star_spread: float
    ratio: float = 1.0
    _known: dict[tuple[Any, ...], Allowed] = field(default_factory=dict)
    _largest: dict[str, float] = field(default_factory=dict)

    def allowed(self, row: pd.Series, column: str, own: pd.Series) -> Allowed | None:
        """For one number of one run; None where it must be equal. own: the same run here."""
        place = (*(row[key] for key in ARM_KEYS), row["rank"])
        value, lams = row[column], self._around(place)
        if column == "lam":
            return within(value * self._ratio(row, own), _ROUNDED, "this multiple of lambda* here")
        if column == "lambda_star":
            return star_allowed(value, self.star_spread)
        if column == "status":
            return Allowed(math.nan, math.nan, NEIGHBOURS, words=_statuses(lams))
        if column in _COUNTED:
            return self._counted(lams, column)
        if column not in (*_POSITIVE, "residual") and not is_share(column):
            return None
        # The same for all seeds of a place.
        if (*place, column) not in self._known:
            self._known[*place, column] = self._measured(lams, column)
        return self._known[*place, column]

    def _ratio(self, row: pd.Series, own: pd.Series) -> float:
        return self.ratio if math.isnan(row["lambda_star"]) else star_ratio(row, own)

    def _measured(self, lams: Sequence[pd.DataFrame], column: str) -> Allowed:
        """For a number that a run measures. lams: the committed runs of each lambda around it."""
        spread = self.spread(lams, column)
        if math.isnan(spread):
            return Allowed(-math.inf, math.inf, "no two seeds to see a spread", True, claimed=False)
        runs = [run for rows in lams for _, run in rows[rows[column].notna()].iterrows()]
        ends = [end for run in runs for end in self._ends(run, column, spread)]
        # Of answers that parse there may be none, and then they have no mean.
        blank = "parsed" in column and self._measured(lams, "parse_rate").low <= 0
        reason = f"{NEIGHBOURS}, {SIGMAS:.2g} standard errors wider"
        if not ends:
            return Allowed(math.nan, math.nan, reason, blank=True)
        return Allowed(min(ends), max(ends), reason, blank)

    def spread(self, lams: Sequence[pd.DataFrame], column: str) -> float:
        """Standard deviation over seeds, pooled over `lams`, else the largest of the table.

        Of the logarithm for numbers that are positive by what they are. NaN where no lambda has
        two seeds.
        """
        found = _spreads(lams, column)
        if found:
            return math.sqrt(sum(s * s * k for s, k in found) / sum(k for _, k in found))
        return self.largest_spread(column)

    def largest_spread(self, column: str) -> float:
        """The largest standard deviation over seeds at any lambda, as in `spread`."""
        if column not in self._largest:
            spreads = (s for s, _ in _spreads(self._at.values(), column))
            self._largest[column] = max(spreads, default=math.nan)
        return self._largest[column]

    @staticmethod
    def _ends(run: pd.Series, column: str, spread: float) -> tuple[float, float]:
        """What another draw of one run may have."""
        value = float(run[column])
        if column in _POSITIVE:
            low, high = around_positive(value, spread, _OF_MODELS.get(column, 0.0))
            return low, high * JUMPS.get(column, 1.0)
        if is_share(column):
            answers = float(run.prompts) * (float(run.parse_rate) if "parsed" in column else 1.0)
            spread = math.sqrt(max(spread**2, sampling_variance(value, answers)))
        low, high = value - SIGMAS * TWO_DRAWS * spread, value + SIGMAS * TWO_DRAWS * spread
        return (max(low, 0.0), min(high, 1.0)) if is_share(column) else (low, high)

    def _counted(self, lams: Sequence[pd.DataFrame], column: str) -> Allowed:
        """Updates made: those of the neighbours, one evaluation earlier or later."""
        evaluation = math.gcd(*(int(n) for name in _COUNTED for n in self.table[name].dropna()))
        known = [updates for rows in lams for updates in rows[column].dropna()]
        reason = f"{NEIGHBOURS}, one evaluation ({evaluation} updates) earlier or later"
        low, high = (min(known), max(known)) if known else (math.nan, math.nan)
        blank = column == "collapsed_at" and "finished" in _statuses(lams)
        return Allowed(low - evaluation, high + evaluation, reason, blank)

    def _around(self, place: tuple[Any, ...]) -> list[pd.DataFrame]:
        """The committed runs of the arm at the neighbouring lambdas and at this one, each apart."""
        *arm, rank = place
        near = ((*arm, rank + step) for step in (-1, 0, 1))
        return [self._at[key] for key in near if key in self._at]

    @functools.cached_property
    def _at(self) -> dict[tuple[Any, ...], pd.DataFrame]:
        """The runs of each arm and lambda."""
        groups = self.table.groupby([*ARM_KEYS, "rank"])
        return {key: rows for key, rows in groups if isinstance(key, tuple)}


def _statuses(lams: Sequence[pd.DataFrame]) -> frozenset[str]:
    return frozenset(status for rows in lams for status in rows.status)


def _spreads(lams: Iterable[pd.DataFrame], column: str) -> list[tuple[float, int]]:
    """Standard deviation over seeds and its degrees of freedom at each lambda."""
    found = []
    for rows in lams:
        values = rows[column].dropna()
        if column in _POSITIVE:
            values = values[values > 0].map(math.log)
        if len(values) > 1:
            found.append((float(values.std()), len(values) - 1))
    return found


def rank_lams(cells: pd.DataFrame) -> pd.DataFrame:
    """The table with `rank`: the number of each lambda on the grid of its arm, from 0."""
    rank = cells.groupby(ARM_KEYS, sort=False).lam.rank(method="dense") - 1
    return cells.assign(rank=rank.astype(int))


def star_allowed(value: float, spread: float) -> Allowed:
    """For a lambda* whose logarithm spreads so over models trained anew."""
    if not math.isfinite(value) or not math.isfinite(spread):
        return within(value, math.inf, "lambda* or its spread")
    factor = math.exp(apart(spread))
    return Allowed(value / factor, value * factor, RETRAINED)


def star_ratio(row: pd.Series, own: pd.Series) -> float:
    """lambda* here over the committed one; 1 where one of them has none."""
    ratio = float(own.get("lambda_star", math.nan)) / float(row["lambda_star"])
    return ratio if math.isfinite(ratio) and ratio > 0 else 1.0


def onset_allowed(
    row: pd.Series, column: str, own: pd.Series, lams: list[float], star_spread: float
) -> Allowed | None:
    """For one number of onsets.csv; None where it must be equal. lams: the arm's committed grid."""
    star, ratio = float(row.lambda_star), star_ratio(row, own)
    cell = float(row.bracket_hi) - float(row.bracket_lo)
    if column == "lambda_star":
        return star_allowed(star, star_spread)
    if column in ("bracket_lo", "bracket_hi"):
        return _next_on_grid(float(row[column]), lams, ratio)
    if column == "onset" or column.startswith("point"):
        reason = "width of the committed grid cell, in shares of lambda*"
        return within(float(row[column]) * ratio, cell * ratio, reason)
    if column == "off_by_percent":
        return within(float(row[column]), 100 * cell / star, "width of the committed grid cell")
    if column in ("onset_lo", "onset_hi"):
        seeds = int(row.seeds)
        low, high = t_interval([cell * (-1) ** number for number in range(seeds)])
        reason = "ends of a t-interval whose seeds shift by a grid cell"
        return within(float(row[column]) * ratio, (cell + (high - low) / 2) * ratio, reason)
    return None


def _next_on_grid(value: float, lams: list[float], ratio: float) -> Allowed:
    if not math.isfinite(value):
        return within(value, math.inf, "a crossing off the grid")
    rank = min(range(len(lams)), key=lambda number: abs(lams[number] - value))
    low = lams[rank - 1] * ratio - _ROUNDED if rank else -math.inf
    high = lams[rank + 1] * ratio + _ROUNDED if rank + 1 < len(lams) else math.inf
    return Allowed(low, high, "one step of the grid, in shares of lambda*")
