"""Tests of a preview: runs fall where settled students, sampled before any run, fall.

Of an arm two curves are sampled on its grid, the fixed point itself and, under a clip of known
strength, the fixed point at the margin that the pilot leaves: the logits from lambda* down to the
lower end of the predicted onset (`windows.onset_bounds`). Each is read at the end of its 95%
intervals that makes the band widest, and falls through the locked level in a cell of the grid:

    window = from the lower end of the margin's cell to the upper end of the fixed point's,

open above where the fixed point falls nowhere on the grid. Where neither falls, the claim is that
runs hold at the largest lambda as well as was sampled. Source: docs/theory.md, point 22.
"""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from opdcliff.errors import ConfigError
from opdcliff.models import Prepared
from opdcliff.paths import StudyPaths
from opdcliff.prereg.claims.contrasts import WARM_START
from opdcliff.prereg.claims.grounds import Grounds, locked_test
from opdcliff.prereg.windows import checked_window, lowest, onset_bounds
from opdcliff.preview import Clip, Preview, preview
from opdcliff.theory import Onset, onset_of_seed
from opdcliff.verification import (
    PARSE_RATE,
    CellRef,
    ContrastEstimator,
    LockedTest,
    OnsetEstimator,
    Window,
)

_RULE = (
    "[D] rule in opdcliff.prereg.claims.previews; inputs [M] calibration, pilot, and settled "
    "students sampled before any run"
)
_SOURCE = "docs/theory.md, point 22 [D]"
_FALL_REFUTED = "the interval of the mean onset over seeds, from grid cells, lies outside them"
_HOLD_REFUTED = "the t-interval of the mean difference over seeds lies wholly below the bound"


def sampled(grounds: Grounds, paths: StudyPaths, prepared: Prepared) -> Preview | None:
    """Settled students at the lambdas of the arms that have a test; None without such arms."""
    points: dict[Clip, set[float]] = {}
    margins: dict[float, float] = {}
    for arm in grounds.predictions.previews:
        clip = _clip(grounds, arm)
        points.setdefault(clip, set()).update(grounds.arms[arm].lams)
        if math.isfinite(clip.strength):
            margins[clip.strength] = _margin(grounds, arm)
    if not points:
        return None
    return preview(
        grounds.config,
        paths,
        points={clip: sorted(lams) for clip, lams in points.items()},
        prepared=prepared,
        margin_at=lambda strength: margins[strength],
    )


def preview_rows(found: Preview) -> list[dict[str, Any]]:
    """For the lock: every rate that was sampled, and those of the teacher and the warm start."""
    names = ["rule", "c", "lam", "margin", "parse_rate", "parse_lo", "parse_hi", "mean_length"]
    rows: list[dict[str, Any]] = [
        {str(name): value for name, value in row.items()}
        for row in found.table[names].to_dict("records")
    ]
    own = [{"model": name, "parse_rate": rate} for name, rate in found.floors.items()]
    return rows + own


def preview_tests(grounds: Grounds, found: Preview | None) -> list[LockedTest]:
    """A test for each arm of `predictions.previews`.

    Raises:
        ConfigError: a curve that is under the level all over the grid, or a window that is vacuous
            on it.
    """
    if found is None:
        return []
    return [_test(grounds, arm, found) for arm in grounds.predictions.previews]


def _test(grounds: Grounds, arm: str, found: Preview) -> LockedTest:
    plain, wide = (_curve(grounds, arm, found, widest) for widest in (False, True))
    lams = plain.lam.tolist()
    latest = onset_of_seed(lams, plain.parse_hi.tolist(), grounds.level)
    earliest = onset_of_seed(lams, wide.parse_lo.tolist(), grounds.level)
    if math.isinf(earliest.below):
        raise ConfigError(
            f"arm {arm}: settled students parse less than {grounds.level:g} on all of the grid "
            f"{lams}; begin it lower"
        )
    if math.isinf(earliest.above):
        return _holds(grounds, arm, found, wide)
    return _falls(grounds, arm, _window(lams, earliest, latest, wide, _held(grounds)))


