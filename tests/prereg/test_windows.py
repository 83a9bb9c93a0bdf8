"""Prediction windows: each end by its rule, and windows that say too little are refused."""

from __future__ import annotations

import dataclasses
import math

import pytest

from grid_frames import calibration
from opdcliff.errors import ConfigError
from opdcliff.prereg.pilot import PilotFacts
from opdcliff.prereg.windows import (
    Masses,
    Setting,
    cell_window,
    checked_window,
    grid_step,
    masses_of,
    onset_window,
)
from opdcliff.theory import threshold
from opdcliff.theory.spread import Flow, Population, end_of_room, onset_on_budget
from opdcliff.verification.locked_test import Window

P, B, C = 0.876, 0.476, 5.0
STAR = threshold.lambda_star(P, B, C)
# Without any width of its own, so that the ends of a window follow from the rest.
EXACT = Masses("text, offsets 0-27", P, B, STAR, STAR)
PILOT = PilotFacts(spread_lo=0.03, spread_hi=0.06, wobble=0.02, speed_lo=0.3, speed_hi=0.4)
SETTING = Setting(strength=C, updates=60, warmup_updates=10, room=136, closing_share=0.5)
GRID = [round(multiple * STAR, 4) for multiple in (0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1)]
HALF = 0.5 * grid_step(GRID)
SHARPENING = threshold.logit(P) - threshold.logit(B)


def window(
    masses: list[Masses] | None = None, setting: Setting = SETTING, **changes: float
) -> Window:
    pilot = dataclasses.replace(PILOT, **changes)
    return onset_window([EXACT] if masses is None else masses, pilot, setting, GRID)


@pytest.fixture(scope="module")
def plain() -> Window:
    return window()


# ---- masses -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("strength", "star"), [(5.0, 1.8), (2.0, 1.4)])
def test_masses_are_those_of_the_binding_offsets_and_of_all(strength: float, star: float) -> None:
    table = calibration()
    table.loc[(table["class"] == "text") & (table.offsets == "all"), ["p", "b"]] = 0.88, 0.55
    assert masses_of(table, strength) == [
        Masses("text, offsets 28-55", 0.9, 0.5, star - 0.05, star + 0.06),
        Masses("text, offsets all", 0.88, 0.55, star - 0.05, star + 0.06),
    ]


def test_the_threshold_of_masses_is_the_closed_form() -> None:
    assert EXACT.star(2.0) == threshold.lambda_star(P, B, 2.0)


def test_a_strength_that_was_not_calibrated_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"at clip strength 3\.5; add it to calibration\.str"):
        masses_of(calibration(), 3.5)


# ---- the window of an onset -------------------------------------------------------------------


def test_the_ends_follow_their_rules(plain: Window) -> None:
    assert plain.lo is not None
    assert plain.hi is not None
    wide, narrow = (Population(P, B, C, spread) for spread in (0.06, 0.03))
    low = wide.critical_lambda() - 2 * 0.02 / SHARPENING
    assert plain.lo == pytest.approx(low - HALF, abs=6e-5)
    high = onset_on_budget(
        narrow, Flow(speed=0.3), updates=60, warmup_updates=10, z_end=end_of_room(136, 0.5)
    )
    assert plain.hi == pytest.approx(high + HALF, abs=6e-5)
    # Rounded as lambdas are.
    assert (plain.lo, plain.hi) == (round(plain.lo, 4), round(plain.hi, 4))
    assert plain.lo < wide.critical_lambda() < narrow.critical_lambda() < plain.hi
    for piece in ("spread 0.0600", f"{low:.4f}", f"{high:.4f}", "within 60 updates", "0-27"):
        assert piece in plain.derivation


@pytest.mark.parametrize(
    ("changes", "moved"),
    [
        ({"spread_hi": 0.09}, "lo"),
        ({"wobble": 0.05}, "lo"),
        ({"spread_lo": 0.01}, "hi"),
        ({"speed_lo": 0.11}, "hi"),
    ],
)
def test_less_certainty_widens_the_window_on_its_side(
    changes: dict[str, float], moved: str, plain: Window
) -> None:
    (lo, hi), (old_lo, old_hi) = window(**changes).bounds, plain.bounds
    assert (lo < old_lo) == (moved == "lo")
    assert (hi > old_hi) == (moved == "hi")
    assert (lo == old_lo) == (moved == "hi")
    assert (hi == old_hi) == (moved == "lo")
    if "wobble" in changes:
        assert old_lo - lo == pytest.approx(2 * 0.03 / SHARPENING, abs=2e-4)


