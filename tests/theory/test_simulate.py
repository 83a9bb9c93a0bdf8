"""The tabular loop against the flow, the fixed points and the cliff of the theory."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from opdcliff.errors import ConfigError, TheoryDomainError
from opdcliff.theory import budget_flow, simulate, threshold
from opdcliff.theory.simulate import Rule, SimulatedPosition, Trajectory, even_position

P, B, C, ETA = 0.9, 0.5, 5.0, 1.0
STAR = threshold.lambda_star(P, B, C)


def loop(
    factor: float, rule: Rule = "mask", updates: int = 3000, eta: float = ETA, **settings
) -> Trajectory:
    """The loop at (P, B) with lam = factor * lambda*."""
    position = even_position(P, B)
    return simulate.simulate_position(
        position, lam=factor * STAR, c=C, eta=eta, updates=updates, rule=rule, **settings
    )


@pytest.mark.parametrize(("n_modal", "n_tail"), [(1, 1), (2, 3)])
def test_unclipped_loop_is_ascent_on_one_logit(n_modal: int, n_tail: int) -> None:
    run = simulate.simulate_position(
        even_position(P, B, n_modal, n_tail), lam=1.4, c=C, eta=ETA, updates=300, rule="none"
    )
    z, z_star = threshold.logit(B), threshold.fixed_point_logit(P, B, 1.4)
    for n in range(301):
        assert run.z[n] == pytest.approx(z, abs=1e-9)
        q = threshold.sigmoid(z)
        assert run.q[n] == pytest.approx(q, abs=1e-9)
        z += ETA * q * (1 - q) * (z_star - z)


def test_step_on_two_free_logits_is_halved() -> None:
    assert simulate.class_step(0.3, even_position(P, B)) == pytest.approx(0.15)
    assert simulate.class_step(0.3, even_position(P, B, 2, 4)) == pytest.approx(0.4)


def test_reference_run_of_the_finite_budget() -> None:
    lam = 1.02 * threshold.lambda_star(0.876, 0.476, C)
    run = simulate.simulate_position(
        even_position(0.876, 0.476), lam=lam, c=C, eta=0.05, updates=2200
    )
    assert run.crossed_at == pytest.approx(1926, abs=2)
    predicted = budget_flow.updates_to_exit(0.876, 0.476, C, lam, 0.05)
    assert run.crossed_at == pytest.approx(predicted, rel=0.01)


@pytest.mark.parametrize(
    ("p", "b", "c", "factor", "eta"),
    [
        (0.9, 0.5, 5.0, 1.01, 0.1),
        (0.9, 0.5, 5.0, 1.3, 0.05),
        (0.9, 0.5, 2.0, 1.05, 0.1),
        (0.95, 0.6, 3.0, 1.05, 0.2),
        (0.99, 0.9, 5.0, 1.1, 0.5),
        (0.9993, 0.5, 5.0, 1.1, 2.0),
    ],
)
def test_crossing_matches_the_integral(
    p: float, b: float, c: float, factor: float, eta: float
) -> None:
    lam = factor * threshold.lambda_star(p, b, c)
    predicted = budget_flow.updates_to_exit(p, b, c, lam, eta)
    run = simulate.simulate_position(
        even_position(p, b), lam=lam, c=c, eta=eta, updates=int(1.05 * predicted) + 5
    )
    assert run.crossed_at == pytest.approx(predicted, rel=0.01)
    assert run.z[run.crossed_at - 1] <= run.z_c < run.z[run.crossed_at]


@pytest.mark.parametrize("factor", [0.9, 0.98, 0.999])
def test_mask_is_stable_below_the_cliff(factor: float) -> None:
    run = loop(factor, updates=5000)
    assert run.crossed_at is None
    assert run.z[-1] == pytest.approx(threshold.fixed_point_logit(P, B, factor * STAR), abs=1e-6)
    assert run.clip_fraction.max() == 0.0
    assert run.tail_ratio.max() < C


@pytest.mark.parametrize("factor", [1.01, 1.05])
def test_mask_runs_away_above_the_cliff(factor: float) -> None:
    run = loop(factor)
    assert run.crossed_at is not None
    after = run.z[run.crossed_at :]
    assert np.all(np.diff(after) > 0.0)
    assert after[-1] > threshold.fixed_point_logit(P, B, factor * STAR) + 2.0
    assert run.tail_ratio[-1] > 8.0 * C
    assert np.all(run.clip_fraction[: run.crossed_at] == 0.0)
    np.testing.assert_allclose(
        run.clip_fraction[run.crossed_at :], 1.0 - run.q[run.crossed_at : -1], rtol=1e-9
    )


def test_mask_ends_at_the_masked_fixed_point_when_c_is_near_1() -> None:
    lam = 1.02 * threshold.lambda_star(P, B, 1.1)
    run = simulate.simulate_position(even_position(P, B), lam=lam, c=1.1, eta=ETA, updates=4000)
    end = threshold.masked_fixed_point(P, B, lam)
    assert threshold.sigmoid(run.z_c) < threshold.fixed_point(P, B, lam) < end < 1.0
    assert run.q[-1] == pytest.approx(end, abs=1e-6)


def test_truncate_moves_the_cliff_up() -> None:
    held, lost = loop(1.05, "truncate"), loop(1.2, "truncate")
    masked = loop(1.05, "mask")
    # it settles: past z_c and past the fixed point, but it no longer moves
    assert held.z[-1] - held.z[-1000] < 1e-3
    assert held.z[-1] < masked.z[-1] - 1.5
    assert held.tail_ratio[-1] < 2.0 * C
    assert lost.z[-1] - lost.z[-1000] > 0.1
    assert lost.z[-1] > threshold.fixed_point_logit(P, B, 1.2 * STAR) + 1.0


def test_truncate_keeps_the_cliff_where_the_normaliser_is_large() -> None:
    p, b, c = 0.6, 0.001, 50.0
    lam = threshold.lambda_star(p, b, c)
    log_z = np.log(p**lam * b ** (1 - lam) + (1 - p) ** lam * (1 - b) ** (1 - lam))
    assert threshold.fixed_point(p, b, lam) * log_z > 1.0
    near = simulate.simulate_position(
        even_position(p, b), lam=1.01 * lam, c=c, eta=2.0, updates=5000, rule="truncate"
    )
    assert near.crossed_at is not None
    assert near.z[-1] > threshold.fixed_point_logit(p, b, 1.01 * lam) + 1.0


@pytest.mark.parametrize("factor", [0.98, 1.05, 1.2])
def test_no_clip_has_no_cliff(factor: float) -> None:
    run = loop(factor, "none", updates=3000)
    assert run.z[-1] == pytest.approx(threshold.fixed_point_logit(P, B, factor * STAR), abs=1e-4)
    assert run.clip_fraction.max() == 0.0


def test_modal_clipping_slows_a_start_far_below_the_teacher() -> None:
    p, b, c = 0.9, 0.2, 2.0
    lam = 1.1 * threshold.lambda_star(p, b, c)
    run = simulate.simulate_position(even_position(p, b), lam=lam, c=c, eta=0.1, updates=2000)
    assert run.clip_fraction[0] == pytest.approx(b)
    assert run.crossed_at > 1.01 * budget_flow.updates_to_exit(p, b, c, lam, 0.1)


def test_sampled_estimator_agrees_with_expected_below_the_cliff() -> None:
    expected = loop(0.9, updates=500, eta=0.3)
    runs = [
        loop(0.9, updates=500, eta=0.3, estimator="sampled", batch=2000, seed=seed)
        for seed in range(12)
    ]
    final = np.array([run.z[-1] for run in runs])
    early = np.array([run.z[60] for run in runs])
    assert final.mean() == pytest.approx(expected.z[-1], abs=0.05)
    assert early.mean() == pytest.approx(expected.z[60], abs=0.05)
    assert 0.0 < final.std() < 0.3
    assert all(run.crossed_at is None for run in runs)


def test_noise_crosses_below_the_cliff_and_smaller_steps_do_not() -> None:
    noisy = [
        simulate.simulate_position(
            even_position(P, B),
            lam=0.97 * STAR,
            c=C,
            eta=eta,
            updates=updates,
            estimator="sampled",
            batch=16,
            seed=1,
        ).crossed_at
        for eta, updates in ((1.0, 1000), (0.01, 6000))
    ]
    assert noisy[0] is not None
    assert noisy[1] is None


def test_sampled_runs_repeat_by_seed() -> None:
    first, again, other = (
        loop(0.9, updates=50, estimator="sampled", batch=8, seed=seed) for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first.z, again.z)
    assert not np.array_equal(first.z, other.z)


def test_warmup_raises_lambda_linearly_from_1() -> None:
    run = loop(1.3, updates=300, warmup_updates=100)
    lam = 1.3 * STAR
    assert run.lam[0] == 1.0
    assert run.lam[50] == pytest.approx(1.0 + (lam - 1.0) / 2.0)
    np.testing.assert_allclose(np.diff(run.lam[:101]), (lam - 1.0) / 100.0)
    assert np.all(run.lam[100:] == lam)
    plain = loop(1.3, updates=300)
    assert np.all(plain.lam == lam)
    assert plain.crossed_at < run.crossed_at


def test_trajectory_shapes_and_freezing() -> None:
    run = loop(1.0, updates=7)
    assert (run.z.size, run.q.size, run.tail_ratio.size) == (8, 8, 8)
    assert (run.lam.size, run.clip_fraction.size) == (7, 7)
    assert run.q[0] == pytest.approx(B)
    assert run.z_c == threshold.clip_safe_logit(P, C)
    np.testing.assert_allclose(run.tail_ratio, (1 - P) / (1 - run.q))
    with pytest.raises(dataclasses.FrozenInstanceError):
        run.p = 0.5


def test_position_masses() -> None:
    position = SimulatedPosition(
        np.array([0.5, 0.4, 0.06, 0.04]), np.array([0.2, 0.3, 0.4, 0.1]), 2
    )
    assert (position.p, position.b) == (pytest.approx(0.9), pytest.approx(0.5))
    run = simulate.simulate_position(position, lam=1.5, c=C, eta=ETA, updates=3000, rule="none")
    target = position.teacher**1.5 * position.base**-0.5
    assert run.q[-1] == pytest.approx(target[:2].sum() / target.sum(), abs=1e-4)


@pytest.mark.parametrize(
    ("teacher", "base", "n_modal", "words"),
    [
        ([0.9, 0.1], [0.5, 0.3, 0.2], 1, "shapes"),
        ([0.9, 0.1], [0.5, 0.5], 2, "n_modal = 2"),
        ([0.9, 0.1], [0.5, 0.5], 0, "n_modal = 0"),
        ([1.0, 0.0], [0.5, 0.5], 1, "teacher = .*positive"),
        ([0.9, 0.1], [0.5, 0.6], 1, "base = .*sum to 1"),
        ([0.9, float("nan")], [0.5, 0.5], 1, "teacher = "),
    ],
)
def test_impossible_positions_are_refused(teacher, base, n_modal: int, words: str) -> None:
    with pytest.raises(TheoryDomainError, match=words):
        SimulatedPosition(np.array(teacher), np.array(base), n_modal)


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"rule": "hard"}, ConfigError, "rule = 'hard'"),
        ({"estimator": "exact"}, ConfigError, "estimator = 'exact'"),
        ({"updates": 0}, ConfigError, "updates = 0"),
        ({"batch": 0}, ConfigError, "batch = 0"),
        ({"warmup_updates": -1}, ConfigError, "warmup_updates = -1"),
        ({"c": 1.0}, TheoryDomainError, "c = 1.0"),
        ({"lam": -1.0}, TheoryDomainError, "lam = -1.0"),
        ({"eta": 0.0}, TheoryDomainError, "eta = 0.0"),
    ],
)
def test_impossible_settings_are_refused(changed, error, words: str) -> None:
    settings = {"lam": 1.2, "c": 5.0, "eta": 0.1, "updates": 3} | changed
    with pytest.raises(error, match=words):
        simulate.simulate_position(even_position(P, B), **settings)


def test_impossible_even_positions_are_refused() -> None:
    with pytest.raises(TheoryDomainError, match=r"p = 1\.2 "):
        even_position(1.2, 0.5)
    with pytest.raises(TheoryDomainError, match="n_modal = 0, "):
        even_position(0.9, 0.5, n_modal=0)
    with pytest.raises(TheoryDomainError, match="n_tail = 0: "):
        even_position(0.9, 0.5, n_tail=0)
