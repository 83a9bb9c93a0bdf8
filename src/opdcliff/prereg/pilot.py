"""What a pilot below the cliff tells before anything is locked: spread, wobble and speed.

Its runs have seeds and lambdas of their own and are never part of a test.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from opdcliff.errors import ConfigError
from opdcliff.prereg.clock import LOGIT, RESIDUAL, Clock, arrived, sgd_clock
from opdcliff.records import Record
from opdcliff.settings import RunConfig
from opdcliff.theory import t_interval, wilson
from opdcliff.training import evaluated_at

# Runs from which on a mean has an interval that is of use.
_MANY = 4
# Evaluations of a run at the full lambda from which on their wobble says something.
_SETTLED = 3
SPREAD, HEADROOM = "train/headroom_spread", "train/headroom"


@dataclass(frozen=True)
class PilotFacts:
    """Measurements of the pilot's runs, in logits of the binding class.

    spread_lo: smallest spread over positions when lambda has arrived, over runs.
    spread_hi: largest spread over positions from half of the warm-up on, over runs. It is larger
        while the student is being repaired: an upper bound for the moment of a crossing, which no
        lambda near the cliff makes before. The windows of `mini` were locked with all evaluations
        but the first.
    wobble: standard deviation over time of a run's median headroom, after the warm-up, and after
        the fixed point was reached: a plain start has no warm-up, and its way there is no wobble.
    speed_lo, speed_hi: logits per update from the start to the first evaluation, over runs.
    eta_lo, eta_hi, rest: of plain gradient steps, see `clock`; None for AdamW, whose steps do not
        shrink with the gradient.
    """

    spread_lo: float
    spread_hi: float
    wobble: float
    speed_lo: float
    speed_hi: float
    eta_lo: float | None = None
    eta_hi: float | None = None
    rest: float | None = None

    def as_dict(self) -> dict[str, float]:
        """Plain values for the lock, none that were not measured."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def require_evaluations(config: RunConfig) -> None:
    """Refuse a pilot that will have too few evaluations at its full lambda, before it is run.

    Raises ConfigError.
    """
    updates, warmup = config.optim.updates, config.lam.warmup_updates
    settled = sum(evaluated_at(update, config) for update in range(max(1, warmup), updates + 1))
    if settled < _SETTLED:
        raise _too_few("a pilot of these settings would have", settled, warmup)


def pilot_facts(records: Sequence[Record]) -> PilotFacts:
    """Measure finished pilot runs.

    Raises:
        ConfigError: no runs, or one that collapsed (it was not below the cliff), lacks a metric,
            has too few evaluations, or does not start towards the teacher.
    """
    if not records:
        raise ConfigError(
            "the pilot has no cells; give protocol.predictions.pilot an arm with a multiple and a "
            "seed"
        )
    at_arrival: list[float] = []
    ever: list[float] = []
    wobbles: list[float] = []
    speeds: list[float] = []
    clocks: list[Clock] = []
    for record in records:
        if record.status != "finished":
            raise ConfigError(
                f"the pilot run {record.folder.name} is {record.status}; a pilot has to stay below "
                "the cliff: lower its multiple of lambda*"
            )
        clock = sgd_clock(record) if record.config["optim"].get("name") == "sgd" else None
        clocks += [] if clock is None else [clock]
        warming, settled = _evaluations(record, clock.arrived if clock else _reached(record))
        at_arrival.append(float(settled[SPREAD].iloc[0]))
        ever.append(float(warming[SPREAD].max()))
        wobbles.append(float(settled[HEADROOM].std(ddof=1)))
        speeds.append(_speed(record))
    eta_lo, eta_hi = _eta_bounds([clock.flow.eta for clock in clocks if clock.flow.eta])
    return PilotFacts(
        spread_lo=min(at_arrival),
        spread_hi=max(ever),
        wobble=float(np.sqrt(np.mean(np.square(wobbles)))),
        speed_lo=min(speeds),
        speed_hi=max(speeds),
        eta_lo=eta_lo,
        eta_hi=eta_hi,
        rest=float(np.median([clock.flow.rest for clock in clocks])) if clocks else None,
    )


