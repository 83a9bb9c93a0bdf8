"""What the cells of a locked test say about it: an estimate per seed, an interval, an outcome.

Pure functions of final metrics. A lock keeps the digest of this file. A missing cell, a missing
metric or a NaN is never a pass, and no seed is left out of a mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from opdcliff.theory import (
    Onset,
    WindowTest,
    bisected,
    bootstrap_interval,
    bracket_test,
    holm,
    onset_of_seed,
    width_of_seed,
    window_test,
)

if TYPE_CHECKING:
    from opdcliff.verification.locked_test import (
        CellRef,
        ContrastEstimator,
        LockedTest,
        OnsetEstimator,
    )

# The meanings of metrics that this code knows; a test names the one it was written for.
METRIC_VERSIONS = {"eval/parse_rate": 1, "eval/ndcg1_parsed": 1, "eval/ndcg1_all": 1}
PARSE_RATE = "eval/parse_rate"
# A run that diverged gives no parseable answer: what its metrics count as.
_WHEN_DIVERGED = {"eval/parse_rate": 0.0, "eval/ndcg1_all": 0.0}
# Parse rates between which the width of a seed's fall is measured.
_FALL = (0.75, 0.25)


class Outcome(StrEnum):
    """What a test says; the last two say nothing about the prediction."""

    CONFIRMED = "CONFIRMED"
    REFUTED = "REFUTED"
    INCONCLUSIVE = "INCONCLUSIVE"
    NOT_RUN = "NOT_RUN"
    INADMISSIBLE = "INADMISSIBLE"


JUDGED = frozenset({Outcome.CONFIRMED, Outcome.REFUTED, Outcome.INCONCLUSIVE})


@dataclass(frozen=True)
class CellValue:
    """The end of one run: its status and the metrics of its last evaluation."""

    status: str
    metrics: Mapping[str, float]


# (arm, lambda, seed): a baseline's lambda is 1.
Cells = Mapping[tuple[str, float, int], CellValue]


@dataclass(frozen=True)
class Verdict:
    """The outcome of a test, and the numbers it rests on.

    points: one estimate per seed, in the order of the lock's seeds. low, high: t-interval of
    their mean. p: that the mean lies outside the window, by t tests; p_holm: corrected over the
    tests of the lock. bracket: the grid cells that hold the seeds' crossings. bootstrap: interval
    over whole seeds, for comparison. widths: lambda over which each seed's parse rate falls from
    0.75 to 0.25. Of a test by brackets: points are the middles of the seeds' cells, low and high
    the interval of `bracket_test`, and there is neither bootstrap nor width.
    """

    id: str
    outcome: Outcome
    reason: str
    window: tuple[float, float]
    points: tuple[float, ...] = ()
    mean: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p: float = 1.0
    p_holm: float = 1.0
    bracket: tuple[float, float] = (math.nan, math.nan)
    bootstrap: tuple[float, float] = (math.nan, math.nan)
    widths: tuple[float, ...] = ()

    @property
    def point_inside(self) -> bool:
        """Whether the mean alone lies inside the window (the weaker rule)."""
        return self.window[0] <= self.mean <= self.window[1]


def judge(test: LockedTest, cells: Cells, seeds: Sequence[int]) -> Verdict:
    """The verdict of one test on the cells of all `seeds` of its lock."""
    window = test.window.bounds
    read = needed(test, cells, seeds)
    missing = [key for key in read if key not in cells]
    if missing:
        arm, lam, seed = missing[0]
        reason = (
            f"{len(missing)} of {len(read)} cells have no outcome, "
            f"the first: {arm} lam={lam:g} seed={seed}"
        )
        return Verdict(test.id, Outcome.NOT_RUN, reason, window)
    problem = _inadmissible(test, cells, read, seeds)
    if problem is not None:
        return Verdict(test.id, Outcome.INADMISSIBLE, problem, window)
    if test.estimator.kind == "onset":
        if test.estimator.by == "brackets":
            return _judge_brackets(test, test.estimator, cells, seeds)
        return _judge_onset(test, test.estimator, cells, seeds)
    return _judge_contrast(test, test.estimator, cells, seeds)


def corrected(tests: Sequence[LockedTest], verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The verdicts with Holm-corrected p; a test that was not judged counts as p = 1."""
    family = {
        verdict.id: verdict.p if verdict.outcome in JUDGED else 1.0
        for test, verdict in zip(tests, verdicts, strict=True)
        if test.correction == "holm"
    }
    adjusted = holm(family) if family else {}
    return [replace(verdict, p_holm=adjusted.get(verdict.id, verdict.p)) for verdict in verdicts]


