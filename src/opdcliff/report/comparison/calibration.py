"""How far a calibration may lie from the committed one: models are trained anew, not copied.

Why, and the rest of the derivation: `tolerance`.
"""

from __future__ import annotations

import math

import pandas as pd

from opdcliff.report.comparison.retrained import (
    SIGMAS,
    SPREADS,
    TWO_DRAWS,
    Spread,
    apart,
)
from opdcliff.report.comparison.tolerance import (
    RETRAINED,
    Allowed,
    sampling_variance,
    star_allowed,
    within,
)


def calibration_allowed(row: pd.Series, column: str, table: pd.DataFrame) -> Allowed | None:
    """For one number of the calibration `table`; None where it must be equal."""
    if column == "binding":
        return _may_bind(row, table)
    prompts, base = int(table.prompts.max()), column.removesuffix("_lo").removesuffix("_hi")
    if column in ("prompts", "positions"):
        share = float(row.prompts) / prompts
        part = (
            SIGMAS
            * TWO_DRAWS
            * math.sqrt(sampling_variance(share, prompts))
            / max(share, 1 / prompts)
        )
        reason = f"{SIGMAS:.2g} standard errors of the number of prompts that reach the class"
        return within(float(row[column]), part * float(row[column]), reason)
    if f"{base}_lo" not in row or f"{base}_hi" not in row:
        return None
    value, width = float(row[column]), float(row[f"{base}_hi"]) - float(row[f"{base}_lo"])
    if not math.isfinite(value) or not math.isfinite(width):
        return within(value, width, "its 95% interval")
    found = _of_value(value, base, spread_of(row))
    if column == base or not found.claimed:
        return found
    # Prompts are drawn anew for the interval, whose width may be another.
    reason = f"{RETRAINED}, and the width of its 95% interval"
    return Allowed(found.low - width, found.high + width, reason)


def _of_value(value: float, base: str, spread: Spread) -> Allowed:
    if base.startswith("lambda_star"):
        return star_allowed(value, spread.log_star)
    if not 0 < value < 1:
        return within(value, math.nan, "of a mass of 0 or 1 the log-odds")
    odds, shift = math.log(value / (1 - value)), apart(spread.p if base == "p" else spread.b)
    return Allowed(_share(odds - shift), _share(odds + shift), RETRAINED)


def spread_of(row: pd.Series) -> Spread:
    """That of the class of a row; of a class without draws that of one almost certain."""
    return SPREADS.get(str(row["class"]), SPREADS["key"])


def _may_bind(row: pd.Series, table: pd.DataFrame) -> Allowed | None:
    """Bins whose lambda* lies so near that of the one that binds that either may be the lowest."""
    star, bound = _first_star_column(table), table[table.binding]
    if star is None or bound.empty or not row.tail_needed:
        return None
    # Both move.
    near = TWO_DRAWS * apart(spread_of(row).log_star)
    if abs(math.log(float(row[star]) / float(bound.iloc[0][star]))) > near:
        return None
    words = frozenset({"True", "False"})
    return Allowed(math.nan, math.nan, "its lambda* is too near the lowest", words=words)


def star_spread(calibration: pd.DataFrame) -> float:
    """Spread of the logarithm of the lambda* that binds."""
    bound = calibration[calibration.binding]
    return max((spread_of(row).log_star for _, row in bound.iterrows()), default=math.inf)


def first_star(calibration: pd.DataFrame) -> float:
    """lambda* that binds at the first calibrated clip strength; NaN where none does."""
    bound = calibration[calibration.binding]
    name = _first_star_column(calibration)
    return math.nan if bound.empty or name is None else float(bound[name].iloc[0])


def _first_star_column(calibration: pd.DataFrame) -> str | None:
    return next((c for c in map(str, calibration) if c.startswith("lambda_star")), None)


def _share(odds: float) -> float:
    return 1 / (1 + math.exp(-odds))
