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
  spread of numbers that are positive by what they are is that of their logarithm;
- an onset lies within the width of the grid cell that it was committed with, the ends of its
  interval within what such shifts do to a t-interval;
- teacher and warm start are trained anew, and their p and b with them. That spread is no spread
  over prompts, and no committed table has it: it was measured, `RETRAINED`. p, b and lambda* lie
  within `SIGMAS` of it and the width of their committed 95% interval over prompts, a count of
  prompts within `SIGMAS` binomial standard errors of a difference. How often the clip acts and the
  tail ratio follow the odds of rare tokens, and move with them;
- what says which run it is (clip, seed, prompts, ...) is equal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from opdcliff.terminal import ARM_KEYS
from opdcliff.theory import t_interval

SIGMAS = 3.0
# Of the difference of two draws of one distribution, in standard deviations of a draw.
TWO_DRAWS = math.sqrt(2.0)
# lambda is rounded to four decimals in names and tables.
_ROUNDED = 1e-4
_SHARES = ("parse_", "ndcg", "truncated", "fail/")
_COUNTED = ("updates", "collapsed_at")
_POSITIVE = ("mean_length", "tail_ratio", "clip_fraction")
NEIGHBOURS = "committed seeds at this and the neighbouring lambdas"
IDENTITY = "must be equal: it says which run this is"


@dataclass(frozen=True)
class Retrained:
    """Root mean square of what a calibration differs by between models trained under two kernels.

    p, b: log-odds of the masses. log_star: logarithm of lambda*.
    """

    p: float
    b: float
    log_star: float


# Measured [M]: teacher, warm start and calibration of the quick study made anew on one machine with
# torch's kernels for AVX2 and for none of AVX (ATEN_CPU_CAPABILITY=avx2, default) against those for
# AVX-512 of the committed tables; pooled over the classes of tokens that the contract needs no tail
# for (False: brace, key, id, end) and those it does (True: free text by offset). More draws are in
# docs/reproduction.md, with why they are not pooled.
RETRAINED = {
    True: Retrained(p=0.0092, b=0.0160, log_star=0.0036),
    False: Retrained(p=0.295, b=0.120, log_star=0.0110),
}


# Ratios beyond the clip are those of tokens that a model gives next to no mass, whose log-odds move
# as those of a class that is almost certain; the tail ratio is one of free text.
_OF_MODELS = {"clip_fraction": RETRAINED[False].p, "tail_ratio": RETRAINED[True].b}


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
    reason = f"{SIGMAS:g} standard errors of the difference of two samples of answers"
    if math.isnan(share):
        return Allowed(math.nan, math.nan, reason, blank=True)
    return Allowed(max(share - distance, 0.0), min(share + distance, 1.0), reason)


def around_positive(value: float, spread: float, of_models: float = 0.0) -> tuple[float, float]:
    """The same for a positive number. spread, of_models: of its logarithm.

    of_models: by how much models trained anew move it, a difference of two already.
    """
    factor = math.exp(SIGMAS * math.hypot(TWO_DRAWS * spread, of_models))
    return value / factor, value * factor