def bracketed(
    test: LockedTest, estimator: OnsetEstimator, cells: Cells, seed: int
) -> tuple[Onset | float, list[tuple[str, float, int]]]:
    """The bracket of a seed's onset, or the lambda it still needs; and the cells it asked for.

    A final metric that is missing or no number holds nothing.
    """
    asked = []
    level = estimator.level if estimator.level is not None else math.nan

    def holds(lam: float) -> bool | None:
        asked.append((test.design.arm, lam, seed))
        cell = cells.get(asked[-1])
        return None if cell is None else final_value(cell, test.metric.name) >= level

    return bisected(test.design.lams or [], holds), asked


def needed(test: LockedTest, cells: Cells, seeds: Sequence[int]) -> list[tuple[str, float, int]]:
    """Cells that a test reads; by brackets, those of its bisection up to the first missing one."""
    estimator = test.estimator
    if estimator.kind == "onset" and estimator.by == "brackets":
        return [key for seed in seeds for key in bracketed(test, estimator, cells, seed)[1]]
    if estimator.kind == "onset":
        grid = [(test.design.arm, lam) for lam in test.design.lams or ()]
    else:
        grid = [_key(estimator.of), _key(estimator.minus)]
    return [(arm, lam, seed) for arm, lam in grid for seed in seeds]


def _inadmissible(
    test: LockedTest, cells: Cells, read: Sequence[tuple[str, float, int]], seeds: Sequence[int]
) -> str | None:
    name, version = test.metric.name, test.metric.version
    if METRIC_VERSIONS.get(name) != version:
        return f"metric {name} version {version} is not known to this code"
    if len(set(seeds)) < test.minimum_seeds:
        return f"{len(set(seeds))} seeds, and the lock asks for at least {test.minimum_seeds}"
    if test.estimator.kind == "onset" and (
        test.estimator.level is None or len(test.design.lams or ()) < 2
    ):
        return "its level or its grid is unknown, so there is no onset to estimate"
    for arm, lam, seed in read:
        value = _value(cells[arm, lam, seed], name)
        if value is None:
            return f"{arm} lam={lam:g} seed={seed} has no metric {name}"
        if not 0.0 <= value <= 1.0:
            return f"{arm} lam={lam:g} seed={seed} has {name} = {value}"
    return None


def _judge_onset(
    test: LockedTest, estimator: OnsetEstimator, cells: Cells, seeds: Sequence[int]
) -> Verdict:
    lams, name = test.design.lams or [], test.metric.name
    level = estimator.level if estimator.level is not None else math.nan
    rates = {
        seed: [final_value(cells[test.design.arm, lam, seed], name) for lam in lams]
        for seed in seeds
    }
    onsets = [onset_of_seed(lams, rates[seed], level) for seed in seeds]
    widths = tuple(width_of_seed(lams, rates[seed], *_FALL) for seed in seeds)
    verdict = _judge_points(test, [onset.point for onset in onsets], estimator.confidence)
    bracket = (min(onset.below for onset in onsets), max(onset.above for onset in onsets))
    if any(math.isnan(onset.point) for onset in onsets):
        verdict = _judge_uncrossed(test, onsets)
    return replace(verdict, bracket=bracket, widths=widths)


def _judge_brackets(
    test: LockedTest, estimator: OnsetEstimator, cells: Cells, seeds: Sequence[int]
) -> Verdict:
    found = [bracketed(test, estimator, cells, seed)[0] for seed in seeds]
    onsets = [onset for onset in found if isinstance(onset, Onset)]
    read = bracket_test(onsets, *test.window.bounds, estimator.confidence)
    bracket = (min(onset.below for onset in onsets), max(onset.above for onset in onsets))
    points = [onset.point for onset in onsets]
    return replace(_decided(test, points, read, touching=True), bracket=bracket)


