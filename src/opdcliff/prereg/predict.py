"""Where the onset of settings of one's own will lie, before a run goes near it.

The closed form is the limit of small steps and of positions that are alike. A pilot well below
lambda* measures how far these settings are from that limit, in logits of the binding class, and the
theory of positions that differ makes an interval for the onset of it, at any clip (the bounds of
`windows`, without a grid).

What keeps clear stays below the lower end l of that interval by what the pilot's logit q rose above
its moving fixed point at any time, o logits: l - o/(logit p - logit b). Most of o is on arrival, at
a fixed point that is still that of lambda near 1; it is taken whole, since l is of the mean over
runs and single runs fall below it [M: the locked study], and because on arrival it may lose a run
at any lambda (`crowded`). Where that is less than the pilot's own lambda, and all pilots held
there, the pilot's is recommended: with these settings it was seen to hold.

Source: [D] docs/theory.md, points 14, 16 and 20.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from opdcliff.calibration import Binding, prepare_calibration
from opdcliff.errors import ConfigError
from opdcliff.models import prepare
from opdcliff.paths import StudyPaths
from opdcliff.prereg.pilot import (
    PilotFacts,
    hold,
    overshoot,
    pilot_facts,
    require_evaluations,
)
from opdcliff.prereg.windows import Masses, Setting, lowest, masses_of, onset_bounds
from opdcliff.records import read_record
from opdcliff.settings import RunConfig
from opdcliff.study import LAM_DECIMALS, Cell, incomplete, prediction_folder, run_cells
from opdcliff.theory import LEVEL, ClipRule, Population, threshold

# Protocol name of the pilot's records.
PROTOCOL = "predict"
# Share of the room at lambda = 1 that an overshoot may take before it is told.
_CROWDED = 0.5
# What makes each part of the margin smaller.
_REMEDIES = {
    "calibration": "more calibration.prompts",
    # That did, smaller steps and larger batches did not [M: docs/reproduction.md, onset_steps].
    "spread": "a longer lam.warmup_updates at the same optim.lr",
    "wobble": "more rollout.prompts_per_update or a smaller optim.lr",
    "overshoot": "a longer lam.warmup_updates or a smaller optim.lr",
}


@dataclass(frozen=True)
class Prediction:
    """The onset at one clip strength.

    star: the closed form at the calibrated masses. low, high: where the onset is predicted, on the
    budget of the settings; high is infinite where the budget is too short to show it. clear: the
    largest lambda that keeps the pilot's margin. gain: logits per unit of lambda. parts: what
    lies between star and clear, in logits, by its cause. arrival: z_c - logit p, all the
    logits there are above the fixed point at lambda = 1. held: the pilot's lambda, where it ran at
    this clip and all runs held.
    """

    strength: float
    star: float
    low: float
    high: float
    clear: float
    gain: float
    parts: dict[str, float]
    arrival: float
    held: float | None = None

    @property
    def recommended(self) -> float:
        """The largest lambda that keeps the margin or was seen to hold."""
        return self.clear if self.held is None else max(self.clear, self.held)

    @property
    def margin(self) -> float:
        """Logits between the fixed point at `clear` and the clip's boundary."""
        return (self.star - self.clear) * self.gain

    def step_share(self, lam: float) -> float:
        """Share of the pilot's step size at which `lam` keeps clear, at most 1; 0 if none does.

        The overshoot is taken in proportion to the step, with warm-up and budget longer by as much;
        the rest of the margin, the spread above all, as not shrinking with it. On one task the
        overshoot shrank faster, and the spread did not [M: docs/reproduction.md, onset_steps].
        """
        left = (self.low - lam) * self.gain
        above = self.parts["overshoot"]
        if left <= 0.0:
            return 0.0
        return 1.0 if left >= above else left / above

    @property
    def sharper(self) -> str:
        """What would make the largest part smaller."""
        largest = max(self.parts, key=lambda name: self.parts[name])
        return f"{largest}: {_REMEDIES[largest]}"


@dataclass(frozen=True)
class Predicted:
    """Predictions at all calibrated strengths, and the pilot that they rest on.

    folder: where `lambda=predicted` looks for what is said here of these settings and models.
    overshoot, arrival: logits above the moving fixed point, late and at any time (`overshoot`).
    """

    folder: Path
    pilot_lam: float
    pilot: PilotFacts
    overshoot: float
    arrival: float
    runs: list[str]
    at: list[Prediction]

    def crowded(self) -> list[Prediction]:
        """Where the pilot's overshoot took a large part of the room that there is at lambda = 1.

        A student arrives at its fixed point with momentum while lambda is still near 1; what passes
        z_c then is lost at any lambda [M: docs/reproduction.md, near_p98].
        """
        return [found for found in self.at if self.arrival > _CROWDED * found.arrival]

    def table(self) -> pd.DataFrame:
        """One row per clip strength."""
        return pd.DataFrame(
            [
                {
                    "c": found.strength,
                    "lambda*": found.star,
                    "onset from": found.low,
                    "to": found.high,
                    "clear of it": found.clear,
                    "pilots held": math.nan if found.held is None else found.held,
                    "recommended": found.recommended,
                    "of lambda*": found.recommended / found.star,
                    "margin, logits": found.margin,
                }
                for found in self.at
            ]
        )

    def steps(self, lam: float, config: RunConfig) -> pd.DataFrame:
        """The largest optim.lr at which `lam` keeps clear, with its warm-up and budget."""
        share = pd.Series([found.step_share(lam) or math.nan for found in self.at])
        return pd.DataFrame(
            {
                "c": [found.strength for found in self.at],
                "onset from": [found.low for found in self.at],
                "optim.lr": share * config.optim.lr,
                "lam.warmup_updates": (config.lam.warmup_updates / share).round(),
                "optim.updates": (config.optim.updates / share).round(),
            }
        )

    def parts(self) -> pd.DataFrame:
        """What the margin is made of, in logits, one row per clip strength."""
        rows = [{"c": f.strength, **f.parts, "sharper by": f.sharper} for f in self.at]
        return pd.DataFrame(rows)


