"""Positions that differ: against the closed form, the flow, and gradients from first principles."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import special, stats

from opdcliff.errors import TheoryDomainError
from opdcliff.theory import budget_flow, threshold
from opdcliff.theory.spread import (
    Flow,
    Population,
    class_tokens,
    end_of_room,
    onset_on_budget,
    trajectory,
)

P, B, C = 0.876, 0.476, 5.0
STAR = threshold.lambda_star(P, B, C)
Z_C = threshold.clip_safe_logit(P, C)
START = threshold.logit(B)
# The share of texts that still close is halved there, at the room of the mini protocol.
Z_END = end_of_room(136, 0.5)


def alike() -> Population:
    return Population(P, B, C, 0.0)


# ---- the threshold ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("p", "b", "c"), [(P, B, C), (P, B, 2.0), (0.9993, 0.5, 5.0), (0.99, 0.9, 10.0)]
)
def test_positions_that_are_alike_have_the_threshold_of_one(p: float, b: float, c: float) -> None:
    population = Population(p, b, c, 0.0)
    assert population.critical_lambda() == threshold.lambda_star(p, b, c) == population.lambda_star


@pytest.mark.parametrize(("p", "b", "c"), [(P, B, C), (P, B, 2.0), (0.99, 0.5, 5.0)])
def test_the_threshold_falls_with_the_spread(p: float, b: float, c: float) -> None:
    spreads = (0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4)
    found = [Population(p, b, c, spread).critical_lambda() for spread in spreads]
    assert all(wider < narrower for narrower, wider in itertools.pairwise(found))
    # To the resolution of the search it starts at lambda* itself.
    assert found[1] == pytest.approx(threshold.lambda_star(p, b, c), rel=0.01)


@pytest.mark.parametrize("spread", [0.02, 0.03, 0.04, 0.05])
@pytest.mark.parametrize(("p", "b", "c"), [(P, B, C), (0.95, 0.46, 5.0), (0.98, 0.6, 10.0)])
def test_the_margin_is_that_of_the_last_rest_point(
    p: float, b: float, c: float, spread: float
) -> None:
    population = Population(p, b, c, spread)
    short = population.lambda_star - population.critical_lambda()
    gain = threshold.logit(p) - threshold.logit(b)
    # The search for the critical lambda is low by up to .005 logits of its grid.
    assert population.margin() == pytest.approx(short * gain, rel=0.1)


def test_the_margin_goes_to_zero_with_the_spread_and_is_known_for_small_ones_alone() -> None:
    margins = [Population(P, B, C, spread).margin() for spread in (0.0, 1e-6, 1e-4, 1e-2)]
    assert margins == sorted(margins)
    assert (margins[0], margins[1]) == (0.0, pytest.approx(0.0, abs=1e-5))
    with pytest.raises(TheoryDomainError, match="not small beside the force"):
        Population(P, B, C, 0.3).margin()


def policy_gradient(
    z: float, offsets: NDArray[np.float64], p: float, b: float, c: float, lam: float
) -> float:
    """Expected gradient on the shared logit of the hard-clipped objective, two tokens each.

    sum_a pi_S(a) [pi_T(a)/pi_S(a) <= c] A(a) d log pi_S(a)/dZ, its mean over positions.
    """
    gradient = np.zeros_like(offsets)
    modal = 1.0 / (1.0 + np.exp(-(z + offsets)))
    for student, teacher, base, slope in (
        (modal, p, b, 1.0 - modal),
        (1.0 - modal, 1.0 - p, 1.0 - b, -modal),
    ):
        advantage = lam * np.log(teacher) - np.log(student) - (lam - 1.0) * np.log(base)
        gradient += np.where(teacher / student <= c, student * advantage * slope, 0.0)
    return float(gradient.mean())


@pytest.mark.parametrize(("p", "b", "c", "lam"), [(P, B, C, 1.7), (0.7, 0.3, 2.0, 1.2)])
@pytest.mark.parametrize("spread", [0.0, 0.1, 0.5])
def test_the_force_is_the_gradient_in_units_of_its_weight(
    p: float, b: float, c: float, lam: float, spread: float
) -> None:
    offsets = spread * stats.norm.ppf((np.arange(400) + 0.5) / 400)
    # Not so far below that the modal token were clipped, which the theory leaves out.
    around = threshold.clip_safe_logit(p, c) + np.array([-0.5, -0.1, 0.1, 1.0, 4.0])
    forces = Population(p, b, c, spread).force(around, lam)
    for z, force in zip(around, forces, strict=True):
        modal = special.expit(z + offsets)
        weight = np.mean(modal * (1.0 - modal))
        assert force * weight == pytest.approx(policy_gradient(z, offsets, p, b, c, lam), rel=1e-9)


@pytest.mark.parametrize(
    ("p", "b", "c", "spread"), [(P, B, C, 0.05), (P, B, C, 0.3), (0.86, 0.48, 2.0, 0.05)]
)
def test_plain_gradient_steps_rest_below_the_threshold_and_run_away_above_it(
    p: float, b: float, c: float, spread: float
) -> None:
    offsets = np.random.default_rng(7).normal(0.0, spread, 2_000)
    critical = Population(p, b, c, spread).critical_lambda()
    # So far below the threshold of one position that positions which are alike would rest.
    assert 1.01 * critical < threshold.lambda_star(p, b, c)
    ends, boundary = {}, threshold.clip_safe_logit(p, c)
    for factor in (0.99, 1.01):
        z = threshold.logit(b)
        for _ in range(1_500):
            step = policy_gradient(z, offsets, p, b, c, factor * critical)
            z += 2.0 * step
        ends[factor] = z, step
    z, step = ends[0.99]
    assert z < boundary
    assert abs(step) < 1e-9
    z, step = ends[1.01]
    assert z > boundary + 1.0
    assert step > 1e-5


# ---- the flow ---------------------------------------------------------------------------------


def test_gradient_steps_leave_when_the_integral_says_so() -> None:
    path = trajectory(
        alike(), Flow(eta=0.05), 1.02 * STAR, updates=2200, warmup_updates=0, z_end=Z_C
    )
    assert len(path) - 1 == pytest.approx(1928, abs=1)
    exact = budget_flow.updates_to_exit(P, B, C, 1.02 * STAR, 0.05)
    assert len(path) - 1 == pytest.approx(exact, abs=1)
    assert path[0] == START
    assert path[-2] < Z_C <= path[-1]


@pytest.mark.parametrize("updates", [60, 250])
def test_gradient_steps_have_the_onset_of_the_inverted_integral(updates: int) -> None:
    found = onset_on_budget(alike(), Flow(eta=0.2), updates=updates, warmup_updates=0, z_end=Z_C)
    exact = budget_flow.lambda_for_budget(P, B, C, 0.2, updates)
    assert found == pytest.approx(exact, rel=5e-3)


@pytest.mark.parametrize(
    ("flow", "warmup", "budgets"),
    # A constant speed loses no time at a bottleneck, only in waiting for lambda.
    [(Flow(eta=4.0), 20, (40, 60, 120, 300)), (Flow(speed=0.06), 100, (60, 110, 150))],
    ids=["eta", "speed"],
)
def test_the_onset_falls_to_the_threshold_as_the_budget_grows(
    flow: Flow, warmup: int, budgets: tuple[int, ...]
) -> None:
    population = Population(P, B, C, 0.05)
    critical = population.critical_lambda()
    onsets = [
        onset_on_budget(population, flow, updates=updates, warmup_updates=warmup, z_end=Z_END)
        for updates in budgets
    ]
    assert onsets[0] == math.inf
    assert all(later < sooner for sooner, later in itertools.pairwise(onsets))
    # A step of finite size gets over the last remains of a rest point.
    assert min(onsets) > critical - 0.002
    assert onsets[-1] == pytest.approx(critical, abs=0.005)


def test_a_shorter_way_to_the_end_needs_less() -> None:
    near, far = (
        onset_on_budget(
            Population(P, B, C, 0.05), Flow(eta=2.0), updates=100, warmup_updates=0, z_end=z_end
        )
        for z_end in (Z_C, Z_END)
    )
    assert near < far


def test_lambda_warms_up_from_one() -> None:
    def first(lam: float, warmup: int, updates: int = 1) -> list[float]:
        flow = Flow(eta=0.5)
        return list(trajectory(alike(), flow, lam, updates=updates, warmup_updates=warmup))

    assert first(2.0, 10) == first(1.0, 0) != first(2.0, 0)
    # Half-way up after half of the warm-up.
    halfway = first(2.0, 2, 2)
    again = Population(P, B, C, 0.0).force(np.array([halfway[1]]), 1.5)[0]
    weight = threshold.sigmoid(halfway[1]) * threshold.sigmoid(-halfway[1])
    assert halfway[2] - halfway[1] == pytest.approx(0.5 * weight * again, rel=0.1)
    plain, warmed = (
        onset_on_budget(alike(), Flow(eta=1.0), updates=100, warmup_updates=warmup, z_end=Z_C)
        for warmup in (0, 60)
    )
    assert plain < warmed


@pytest.mark.parametrize("factor", [0.7, 0.8, 0.85, 0.9])
def test_a_constant_speed_is_kept_up_to_the_rest_point(factor: float) -> None:
    speed, lam = 0.1, factor * STAR
    path = trajectory(alike(), Flow(speed=speed), lam, updates=60, warmup_updates=0)
    rest = threshold.fixed_point_logit(P, B, lam)
    under_way = path[path < rest - speed]
    assert np.diff(under_way) == pytest.approx(speed)
    # It stays before the rest point, closer than the part of an update that steps are taken in.
    assert path[-1] == path[-10]
    assert rest - speed / 4 <= path.max() <= rest


def test_a_path_ends_with_the_budget_or_beyond_the_end() -> None:
    whole = trajectory(alike(), Flow(speed=0.1), 3.0, updates=30, warmup_updates=0)
    assert whole == pytest.approx(START + 0.1 * np.arange(31))
    cut = trajectory(alike(), Flow(speed=0.1), 3.0, updates=30, warmup_updates=0, z_end=1.0)
    assert cut[-2] < 1.0 <= cut[-1]
    assert cut == pytest.approx(whole[: len(cut)])


@pytest.mark.parametrize(("room", "level"), [(1, 0.3), (136, 0.5), (136, 0.526), (4096, 0.05)])
def test_at_the_end_of_the_room_that_share_of_texts_still_closes(room: int, level: float) -> None:
    q = threshold.sigmoid(end_of_room(room, level))
    assert 1.0 - q**room == pytest.approx(level)


# ---- domains ----------------------------------------------------------------------------------


def onset(updates: int) -> float:
    return onset_on_budget(alike(), Flow(eta=1.0), updates=updates, warmup_updates=0, z_end=Z_C)


# ---- the share of tokens ----------------------------------------------------------------------


@pytest.mark.parametrize("q", [0.1, 0.5, 0.9, 0.999])
def test_the_tokens_of_a_class_are_the_mean_of_its_lengths(q: float) -> None:
    room = 50
    # A text of n tokens has ended at its n-th place, or been cut at the last one.
    by_hand = sum(n * (1 - q) * q ** (n - 1) for n in range(1, room)) + room * q ** (room - 1)
    assert class_tokens(threshold.logit(q), room) == pytest.approx(by_hand, rel=1e-12)


def test_the_share_goes_from_that_of_one_token_to_that_of_a_full_room() -> None:
    flow = Flow(eta=1.0, rest=14.0, room=136)
    assert flow.share(-40.0) == pytest.approx(1 / 15)
    assert flow.share(40.0) == pytest.approx(136 / 150)
    assert Flow(eta=1.0).share(0.0) == 1.0
    assert Flow(eta=1.0, rest=0.0, room=136).share(0.0) == 1.0


def test_a_share_slows_the_clock_where_answers_are_short() -> None:
    options = {"updates": 60, "warmup_updates": 0}
    plain = trajectory(alike(), Flow(eta=0.05), 1.2, **options)
    sharing = Flow(eta=0.05, rest=14.0, room=136)
    shared = trajectory(alike(), sharing, 1.2, **options)
    share = sharing.share(float(plain[0]))
    assert shared[1] - shared[0] == pytest.approx(share * (plain[1] - plain[0]), rel=0.02)
    assert (shared[1:] < plain[1:]).all()


BAD: list[tuple[Callable[[], object], str]] = [
    (Flow, "give one of them"),
    (lambda: Flow(eta=0.1, speed=0.1), "give one of them"),
    (lambda: Flow(eta=0.0), "eta = 0.0"),
    (lambda: Flow(eta=math.nan), "eta = nan"),
    (lambda: Flow(speed=-0.1), "speed = -0.1"),
    (lambda: Flow(speed=math.inf), "speed = inf"),
    (lambda: Flow(eta=1.0, rest=14.0), "give both, rest at least 0, or none"),
    (lambda: Flow(eta=1.0, rest=-1.0, room=136), "rest = -1.0, room = 136"),
    (lambda: Flow(eta=1.0, rest=math.nan, room=136), "rest = nan"),
    (lambda: Population(P, B, C, -0.1), "spread = -0.1"),
    (lambda: Population(P, B, C, math.nan), "spread = nan"),
    (lambda: Population(P, B, C, math.inf), "spread = inf"),
    (lambda: Population(B, P, C, 0.1), "p = 0.476 <= b = 0.876"),
    (lambda: Population(P, P, C, 0.1), "no threshold to move"),
    (lambda: Population(1.0, B, C, 0.1), "p = 1.0"),
    (lambda: Population(P, 0.0, C, 0.1), "b = 0.0"),
    (lambda: Population(P, B, 1.0, 0.1), "c = 1.0"),
    (lambda: Population(P, B, C, 9.0).critical_lambda(), "no rest point even at lambda = 1"),
    (lambda: onset(0), "updates = 0"),
    (lambda: end_of_room(0, 0.5), "room = 0"),
    (lambda: end_of_room(136, 0.0), "level = 0.0"),
    (lambda: end_of_room(136, 1.0), "level = 1.0"),
    (lambda: end_of_room(136, math.nan), "level = nan"),
]


@pytest.mark.parametrize(("call", "words"), BAD, ids=[words for _, words in BAD])
def test_values_outside_the_domain_are_refused(call: Callable[[], object], words: str) -> None:
    with pytest.raises(TheoryDomainError) as caught:
        call()
    assert words in str(caught.value)
