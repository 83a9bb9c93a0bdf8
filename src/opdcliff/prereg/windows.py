"""Prediction windows for an onset: from a calibration, a pilot and a grid, by stated rules.

    lo = min over masses of critical_lambda(spread_hi), less 2 wobble/(logit p - logit b)
    hi = max over masses of onset_on_budget(spread_lo, speed_lo)

or, for plain gradient steps, whose budget decides where the cliff is seen,

    lo = min over masses of onset_on_budget(spread_hi, eta_hi), less 2 wobble/(logit p - logit b)
    hi = max over masses of onset_on_budget(spread_lo, eta_lo)

over the masses of the binding offsets and of all offsets, each moved to the end of the 95%
interval of its lambda*, and both widened by half a grid step, the resolution of an onset read off
a grid. Nothing is taken from runs at or above the cliff. Source: docs/theory.md, points 14 and 16.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import pandas as pd

from opdcliff.errors import ConfigError
from opdcliff.prereg.pilot import PilotFacts
from opdcliff.theory import (
    Flow,
    Population,
    end_of_room,
    onset_on_budget,
    threshold,
)
from opdcliff.verification import Window

# Windows are given to this many decimals, as lambdas are.
DECIMALS = 4
# A window over more than this share of the grid would hold most outcomes.
MOST_OF_GRID = 0.5


@dataclass(frozen=True)
class Masses:
    """p and b of a row of the calibration table, and the 95% interval of its lambda* at c."""

    where: str
    p: float
    b: float
    star_lo: float
    star_hi: float

    def star(self, strength: float) -> float:
        """lambda* of the masses themselves."""
        return threshold.lambda_star(self.p, self.b, strength)

    @property
    def gain(self) -> float:
        """Logits by which the fixed point moves as lambda grows by 1: logit p - logit b."""
        return threshold.logit(self.p) - threshold.logit(self.b)


@dataclass(frozen=True)
class Setting:
    """What an onset is predicted for: clip, budget, warm-up, room for the text, and the level."""

    strength: float
    updates: int
    warmup_updates: int
    room: int
    closing_share: float


def masses_of(table: pd.DataFrame, strength: float) -> list[Masses]:
    """The rows of the binding class that bind, and of all its offsets together.

    Raises:
        ConfigError: lambda* was not calibrated at that clip strength.
    """
    column = f"lambda_star_c{strength:g}"
    if column not in table:
        raise ConfigError(
            f"no lambda* was calibrated at clip strength {strength:g}; add it to "
            "calibration.strengths"
        )
    binding = table[table.binding].iloc[0]
    pooled = table[(table["class"] == binding["class"]) & (table.offsets == "all")].iloc[0]
    return [
        Masses(
            f"{row['class']}, offsets {row.offsets}",
            float(row.p),
            float(row.b),
            float(row[f"{column}_lo"]),
            float(row[f"{column}_hi"]),
        )
        for row in (binding, pooled)
    ]


def onset_bounds(
    masses: Sequence[Masses], pilot: PilotFacts, setting: Setting
) -> tuple[list[float], list[float]]:
    """Lower and upper bounds of the onset, one of each per row of masses: the rules above."""
    lows, highs = [], []
    z_end = end_of_room(setting.room, setting.closing_share)
    for row in masses:
        wide, narrow = (
            Population(row.p, row.b, setting.strength, spread)
            for spread in (pilot.spread_hi, pilot.spread_lo)
        )
        star = wide.lambda_star
        budgeted = partial(
            onset_on_budget,
            updates=setting.updates,
            warmup_updates=setting.warmup_updates,
            z_end=z_end,
        )
        if pilot.eta_lo is None:
            earliest = wide.critical_lambda()
            latest = budgeted(narrow, Flow(speed=pilot.speed_lo))
        else:
            clock = partial(Flow, rest=pilot.rest, room=setting.room)
            earliest = budgeted(wide, clock(eta=pilot.eta_hi))
            latest = budgeted(narrow, clock(eta=pilot.eta_lo))
        lows.append(earliest * row.star_lo / star - 2.0 * pilot.wobble / row.gain)
        highs.append(latest * row.star_hi / star)
    return lows, highs


def lowest(masses: Sequence[Masses], lows: Sequence[float]) -> tuple[float, Masses]:
    """The lower end of the onset, and the masses that it is of."""
    low = min(lows)
    return low, masses[lows.index(low)]


def onset_window(
    masses: Sequence[Masses], pilot: PilotFacts, setting: Setting, lams: Sequence[float]
) -> Window:
    """Where the onset of a setting is predicted, on the grid `lams`.

    Raises:
        ConfigError: a vacuous or impossible window, see `check_window`.
    """
    lows, highs = onset_bounds(masses, pilot, setting)
    half = 0.5 * grid_step(lams)
    low, high = (", ".join(f"{end:.4f}" for end in ends) for ends in (lows, highs))
    budget = f"onset within {setting.updates} updates (warm-up {setting.warmup_updates})"
    wide, narrow = f"with spread {pilot.spread_hi:.4f}", f"with spread {pilot.spread_lo:.4f}"
    if pilot.eta_lo is None:
        lower = f"critical lambda {wide}"
        upper = f"{budget} {narrow} at {pilot.speed_lo:.4f} logits per update"
    else:
        lower = f"{budget} {wide} at eta {pilot.eta_hi:.4f} and {pilot.rest:.1f} other tokens"
        upper = f"with eta {pilot.eta_lo:.4f} and spread {pilot.spread_lo:.4f}"
    derivation = (
        f"{lower} less 2 wobble {pilot.wobble:.4f}, lowest of {low}; {upper}, highest of {high}; "
        f"over masses of {' and '.join(row.where for row in masses)}; each side half a grid step, "
        f"{half:.4f}, wider"
    )
    lo, hi = min(lows) - half, max(highs) + half
    return checked_window(lo, hi, derivation, lams)


def cell_window(star: float, lams: Sequence[float]) -> Window:
    """The grid cell that holds lambda*: the closed form without any allowance.

    Raises:
        ConfigError: lambda* lies outside the grid.
    """
    grid = sorted(lams)
    cells = [(a, b) for a, b in itertools.pairwise(grid) if a <= star < b]
    if not cells:
        raise ConfigError(f"lambda* = {star:.4f} lies outside the grid {grid}; widen the grid")
    lo, hi = cells[0]
    return checked_window(
        lo, hi, f"the grid cell that holds lambda* = {star:.4f}; no allowance for anything", lams
    )


def checked_window(lo: float, hi: float, derivation: str, lams: Sequence[float]) -> Window:
    """A window rounded as lambdas are, if a grid can come out inside it and on both sides.

    Raises:
        ConfigError: narrower than a grid step, over half of the grid, or not inside the grid.
    """
    grid, step = sorted(lams), grid_step(lams)
    lo, hi = round(lo, DECIMALS), round(hi, DECIMALS)
    said = f"window [{lo:g}, {hi:g}] on the grid {grid}"
    # Rounding of lambdas to their decimals may take that much off a step.
    if hi - lo < step - 2.0 * 10.0**-DECIMALS:
        raise ConfigError(f"{said} is narrower than a grid step ({step:.4f}): use a finer grid")
    if hi - lo > MOST_OF_GRID * (grid[-1] - grid[0]):
        raise ConfigError(
            f"{said} holds more than half of the grid and says little; widen the grid"
        )
    # A seed that stays above the whole grid counts as above, one that starts below it as below.
    if not grid[0] <= lo < hi <= grid[-1]:
        raise ConfigError(f"{said} cannot come out on both sides; shift or widen the grid")
    return Window(lo=lo, hi=hi, derivation=derivation)


def require_a_cell(window: Window, lams: Sequence[float], test: str) -> None:
    """Refuse a window that no onset in one grid cell could confirm, wherever it lay.

    Of the lock `near` T3 is such a one [M: prereg/README.md].

    Raises:
        ConfigError: no cell of the grid lies whole inside the window.
    """
    low, high = window.bounds
    if not any(low <= a and b <= high for a, b in itertools.pairwise(sorted(lams))):
        raise ConfigError(
            f"{test}: no cell of the grid {sorted(lams)} lies whole in the window [{low:g}, "
            f"{high:g}], so that no onset could confirm it; shift the multiples or use a finer grid"
        )


def grid_step(lams: Sequence[float]) -> float:
    """The widest gap of a grid."""
    grid = sorted(lams)
    return max(b - a for a, b in itertools.pairwise(grid))
