"""What a pilot says: the values by hand, and the runs that are not taken."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest

from opdcliff.errors import ConfigError
from opdcliff.prereg.clock import LOGIT, RESIDUAL
from opdcliff.prereg.pilot import (
    HEADROOM,
    SPREAD,
    PilotFacts,
    hold,
    overshoot,
    pilot_facts,
    pilot_rows,
    require_evaluations,
)
from opdcliff.records.record import Record
from opdcliff.settings.checks import load
from opdcliff.settings.compose import compose_one

WARMUP = 40
# Evaluations at 0, 20, ..., 80. What lies before the first update, and for the settled values what
# lies before the end of the warm-up, is far from everything else.
COLUMNS: dict[str, list[float]] = {
    "step": [0, 20, 40, 60, 80],
    "spread": [9.0, 0.05, 0.04, 0.045, 0.06],
    "headroom": [9.0, 5.0, 1.0, 1.2, 1.4],
    "logit": [-0.1, 1.9, 2.5, 2.6, 2.6],
}
METRICS = {"spread": SPREAD, "headroom": HEADROOM, "logit": LOGIT, "residual": RESIDUAL}


def run(name: str = "a", status: str = "finished", **changes: list[float]) -> Record:
    manifest = {"status": status, "identity": f"identity of {name}"}
    config = {"lam": {"warmup_updates": WARMUP}, "optim": {}}
    history = pd.DataFrame(COLUMNS | changes).rename(columns=METRICS)
    return Record(Path("runs") / name, manifest, config, history)


def test_the_facts_of_one_run() -> None:
    facts = pilot_facts([run()])
    assert facts == PilotFacts(
        spread_lo=0.04,
        spread_hi=0.06,
        wobble=pytest.approx(0.2),
        speed_lo=pytest.approx(0.1),
        speed_hi=pytest.approx(0.1),
    )


def test_facts_of_several_runs_reach_over_all_of_them() -> None:
    other = run(
        spread=[0.0, 0.07, 0.035, 0.03, 0.03],
        headroom=[0.0, 0.0, 1.0, 1.1, 1.2],
        logit=[0.0, 2.4, 2.4, 2.4, 2.4],
    )
    for order in ([run(), other], [other, run()]):
        facts = pilot_facts(order)
        # The spread when lambda arrives, not the smallest one later.
        assert (facts.spread_lo, facts.spread_hi) == (0.035, 0.07)
        assert facts.wobble == pytest.approx(math.sqrt((0.2**2 + 0.1**2) / 2))
        assert (facts.speed_lo, facts.speed_hi) == pytest.approx((0.1, 0.12))


def test_a_spread_before_half_of_the_warm_up_is_that_of_the_repair() -> None:
    early = {"spread": [9.0, 0.2, 0.04, 0.045, 0.06]}
    assert pilot_facts([run(**early)]).spread_hi == 0.2
    late = {**{k: [*v, v[-1]] for k, v in COLUMNS.items()}, "step": [0, 10, 40, 60, 80, 100]}
    assert (
        pilot_facts([run(**late | {"spread": [9.0, 0.2, 0.04, 0.045, 0.06, 0.05]})]).spread_hi
        == 0.06
    )


def test_the_way_to_the_fixed_point_of_a_plain_start_is_no_wobble() -> None:
    plain = run(
        step=[0, 20, 40, 60, 80, 100],
        spread=[9.0, 0.05, 0.04, 0.045, 0.06, 0.05],
        headroom=[9.0, 5.0, 1.0, 1.2, 1.4, 1.2],
        logit=[-0.1, 1.9, 2.5, 2.6, 2.6, 2.6],
        residual=[-4.0, -2.0, 0.1, -0.1, 0.0, 0.0],
    )
    plain.config["lam"]["warmup_updates"] = 0
    assert pilot_facts([plain]).wobble == pytest.approx(0.4 / math.sqrt(6))
    # One that only ever lags far behind has its warm-up alone.
    plain.history[RESIDUAL] = -2.0
    assert pilot_facts([plain]).wobble > 1.0


def test_the_overshoot_is_the_highest_over_runs_and_no_start() -> None:
    lagging = run(residual=[0.9, -0.5, -0.2, -0.1, -0.1])
    above = run(residual=[0.9, -0.5, 0.2, 0.1, math.nan])
    assert overshoot([lagging]) == (0.0, 0.0)
    assert overshoot([lagging, above]) == overshoot([above, lagging]) == (0.2, 0.2)
    # On arrival, before half of the warm-up: it is told apart.
    early = {**{k: [*v, v[-1]] for k, v in COLUMNS.items()}, "step": [0, 10, 40, 60, 80, 100]}
    early["residual"] = [0.9, 0.5, 0.1, 0.02, math.nan, -0.1]
    assert overshoot([lagging, run(**early)]) == (0.5, 0.1)


def test_evaluations_without_the_binding_class_are_left_out() -> None:
    gap = [9.0, 0.05, math.nan, 0.045, 0.06]
    late = {
        "step": [0, 20, 40, 60, 80, 100],
        "spread": [*gap, 0.05],
        "headroom": [9.0, 5.0, math.nan, 1.2, 1.4, 1.6],
        "logit": [-0.1, 1.9, math.nan, 2.6, 2.6, 2.6],
    }
    facts = pilot_facts([run(**late)])
    assert (facts.spread_lo, facts.spread_hi) == (0.045, 0.06)
    assert facts.wobble == pytest.approx(0.2)


@pytest.mark.parametrize("status", ["collapsed", "diverged", "running"])
def test_a_run_that_did_not_stay_below_the_cliff_is_refused(status: str) -> None:
    with pytest.raises(ConfigError) as caught:
        pilot_facts([run(), run("b", status)])
    assert f"the pilot run b is {status}" in str(caught.value)
    assert "lower its multiple of lambda*" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({name: values[:4] for name, values in COLUMNS.items()}, 2),
        ({"spread": [9.0, 0.05, 0.04, 0.045, math.nan]}, 2),
        ({"headroom": [9.0, 5.0, math.nan, math.nan, math.nan]}, 0),
    ],
)
def test_too_few_evaluations_are_refused(changes: dict[str, list[float]], count: int) -> None:
    with pytest.raises(ConfigError) as caught:
        pilot_facts([run("b", **changes)])
    assert f"the pilot run b has {count} evaluations after its warm-up of 40" in str(caught.value)


@pytest.mark.parametrize(
    ("warmup", "updates", "every", "settled"),
    [(50, 80, 20, 2), (50, 80, 10, 4), (4, 10, 4, 3), (4, 8, 4, 2), (0, 3, 1, 3), (0, 5, 9, 1)],
)
def test_too_few_evaluations_are_refused_before_they_are_made(
    warmup: int, updates: int, every: int, settled: int
) -> None:
    words = [f"optim.updates={updates}", f"evaluation.every={every}"]
    config = load(compose_one([*words, f"lam.warmup_updates={warmup}"]))
    if settled >= 3:
        require_evaluations(config)
        return
    with pytest.raises(ConfigError, match=f"would have {settled} evaluations"):
        require_evaluations(config)


@pytest.mark.parametrize(
    ("logit", "words"),
    [
        ([-0.1, -0.3, 0.0, 0.0, 0.0], "starts at -0.01 logits per update"),
        ([-0.1, -0.1, 0.0, 0.0, 0.0], "starts at 0 logits per update"),
        ([math.nan, 1.9, 2.5, 2.6, 2.6], "starts at nan logits per update"),
    ],
)
def test_a_start_that_is_none_is_refused(logit: list[float], words: str) -> None:
    with pytest.raises(ConfigError, match=f"the pilot run b {words}"):
        pilot_facts([run(), run("b", logit=logit)])


@pytest.mark.parametrize("name", [SPREAD, HEADROOM, LOGIT])
def test_a_run_that_lacks_a_metric_is_refused_by_its_name(name: str) -> None:
    record = run("b")
    record.history.pop(name)
    with pytest.raises(ConfigError, match=f"the pilot run b has not measured {name}"):
        pilot_facts([record])


@pytest.mark.parametrize(
    ("rates", "prompts", "held"),
    [
        ([0.4, 0.9, 0.97, 1.0, 0.97], 64, True),
        ([0.4, 0.9, 0.97, 1.0, 0.8], 64, False),
        # As far apart, and by chance as likely as not.
        ([0.4, 0.9, 0.9, 1.0, 0.8], 10, True),
        ([0.4, 0.5, 0.6, 0.7, 0.8], 64, True),
        ([0.9, 0.5, 0.4, 0.4, 0.4], 64, False),
    ],
)
def test_a_pilot_holds_that_ends_where_it_was_best(
    rates: list[float], prompts: int, held: bool
) -> None:
    columns = {"eval/parse_rate": rates, "eval/prompts": [float(prompts)] * 5}
    good = {"eval/parse_rate": [1.0] * 5, "eval/prompts": [64.0] * 5}
    assert hold([run(**columns)]) == held
    assert hold([run(**good), run(**columns)]) == held


def test_no_runs_say_nothing() -> None:
    with pytest.raises(ConfigError, match=r"give protocol\.predictions\.pilot an arm"):
        pilot_facts([])


def test_the_lock_names_the_runs_and_keeps_plain_values() -> None:
    assert pilot_rows([run(), run("b")]) == [
        {"record": "a", "identity": "identity of a"},
        {"record": "b", "identity": "identity of b"},
    ]
    plain = pilot_facts([run()]).as_dict()
    assert PilotFacts(**plain) == pilot_facts([run()])
    assert {type(value) for value in plain.values()} == {float}
