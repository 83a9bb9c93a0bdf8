"""The clock of plain gradient steps: eta found again in runs that are made with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from opdcliff.errors import ConfigError
from opdcliff.prereg.clock import LENGTH, LOGIT, RESIDUAL, sgd_clock
from opdcliff.prereg.pilot import HEADROOM, SPREAD, pilot_facts
from opdcliff.records.record import Record
from opdcliff.theory.onset import t_interval
from opdcliff.theory.spread import Flow, Population, class_tokens, trajectory
from opdcliff.theory.threshold import fixed_point_logit

P, B, LAM, ROOM = 0.86, 0.46, 1.2, 136


def made(flow: Flow, *, every: int = 5, warmup: int = 0, name: str = "sgd") -> Record:
    """A pilot run of positions that are alike, as its record tells it."""
    z = trajectory(Population(P, B, 2.0, 0.0), flow, LAM, updates=200, warmup_updates=warmup)
    steps = np.arange(0, len(z), every)
    lam_now = 1.0 + (LAM - 1.0) * np.minimum(steps / max(warmup, 1), 1.0) if warmup else LAM
    star = fixed_point_logit(P, B, lam_now)
    rest = flow.rest or 0.0
    history = pd.DataFrame(
        {
            "step": steps,
            LOGIT: z[steps],
            RESIDUAL: z[steps] - star,
            LENGTH: [rest + class_tokens(float(at), ROOM) for at in z[steps]],
            SPREAD: 0.03,
            HEADROOM: star - z[steps] + 0.4,
        }
    )
    config = {
        "rollout": {"max_new_tokens": ROOM},
        "lam": {"warmup_updates": warmup},
        "optim": {"name": name},
    }
    return Record(Path("a"), {"status": "finished", "identity": "1"}, config, history)


@pytest.mark.parametrize(
    ("eta", "rest", "warmup"), [(3.4, 13.6, 0), (1.0, 0.0, 0), (2.0, 14.0, 60)]
)
def test_eta_and_the_other_tokens_are_found_again(eta: float, rest: float, warmup: int) -> None:
    clock = sgd_clock(made(Flow(eta=eta, rest=rest, room=ROOM), warmup=warmup))
    found = clock.flow
    assert 15 <= clock.arrived <= 100
    assert found.eta == pytest.approx(eta, rel=0.01)
    assert found.rest == pytest.approx(rest, abs=1e-6)
    assert found.room == ROOM


def test_a_run_that_is_there_at_once_has_no_clock() -> None:
    with pytest.raises(ConfigError) as caught:
        sgd_clock(made(Flow(eta=60.0, rest=13.6, room=ROOM)))
    assert "the pilot run a has 1 evaluations before it is at its fixed point" in str(caught.value)
    # Nor has one that never arrives.
    with pytest.raises(ConfigError, match=r"raise optim\.updates"):
        sgd_clock(made(Flow(eta=0.01, rest=13.6, room=ROOM)))


def test_the_facts_of_a_pilot_hold_the_clock_of_plain_steps_alone() -> None:
    runs = [made(Flow(eta=eta, rest=13.6, room=ROOM)) for eta in (3.0, 4.0)]
    facts = pilot_facts(runs)
    assert (facts.eta_lo, facts.eta_hi) == pytest.approx((3.0, 4.0), rel=0.01)
    assert facts.rest == pytest.approx(13.6)
    many = pilot_facts([made(Flow(eta=eta, rest=13.6, room=ROOM)) for eta in (3.0, 3.2, 3.4, 3.8)])
    low, high = t_interval(np.log([3.0, 3.2, 3.4, 3.8]).tolist())
    assert (many.eta_lo, many.eta_hi) == pytest.approx((np.exp(low), np.exp(high)), rel=0.01)
    # The way to the fixed point is no wobble.
    assert facts.wobble < 0.05
    adam = pilot_facts([made(Flow(eta=3.0, rest=13.6, room=ROOM), name="adamw")])
    assert (adam.eta_lo, adam.eta_hi, adam.rest) == (None, None, None)
    assert "eta_lo" not in adam.as_dict()
