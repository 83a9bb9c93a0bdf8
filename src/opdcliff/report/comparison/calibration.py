"""How far a calibration may lie from the committed one: models are trained anew, not copied.

Why, and the rest of the derivation: `tolerance`.
"""

from __future__ import annotations

import math

import pandas as pd

from opdcliff.report.comparison.tolerance import (
    RETRAINED,
    SIGMAS,
    TWO_DRAWS,
    Allowed,
    sampling_variance,
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
        reason = f"{SIGMAS:g} standard errors of the number of prompts that reach the class"
        return within(float(row[column]), part * float(row[column]), reason)
    if f"{base}_lo" not in row or f"{base}_hi" not in row:
        return None
    value, width = float(row[column]), float(row[f"{base}_hi"]) - float(row[f"{base}_lo"])
    reason = "width of its 95% interval, and what models trained under other kernels differ by"
    if not math.isfinite(value) or not math.isfinite(width):
        return within(value, width, reason)
    trained = RETRAINED[bool(row.tail_needed)]
    if base.startswith("lambda_star"):
        return within(value, width + SIGMAS * trained.log_star * value, reason)
    odds, shift = math.log(value / (1 - value)), SIGMAS * (trained.p if base == "p" else trained.b)
    return Allowed(_share(odds - shift) - width, _share(odds + shift) + width, reason)


def _may_bind(row: pd.Series, table: pd.DataFrame) -> Allowed | None:
    """Bins whose lambda* lies so near that of the one that binds that either may be the lowest."""
    star = next(c for c in map(str, table) if c.startswith("lambda_star"))
    bound = table[table.binding]
    if bound.empty or not row.tail_needed:
        return None
    near = SIGMAS * TWO_DRAWS * RETRAINED[True].log_star
    if abs(math.log(float(row[star]) / float(bound.iloc[0][star]))) > near:
        return None
    words = frozenset({"True", "False"})
    return Allowed(math.nan, math.nan, "its lambda* is too near the lowest", words=words)


def star_shift(calibration: pd.DataFrame) -> float:
    """By how much lambda* of the binding class may differ, as a share of it."""
    bound = calibration[calibration.binding]
    names = [
        c
        for c in map(str, calibration)
        if c.startswith("lambda_star") and not c.endswith(("_lo", "_hi"))
    ]
    widths = [float(((bound[f"{c}_hi"] - bound[f"{c}_lo"]) / bound[c]).max()) for c in names]
    trained = max((RETRAINED[bool(needed)].log_star for needed in bound.tail_needed), default=0.0)
    return max((width for width in widths if math.isfinite(width)), default=0.0) + SIGMAS * trained


def _share(odds: float) -> float:
    return 1 / (1 + math.exp(-odds))