def _falls(grounds: Grounds, arm: str, window: Window) -> LockedTest:
    estimator = OnsetEstimator(kind="onset", level=grounds.level, confidence=0.95, by="brackets")
    texts = {
        "claim": "Runs stop parsing at the lambda at which settled students, sampled with nothing "
        "trained, do.",
        "source": _SOURCE,
        "hypothesis": f"the onset of arm {arm} lies in the grid cells in which the preview falls, "
        "with the pilot's margin and without one",
        "refutes": _FALL_REFUTED,
    }
    return locked_test(
        grounds, f"P_{arm}", arm, PARSE_RATE, estimator, window, texts, "holm", _RULE
    )


def _holds(grounds: Grounds, arm: str, found: Preview, curve: pd.DataFrame) -> LockedTest:
    last = curve.iloc[-1]
    warm = found.floors[WARM_START]
    lam, least = float(last.lam), round(float(last.parse_lo) - warm, 4)
    estimator = ContrastEstimator(
        kind="contrast",
        of=CellRef(arm=arm, lam=lam),
        minus=CellRef(arm=WARM_START, lam=None),
        confidence=0.90,
        least_parse_rate=0.0,
    )
    texts = {
        "claim": "Where settled students parse, runs do.",
        "source": _SOURCE,
        "hypothesis": f"the parse rate at {lam:g}, less the warm start's, is at least what was "
        "sampled",
        "refutes": _HOLD_REFUTED,
    }
    derivation = (
        f"lower end of the sampled rate at {lam:g}, {last.parse_lo:.4f}, less the warm start's on "
        f"the same prompts, {warm:.4f}{_held(grounds)}"
    )
    window = Window(lo=least, hi=None, derivation=derivation)
    return locked_test(
        grounds, f"P_{arm}", arm, PARSE_RATE, estimator, window, texts, "none", _RULE
    )


def _held(grounds: Grounds) -> str:
    """For derivations: which entries the settled students of a lock leave where they are."""
    rare = grounds.config.preview.rare
    return f"; entries of less than {rare:g} in the warm start stay as they are" if rare else ""


def _window(
    lams: list[float], earliest: Onset, latest: Onset, wide: pd.DataFrame, held: str
) -> Window:
    margin = float(wide.margin.iloc[0])
    derivation = (
        f"settled students fall between {earliest.below:g} and {earliest.above:g} with a margin of "
        f"{margin:.4f} logits, and without one "
    )
    if math.isinf(latest.above):
        derivation += f"nowhere on the grid{held}"
        return Window(lo=earliest.below, hi=None, derivation=derivation)
    derivation += f"between {latest.below:g} and {latest.above:g}{held}"
    return checked_window(earliest.below, latest.above, derivation, lams)


def _curve(grounds: Grounds, arm: str, found: Preview, widest: bool) -> pd.DataFrame:
    """The sampled rates of an arm, by lambda, at its widest margin or without one."""
    clip, lams = _clip(grounds, arm), grounds.arms[arm].lams
    table = found.table
    table = table[(table.rule == str(clip.rule)) & (table.c == clip.strength)]
    margin = table.margin.max() if widest else 0.0
    return table[(table.margin == margin) & table.lam.isin(lams)].sort_values("lam")


def _margin(grounds: Grounds, arm: str) -> float:
    masses = grounds.masses(arm)
    lows, _ = onset_bounds(masses, grounds.pilot, grounds.setting(arm))
    low, row = lowest(masses, lows)
    return max(0.0, (masses[0].star(grounds.strength(arm)) - low) * row.gain)


def _clip(grounds: Grounds, arm: str) -> Clip:
    clip = grounds.arms[arm].settings["clip"]
    return Clip.named(clip["rule"], clip["strength"])