def test_the_interval_of_the_threshold_scales_the_ends(plain: Window) -> None:
    made = window([dataclasses.replace(EXACT, star_lo=0.97 * STAR, star_hi=1.02 * STAR)])
    wobble = 2 * 0.02 / SHARPENING
    assert made.lo == pytest.approx(0.97 * (plain.bounds[0] + HALF + wobble) - wobble - HALF, 1e-4)
    assert made.hi == pytest.approx(1.02 * (plain.bounds[1] - HALF) + HALF, 1e-4)


def test_the_window_reaches_over_all_masses(plain: Window) -> None:
    p, b = 0.87, 0.475
    star = threshold.lambda_star(p, b, C)
    other = Masses("text, offsets all", p, b, star, star)
    alone = window([other])
    assert alone.bounds != plain.bounds
    for masses in ([EXACT, other], [other, EXACT]):
        both = window(masses)
        assert both.lo == min(plain.bounds[0], alone.bounds[0])
        assert both.hi == max(plain.bounds[1], alone.bounds[1])


def test_a_coarser_grid_widens_each_side_by_half_of_the_difference(plain: Window) -> None:
    coarse = GRID[::2]
    made = onset_window([EXACT], PILOT, SETTING, coarse)
    more = 0.5 * (grid_step(coarse) - grid_step(GRID))
    assert plain.bounds[0] - made.bounds[0] == pytest.approx(more, abs=1.1e-4)
    assert made.bounds[1] - plain.bounds[1] == pytest.approx(more, abs=1.1e-4)


def test_a_budget_that_no_lambda_is_enough_for_has_no_window() -> None:
    with pytest.raises(ConfigError, match=r"window \[.*, inf\] .* says little"):
        window(setting=dataclasses.replace(SETTING, updates=12))


# ---- one cell of the grid ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("star", "bounds"),
    [(1.72, (1.7, 1.8)), (1.7, (1.7, 1.8)), (1.8, (1.8, 1.9)), (1.8999, (1.8, 1.9))],
)
def test_the_exact_window_is_the_cell_that_holds_the_threshold(
    star: float, bounds: tuple[float, float]
) -> None:
    # Five cells of .1: one is less than half of them.
    made = cell_window(star, [1.9, 1.5, 1.6, 1.7, 1.8, 2.0])
    assert made.bounds == bounds
    assert f"{star:.4f}" in made.derivation


@pytest.mark.parametrize("star", [1.49, 2.0, 2.5, math.inf, math.nan])
def test_a_threshold_outside_the_grid_has_no_cell(star: float) -> None:
    with pytest.raises(ConfigError, match="lies outside the grid"):
        cell_window(star, [1.5, 1.6, 1.7, 1.8, 1.9, 2.0])


# ---- checks ------------------------------------------------------------------------------------

TENTHS = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5]


@pytest.mark.parametrize("bounds", [(1.2, 1.3), (1.0, 1.2), (1.3, 1.5), (1.11111, 1.22222)])
def test_a_window_that_says_something_passes(bounds: tuple[float, float]) -> None:
    made = checked_window(*bounds, "why", TENTHS)
    assert made.bounds == (round(bounds[0], 4), round(bounds[1], 4))
    assert made.derivation == "why"


@pytest.mark.parametrize(
    ("lo", "hi", "words"),
    [
        (1.2, 1.29, "narrower than a grid step (0.1000): use a finer grid"),
        (1.2, 1.2, "narrower"),
        (1.3, 1.2, "narrower"),
        (1.1, 1.4, "more than half of the grid"),
        (1.1, math.inf, "more than half of the grid"),
        (-math.inf, 1.4, "more than half of the grid"),
        (0.95, 1.1, "cannot come out on both sides"),
        (1.4, 1.55, "cannot come out on both sides"),
        (1.6, 1.8, "cannot come out on both sides"),
        (math.nan, 1.4, "cannot come out on both sides"),
    ],
)
def test_a_window_that_says_too_little_is_refused(lo: float, hi: float, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        checked_window(lo, hi, "why", TENTHS)
    assert words in str(caught.value)
    assert str(TENTHS) in str(caught.value)


def test_rounding_of_lambdas_does_not_make_a_cell_too_narrow() -> None:
    uneven = [1.0, 1.0999, 1.2, 1.3, 1.4, 1.5]
    assert cell_window(1.05, uneven).bounds == (1.0, 1.0999)
    with pytest.raises(ConfigError, match="narrower"):
        cell_window(1.05, [1.0, 1.09, *uneven[2:]])


def test_the_step_of_a_grid_is_its_widest_gap() -> None:
    assert grid_step([1.5, 1.0, 1.1, 1.2]) == pytest.approx(0.3)
