"""Tables of a verification: verdicts, deviations, exploratory onsets, means of cells."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from opdcliff.theory import bracket_test, onset_of_seed, t_interval
from opdcliff.verification.lock import Lock
from opdcliff.verification.locked_test import LockedTest, OnsetEstimator
from opdcliff.verification.verdicts import JUDGED, PARSE_RATE, Cells, final_value
from opdcliff.verification.verification import Verification, counted

# Runs named for each kind of deviation; the rest are counted.
_NAMED = 3


def verdict_table(found: Verification) -> pd.DataFrame:
    """One row per test."""
    return pd.DataFrame(
        [
            {
                "test": verdict.id,
                "outcome": verdict.outcome.value,
                "estimate": verdict.mean,
                "interval": span(verdict.low, verdict.high),
                "window": span(*verdict.window),
                "cells of the grid": span(*verdict.bracket),
                "p": verdict.p_holm,
                "why": verdict.reason,
            }
            for verdict in found.verdicts
        ]
    )


def deviation_table(found: Verification) -> pd.DataFrame:
    """One row per kind of deviation."""
    rows = [
        {"integrity": integrity.value, "what": what, "runs": _named(runs)}
        for (integrity, what), runs in counted(found.deviations).items()
    ]
    rows += [{"integrity": "MISMATCH", "what": what, "runs": ""} for what in found.mismatches]
    return pd.DataFrame(rows, columns=["integrity", "what", "runs"])


def bracket_table(found: Verification) -> pd.DataFrame:
    """One row per judged test of the onset: what the seeds' grid cells alone say, no verdict.

    Beside the sealed t-intervals, which are too short where seeds fall in one cell
    (`theory.brackets`).
    """
    rows = [
        _bracket_row(found, test, test.estimator)
        for test, verdict in zip(found.tests, found.verdicts, strict=True)
        if test.estimator.kind == "onset"
        and test.estimator.by == "points"
        and verdict.outcome in JUDGED
    ]
    return pd.DataFrame(rows)


def published_table(found: Verification) -> pd.DataFrame:
    """One row per judged test that has published bounds beside it; no verdict."""
    rows = []
    for test, verdict in zip(found.tests, found.verdicts, strict=True):
        if test.published is None or verdict.outcome not in JUDGED:
            continue
        lo, hi = test.published
        apart = verdict.high < lo or verdict.low > hi
        rows.append(
            {
                "test": test.id,
                "published": span(lo, hi),
                "interval": span(verdict.low, verdict.high),
                "they": "lie apart" if apart else "overlap",
            }
        )
    return pd.DataFrame(rows)


def _bracket_row(
    found: Verification, test: LockedTest, estimator: OnsetEstimator
) -> dict[str, Any]:
    assert found.lock is not None
    assert estimator.level is not None, "a judged onset has a level"
    lams, (lo, hi) = test.design.lams or [], test.window.bounds
    rates = [
        [final_value(found.cells[test.design.arm, lam, seed], test.metric.name) for lam in lams]
        for seed in found.lock.seeds
    ]
    onsets = [onset_of_seed(lams, of_seed, estimator.level) for of_seed in rates]
    read = bracket_test(onsets, lo, hi, estimator.confidence)
    if lo <= read.low and read.high <= hi:
        said = "inside the window"
    elif read.high <= lo or read.low >= hi:
        said = f"{'below' if read.high <= lo else 'above'} the window"
    else:
        said = "over an end of the window"
    return {
        "test": test.id,
        "interval": span(read.low, read.high),
        "window": span(lo, hi),
        "brackets alone say": said,
    }


def exploratory_onsets(found: Verification) -> pd.DataFrame:
    """Onsets of the arms that no onset test reads, where all their cells are there."""
    if found.lock is None or not found.verdicts:
        return pd.DataFrame()
    onsets = [test for test in found.tests if test.estimator.kind == "onset"]
    tested = {test.design.arm for test in onsets}
    level = next((t.estimator.level for t in onsets if t.estimator.kind == "onset"), None)
    rows = [
        _exploratory_row(found.lock, arm.name, arm.lams, found.cells, level)
        for arm in found.lock.arms
        if arm.name not in tested and len(arm.lams) > 1 and level is not None
    ]
    return pd.DataFrame([row for row in rows if row is not None])


def _exploratory_row(
    lock: Lock, arm: str, lams: Sequence[float], cells: Cells, level: float | None
) -> dict[str, Any] | None:
    rates = {
        seed: [cells[arm, lam, seed].metrics.get(PARSE_RATE, math.nan) for lam in lams]
        for seed in lock.seeds
        if all((arm, lam, seed) in cells for lam in lams)
    }
    whole = all(not math.isnan(rate) for row in rates.values() for rate in row)
    if len(rates) < len(lock.seeds) or level is None or not whole:
        return None
    found = [onset_of_seed(lams, row, level) for row in rates.values()]
    points = [onset.point for onset in found]
    low, high = t_interval(points)
    return {
        "arm": arm,
        "onset": sum(points) / len(points),
        "low": low,
        "high": high,
        "bracket_lo": min(onset.below for onset in found),
        "bracket_hi": max(onset.above for onset in found),
        "points": " ".join(f"{point:.4f}" for point in points),
    }


def cell_means(found: Verification) -> pd.DataFrame:
    """Per arm and lambda: mean and range of the parse rate over seeds, and how the runs ended."""
    rows = []
    keys = dict.fromkeys((arm, lam) for arm, lam, _ in sorted(found.cells))
    for arm, lam in keys:
        same = [cell for (a, x, _), cell in found.cells.items() if (a, x) == (arm, lam)]
        rates = [cell.metrics.get(PARSE_RATE, math.nan) for cell in same]
        ranked = [cell.metrics.get("eval/ndcg1_parsed", math.nan) for cell in same]
        rows.append(
            {
                "arm": arm,
                "lambda": lam,
                "runs": len(same),
                "parse rate": sum(rates) / len(rates),
                "lowest": min(rates),
                "highest": max(rates),
                "NDCG@1, parsed": sum(ranked) / len(ranked),
                "collapsed": sum(cell.status == "collapsed" for cell in same),
                "diverged": sum(cell.status == "diverged" for cell in same),
            }
        )
    return pd.DataFrame(rows)


def _named(runs: Sequence[str]) -> str:
    names = [run for run in runs if run]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def span(low: float, high: float) -> str:
    """An interval in words, or a dash."""
    return "-" if math.isnan(low) and math.isnan(high) else f"[{number(low)}, {number(high)}]"


def number(value: float) -> str:
    """Four decimals, or a dash."""
    return "-" if math.isnan(value) else f"{value:.4f}".rstrip("0").rstrip(".")