def _eta_bounds(etas: Sequence[float]) -> tuple[float | None, float | None]:
    """95% interval of the mean clock, in its logarithm; the range of fewer than `_MANY` runs.

    A run's first batches have answers of chance length, which its own fit sees and a whole budget
    does not.
    """
    if len(etas) < _MANY:
        return min(etas, default=None), max(etas, default=None)
    low, high = t_interval(np.log(etas).tolist())
    return math.exp(low), math.exp(high)


def overshoot(records: Sequence[Record]) -> tuple[float, float]:
    """Logits that a run's mean logit q rose above its moving fixed point: at any time, and late.

    The most over runs and evaluations after the start; late ones are those from half of the
    warm-up on. 0 for runs that only ever lagged behind it.
    """
    ever, late = [0.0], [0.0]
    for record in records:
        after = record.history.iloc[1:]
        ever.append(float(after[RESIDUAL].max()))
        warmup = record.config["lam"]["warmup_updates"]
        late.append(float(after[RESIDUAL][after.step >= warmup / 2].max()))
    # No comparison with a NaN, where nothing was measured.
    return float(np.nanmax(ever)), float(np.nanmax(late))


def hold(records: Sequence[Record]) -> bool:
    """Whether no run parses, beyond chance, less at its end than at the best of its evaluations."""

    def interval(row: pd.Series[float]) -> tuple[float, float]:
        count = int(row["eval/prompts"])
        return wilson(round(row["eval/parse_rate"] * count), count)

    for record in records:
        rows = record.history
        _, highest_now = interval(rows.iloc[-1])
        lowest_then, _ = interval(rows.iloc[int(rows["eval/parse_rate"].to_numpy().argmax())])
        if highest_now < lowest_then:
            return False
    return True


def pilot_rows(records: Sequence[Record]) -> list[dict[str, Any]]:
    """For the lock: which runs the facts came from."""
    return [
        {"record": record.folder.name, "identity": record.manifest["identity"]}
        for record in records
    ]


def _evaluations(record: Record, first: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Those from half of the warm-up on, but the start, and of them those at the full lambda.

    The latter not before the update `first`.
    """
    for name in (SPREAD, HEADROOM, LOGIT):
        if name not in record.history:
            raise ConfigError(
                f"the pilot run {record.folder.name} has not measured {name}; it needs a clip with "
                "a strength, and answers with a class that can bind"
            )
    warmup = record.config["lam"]["warmup_updates"]
    moving: pd.DataFrame = record.history[record.history.step > 0].dropna(subset=[SPREAD, HEADROOM])
    settled: pd.DataFrame = moving[moving.step >= max(warmup, first)]
    if len(settled) < _SETTLED:
        raise _too_few(f"the pilot run {record.folder.name} has", len(settled), warmup)
    return moving[moving.step >= warmup / 2], settled


def _too_few(what: str, settled: int, warmup: int) -> ConfigError:
    return ConfigError(
        f"{what} {settled} evaluations after its warm-up of {warmup} updates and needs {_SETTLED}; "
        "raise optim.updates or lower evaluation.every"
    )


def _reached(record: Record) -> int:
    """The update of the first evaluation at the moving fixed point; 0 if none, or not measured."""
    if RESIDUAL not in record.history:
        return 0
    history = record.history.dropna(subset=[LOGIT, RESIDUAL])
    z_N = history[LOGIT].to_numpy(float)
    there = arrived(z_N, z_N - history[RESIDUAL].to_numpy(float))
    return int(history.step.iloc[there.argmax()]) if there.any() else 0


def _speed(record: Record) -> float:
    first, second = record.history.iloc[0], record.history.iloc[1]
    speed = float((second[LOGIT] - first[LOGIT]) / (second.step - first.step))
    # Not a comparison the other way round: a NaN has to be refused too.
    if not speed > 0.0:
        raise ConfigError(
            f"the pilot run {record.folder.name} starts at {speed:g} logits per update; a start "
            "towards the teacher is above 0, lower evaluation.every if it has turned by then"
        )
    return speed