def _judge_uncrossed(test: LockedTest, onsets: Sequence[Onset]) -> Verdict:
    """Some seed does not fall inside the grid: only all seeds on one side decide anything."""
    lo, hi = test.window.bounds
    count = sum(math.isnan(onset.point) for onset in onsets)
    reason = f"{count} of {len(onsets)} seeds do not cross the level inside the grid"
    points = tuple(onset.point for onset in onsets)
    if all(onset.below >= hi for onset in onsets):
        outcome, reason = Outcome.REFUTED, f"{reason}, and every seed stays above it past {hi:g}"
    elif all(onset.above <= lo for onset in onsets):
        outcome, reason = Outcome.REFUTED, f"{reason}, and every seed is below it before {lo:g}"
    else:
        outcome = Outcome.INCONCLUSIVE
    return Verdict(test.id, outcome, reason, test.window.bounds, points)


def _judge_contrast(
    test: LockedTest, estimator: ContrastEstimator, cells: Cells, seeds: Sequence[int]
) -> Verdict:
    sides = (_key(estimator.of), _key(estimator.minus))
    for arm, lam in sides:
        parsed = [final_value(cells[arm, lam, seed], PARSE_RATE) for seed in seeds]
        mean = sum(parsed) / len(parsed)
        if not mean >= estimator.least_parse_rate:
            reason = (
                f"{arm} lam={lam:g} parses {mean:.3f}, and the lock asks for at least "
                f"{estimator.least_parse_rate:g}"
            )
            return Verdict(test.id, Outcome.INADMISSIBLE, reason, test.window.bounds)
    of, minus = (
        [final_value(cells[arm, lam, seed], test.metric.name) for seed in seeds]
        for arm, lam in sides
    )
    differences = [a - b for a, b in zip(of, minus, strict=True)]
    return _judge_points(test, differences, estimator.confidence)


def _judge_points(test: LockedTest, points: Sequence[float], confidence: float) -> Verdict:
    result = window_test(points, *test.window.bounds, confidence)
    bootstrap = bootstrap_interval(points, confidence)
    return replace(_decided(test, points, result, touching=False), bootstrap=bootstrap)


def _decided(
    test: LockedTest, points: Sequence[float], result: WindowTest, *, touching: bool
) -> Verdict:
    """touching: whether an interval that ends where the window begins lies outside it.

    So it is with cells of the grid: a seed holds at the lower end of its cell, not at the upper.
    """
    lo, hi = test.window.bounds
    below = result.high <= lo if touching else result.high < lo
    above = result.low >= hi if touching else result.low > hi
    # A mean at the edge without any spread: its p is 1, and it lies inside of nothing.
    at_edge = not touching and result.low == result.high and result.low in (lo, hi)
    if result.low >= lo and result.high <= hi and not at_edge:
        outcome, reason = Outcome.CONFIRMED, "the interval lies inside the window"
    elif below or above:
        side = "below" if below else "above"
        outcome, reason = Outcome.REFUTED, f"the interval lies {side} the window"
    else:
        inside = "inside" if lo <= result.mean <= hi else "outside"
        outcome = Outcome.INCONCLUSIVE
        reason = f"the interval straddles the window's edge; the mean is {inside}"
    numbers = (result.mean, result.low, result.high, result.p_inside)
    return Verdict(test.id, outcome, reason, (lo, hi), tuple(points), *numbers)


def _key(ref: CellRef) -> tuple[str, float]:
    return ref.arm, 1.0 if ref.lam is None else ref.lam


def _value(cell: CellValue, name: str) -> float | None:
    if cell.status == "diverged":
        return _WHEN_DIVERGED.get(name, math.nan)
    return cell.metrics.get(name)


def final_value(cell: CellValue, name: str) -> float:
    """The final metric of a cell, what a diverged run counts as, or NaN."""
    value = _value(cell, name)
    return math.nan if value is None else value
