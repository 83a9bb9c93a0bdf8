"""The clock of plain gradient steps: how far an update moves logit q, measured on a pilot.

    dz/dn = eta share(z) w(z) (z*(n) - z)

below the cliff, z* as the run recorded it; eta is what brings this closest to the recorded logits.
Source: docs/theory.md, points 9 and 21 [D].
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from opdcliff.errors import ConfigError
from opdcliff.records import Record
from opdcliff.theory import Flow, class_tokens

LOGIT, RESIDUAL, LENGTH = "train/modal_logit", "train/residual_mean", "eval/mean_length"
# Evaluations before the arrival that a fit needs, and the share of the way that counts as one.
_FEWEST, _ARRIVED = 3, 0.95
_RATES = (1e-3, 1e3)

_Array = NDArray[np.float64]


@dataclass(frozen=True)
class Clock:
    """The flow that a run followed, with eta, and the update at which it had arrived."""

    flow: Flow
    arrived: int


def arrived(z_N: _Array, star_N: _Array) -> NDArray[np.bool_]:
    """Whether each evaluation has gone nearly all of the way from the first to its fixed point."""
    there: NDArray[np.bool_] = (z_N - z_N[0]) / (star_N - z_N[0]) > _ARRIVED
    return there


def sgd_clock(record: Record) -> Clock:
    """The clock of a pilot run by plain gradient steps.

    Raises:
        ConfigError: it has not moved most of the way to its fixed point within some evaluations.
    """
    history = record.history.dropna(subset=[LOGIT, RESIDUAL, LENGTH])
    steps, z_N = history.step.to_numpy(int), history[LOGIT].to_numpy(float)
    star_N = z_N - history[RESIDUAL].to_numpy(float)
    room = int(record.config["rollout"]["max_new_tokens"])
    text_N = [class_tokens(float(z), room) for z in z_N]
    rest = max(0.0, float(np.median(history[LENGTH].to_numpy(float) - text_N)))
    count = int(arrived(z_N, star_N).argmax())
    if count < _FEWEST:
        raise ConfigError(
            f"the pilot run {record.folder.name} has {count} evaluations before it is at its fixed "
            f"point and needs {_FEWEST} for the clock of its steps; lower evaluation.every or "
            "optim.lr, or raise optim.updates"
        )
    seen = steps[: count + 1]

    def squares(log_eta: float) -> float:
        flow = Flow(eta=float(np.exp(log_eta)), rest=rest, room=room)
        path = _path(flow, float(z_N[0]), star_N, steps, int(seen[-1]))
        return float(np.square(path[seen] - z_N[: count + 1]).sum())

    ends = np.log(_RATES)
    found = optimize.minimize_scalar(squares, bounds=(ends[0], ends[1]), method="bounded")
    return Clock(Flow(eta=float(np.exp(found.x)), rest=rest, room=room), int(seen[-1]))


def _path(flow: Flow, start: float, star_N: _Array, steps: NDArray[np.int_], last: int) -> _Array:
    """Logit after 0, 1, ... updates, z* between evaluations on a line."""
    path = [start]
    for star in np.interp(np.arange(last), steps, star_N).tolist():
        path.append(flow.advanced(path[-1], partial(operator.sub, star)))
    return np.array(path)