def predict(config: RunConfig, paths: StudyPaths, *, pilot: float, seeds: int) -> Predicted:
    """Calibrate, run or find the pilot, and predict the onset at all calibrated strengths.

    pilot: share of the way from 1 to lambda* at which the pilot runs (a share of lambda* itself
        would be under 1 where lambda* is near 1). seeds: pilot runs, from `seed` on.

    Raises:
        ConfigError: settings without a cliff, a share that is no pilot's, no threshold, or a pilot
            that says nothing (`pilot_facts`). StudyIncompleteError: a pilot run failed.
    """
    _check(config, pilot, seeds)
    prepared = prepare(config, paths, seeds * config.optim.updates)
    calibration, _ = prepare_calibration(config, paths, prepared)
    lam = _pilot_lam(config, calibration.binding, pilot)
    cells = []
    for seed in range(config.seed, config.seed + seeds):
        own = copy.deepcopy(config)
        own.seed, own.lam.value, own.lam.of_threshold = seed, lam, None
        cells.append(Cell(own, lam, PROTOCOL))
    failures = run_cells(cells, prepared, paths, workers=config.protocol.workers)
    if failures:
        raise incomplete(failures, len(cells), "pilot runs")
    records = [read_record(cell.folder(prepared, paths)) for cell in cells]
    facts, (arrival, late) = pilot_facts(records), overshoot(records)
    held = lam if hold(records) else None
    at = []
    for strength in filter(math.isfinite, config.calibration.strengths):
        masses = masses_of(calibration.table, strength)
        # At other clips nothing was run.
        seen = held if strength == config.clip.strength else None
        at.append(_at(config, masses, strength, facts, arrival, seen))
    folder = prediction_folder(config, prepared, paths)
    runs = [record.folder.name for record in records]
    return Predicted(folder, lam, facts, late, arrival, runs, at)


def _at(
    config: RunConfig,
    masses: Sequence[Masses],
    strength: float,
    facts: PilotFacts,
    above: float,
    held: float | None = None,
) -> Prediction:
    setting = Setting(
        strength,
        config.optim.updates,
        config.lam.warmup_updates,
        config.rollout.max_new_tokens,
        LEVEL,
    )
    lows, highs = onset_bounds(masses, facts, setting)
    low, row = lowest(masses, lows)
    # The binding row's closed form is what users know as lambda*.
    star, gain = masses[0].star(strength), row.gain
    clear = low - above / gain
    spread_out = Population(row.p, row.b, strength, facts.spread_hi).critical_lambda()
    shrunk = row.star_lo / row.star(strength)
    parts = {
        "calibration": (star - row.star_lo) * gain,
        "spread": (row.star(strength) - spread_out) * shrunk * gain,
        "wobble": 2.0 * facts.wobble,
        "overshoot": above,
    }
    # A step that carries Z over a narrow barrier can put the upper end under the lower one.
    high = max(*highs, low)
    arrival = threshold.clip_safe_logit(row.p, strength) - threshold.logit(row.p)
    return Prediction(strength, star, low, high, clear, gain, parts, arrival, held)


def _pilot_lam(config: RunConfig, binding: Binding | None, pilot: float) -> float:
    if binding is None:
        raise ConfigError(
            "there is no threshold to predict an onset from: no class whose tail the contract "
            "needs has p > b; `opdcliff calibrate` shows the masses"
        )
    assert config.clip.strength is not None, "checked"
    return round(1.0 + pilot * (binding.lambda_star(config.clip.strength) - 1.0), LAM_DECIMALS)


def _check(config: RunConfig, pilot: float, seeds: int) -> None:
    if ClipRule(config.clip.rule) is not ClipRule.MASK or config.clip.strength is None:
        raise ConfigError(
            f"clip={config.clip.name} has no cliff that the closed form predicts; use clip=c5, c2 "
            "or another mask"
        )
    if not 0.0 < pilot < 1.0:
        raise ConfigError(
            f"pilot={pilot:g} must lie between 0 and 1: a pilot stays below the cliff"
        )
    if seeds < 1:
        raise ConfigError(f"seeds={seeds} must be at least 1")
    require_evaluations(config)