@dataclass(frozen=True)
class Runs:
    """Tolerances around a committed cells.csv, in numbers; `rank_lams` has numbered its lambdas.

    star_shift: by how much lambda* may differ, as a share of it.
    """

    table: pd.DataFrame
    star_shift: float
    _known: dict[tuple[Any, ...], Allowed] = field(default_factory=dict)
    _runs: dict[tuple[Any, ...], pd.DataFrame] = field(default_factory=dict)

    def allowed(self, row: pd.Series, column: str) -> Allowed | None:
        """For one number of one run; None where it must be equal."""
        place = (*(row[key] for key in ARM_KEYS), row["rank"])
        value, rows = row[column], self._around(place)
        if column == "lam":
            distance = self.star_shift * value + _ROUNDED
            return within(value, distance, "this multiple of lambda*, which may differ")
        if column == "lambda_star":
            return within(value, self.star_shift * value, "as lambda* of the calibration")
        if column == "status":
            return Allowed(math.nan, math.nan, NEIGHBOURS, words=frozenset(rows.status))
        if column in _COUNTED:
            return self._counted(rows, column)
        if column not in (*_POSITIVE, "residual") and not is_share(column):
            return None
        # The same for all seeds of a place.
        if (*place, column) not in self._known:
            self._known[*place, column] = self._measured(rows, column)
        return self._known[*place, column]

    def _measured(self, rows: pd.DataFrame, column: str) -> Allowed:
        """For a number that a run measures. rows: the committed runs around it."""
        spread = self.spread(rows, column)
        if math.isnan(spread):
            return Allowed(-math.inf, math.inf, "no two seeds to see a spread", True, claimed=False)
        runs = [run for _, run in rows[rows[column].notna()].iterrows()]
        ends = [end for run in runs for end in self._ends(run, column, spread)]
        # Of answers that parse there may be none, and then they have no mean.
        blank = "parsed" in column and self._measured(rows, "parse_rate").low <= 0
        reason = f"{NEIGHBOURS}, {SIGMAS:g} standard errors wider"
        if not ends:
            return Allowed(math.nan, math.nan, reason, blank=True)
        return Allowed(min(ends), max(ends), reason, blank)

    def spread(self, rows: pd.DataFrame, column: str) -> float:
        """Standard deviation over seeds, pooled over `rows`, else the largest of the table.

        Of the logarithm for numbers that are positive by what they are. NaN where no lambda has
        two seeds.
        """
        found = self._spreads(rows, column)
        if found:
            return math.sqrt(sum(s * s * k for s, k in found) / sum(k for _, k in found))
        return self.largest_spread(column)

    def largest_spread(self, column: str) -> float:
        """The largest standard deviation over seeds at any lambda, as in `spread`."""
        return max((s for s, _ in self._spreads(self.table, column)), default=math.nan)

    @staticmethod
    def _spreads(rows: pd.DataFrame, column: str) -> list[tuple[float, int]]:
        """Standard deviation over seeds and its degrees of freedom at each lambda."""
        found = []
        for _, group in rows.groupby([*ARM_KEYS, "rank"]):
            values = group[column].dropna()
            if column in _POSITIVE:
                values = values[values > 0].map(math.log)
            if len(values) > 1:
                found.append((float(values.std()), len(values) - 1))
        return found

    @staticmethod
    def _ends(run: pd.Series, column: str, spread: float) -> tuple[float, float]:
        """What another draw of one run may have."""
        value = float(run[column])
        if column in _POSITIVE:
            return around_positive(value, spread, _OF_MODELS.get(column, 0.0))
        if is_share(column):
            answers = float(run.prompts) * (float(run.parse_rate) if "parsed" in column else 1.0)
            spread = math.sqrt(max(spread**2, sampling_variance(value, answers)))
        low, high = value - SIGMAS * TWO_DRAWS * spread, value + SIGMAS * TWO_DRAWS * spread
        return (max(low, 0.0), min(high, 1.0)) if is_share(column) else (low, high)

    def _counted(self, rows: pd.DataFrame, column: str) -> Allowed:
        """Updates made: those of the neighbours, one evaluation earlier or later."""
        evaluation = math.gcd(*(int(n) for name in _COUNTED for n in self.table[name].dropna()))
        known = rows[column].dropna()
        reason = f"{NEIGHBOURS}, one evaluation ({evaluation} updates) earlier or later"
        low, high = (known.min(), known.max()) if len(known) else (math.nan, math.nan)
        blank = column == "collapsed_at" and "finished" in set(rows.status)
        return Allowed(low - evaluation, high + evaluation, reason, blank)

    def _around(self, place: tuple[Any, ...]) -> pd.DataFrame:
        """The committed runs of the arm at this and the neighbouring lambdas."""
        if place not in self._runs:
            mine = (self.table[ARM_KEYS] == list(place[:-1])).all(axis=1)
            near = (self.table["rank"] - place[-1]).abs() <= 1
            self._runs[place] = self.table[mine & near]
        return self._runs[place]


def rank_lams(cells: pd.DataFrame) -> pd.DataFrame:
    """The table with `rank`: the number of each lambda on the grid of its arm, from 0."""
    rank = cells.groupby(ARM_KEYS, sort=False).lam.rank(method="dense") - 1
    return cells.assign(rank=rank.astype(int))


def onset_allowed(
    row: pd.Series, column: str, lams: list[float], star_shift: float
) -> Allowed | None:
    """For one number of onsets.csv; None where it must be equal. lams: the arm's grid."""
    star, shift = float(row.lambda_star), star_shift * float(row.lambda_star)
    cell = float(row.bracket_hi) - float(row.bracket_lo)
    if column == "lambda_star":
        return within(star, shift, "as lambda* of the calibration")
    if column in ("bracket_lo", "bracket_hi"):
        return _next_on_grid(float(row[column]), lams, shift)
    if column == "onset" or column.startswith("point"):
        return within(float(row[column]), cell + shift, "width of the committed grid cell")
    if column == "off_by_percent":
        # Each side's in percent of its own lambda*.
        return within(float(row[column]), 100 * cell / star, "width of the committed grid cell")
    if column in ("onset_lo", "onset_hi"):
        seeds = int(row.seeds)
        low, high = t_interval([cell * (-1) ** number for number in range(seeds)])
        reason = "ends of a t-interval whose seeds shift by a grid cell"
        return within(float(row[column]), cell + shift + (high - low) / 2, reason)
    return None


def _next_on_grid(value: float, lams: list[float], shift: float) -> Allowed:
    if not math.isfinite(value):
        return within(value, math.inf, "a crossing off the grid")
    rank = min(range(len(lams)), key=lambda number: abs(lams[number] - value))
    slack = shift + 2 * _ROUNDED
    low = lams[rank - 1] - slack if rank else -math.inf
    high = lams[rank + 1] + slack if rank + 1 < len(lams) else math.inf
    return Allowed(low, high, "one step of the grid")
