"""Settled students at one position: against the closed form, and against the flow to its rest."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import logsumexp

from opdcliff.errors import ConfigError
from opdcliff.preview.settled import settled
from opdcliff.theory import threshold
from opdcliff.theory.clip_rules import ClipRule

Array = NDArray[np.float64]
P, B = 0.86, 0.46
CLIPPED = (ClipRule.MASK, ClipRule.TRUNCATE, ClipRule.TWO_SIDED)


def rest(
    teacher: Array,
    base: Array,
    lam: float,
    c: float,
    rule: ClipRule,
    margin: float = 0.0,
    rare: float = 0.0,
) -> tuple[Array, list[bool]]:
    with np.errstate(divide="ignore"):
        logs = [torch.from_numpy(np.log(x))[None] for x in (teacher, base)]
    one = torch.ones(1, 1, dtype=torch.float64)
    options = {"rule": rule, "strength_R1": c * one, "margin": margin, "rare": rare}
    found, gone = settled(*logs, lam * one, **options)
    return found[0].exp().numpy(), gone[0].tolist()


def flow(teacher: Array, base: Array, lam: float, c: float, rule: ClipRule) -> Array:
    """The natural gradient flow of all entries from the base, lambda rising slowly, to its rest.

    It has the rest points of the plain gradient, and reaches them without slowing down.
    """
    log_t, log_b, log_c = np.log(teacher), np.log(base), math.log(c)
    logits = log_b.copy()
    for step in range(3000):
        logp = logits - logsumexp(logits)
        now = 1.0 + (lam - 1.0) * min(1.0, step / 1000)
        ratio = log_t - logp
        weight = {
            ClipRule.NONE: np.ones_like(ratio),
            ClipRule.MASK: np.where(ratio <= log_c, 1.0, 0.0),
            ClipRule.TWO_SIDED: np.where(np.abs(ratio) <= log_c, 1.0, 0.0),
            ClipRule.TRUNCATE: np.minimum(1.0, np.exp(log_c - ratio)),
        }[rule]
        push = weight * (now * log_t - logp - (now - 1.0) * log_b)
        logits = logits + 0.05 * (push - (np.exp(logp) * push).sum())
    return np.asarray(np.exp(logits - logsumexp(logits)))


@pytest.mark.parametrize("rule", [ClipRule.NONE, ClipRule.MASK, ClipRule.TRUNCATE])
@pytest.mark.parametrize("seed", range(6))
def test_it_is_where_the_flow_comes_to_rest(rule: ClipRule, seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = int(rng.integers(2, 6))
    teacher = rng.dirichlet(np.ones(size))
    # A start within the clip: no entry begins beyond it.
    base = 0.5 * teacher + 0.5 * rng.dirichlet(np.ones(size))
    lam, c = float(rng.uniform(1.2, 3.0)), float(rng.choice([2.1, 3.0, 5.0]))
    found, gone = rest(teacher, base, lam, c, rule)
    seen = flow(teacher, base, lam, c, rule)
    # What is gone fades without end.
    kept = ~np.array(gone)
    np.testing.assert_allclose(found[kept], seen[kept], atol=1e-6 if kept.all() else 2e-3)
    assert (seen[~kept] < 2e-2).all()


def test_two_sided_holds_an_entry_at_the_lower_bound() -> None:
    teacher, base = np.array([0.6, 0.3, 0.1]), np.array([0.45, 0.35, 0.2])
    found, gone = rest(teacher, base, 2.6, 1.5, ClipRule.TWO_SIDED)
    seen = flow(teacher, base, 2.6, 1.5, ClipRule.TWO_SIDED)
    alone, _ = rest(teacher, base, 2.6, 1.5, ClipRule.MASK)
    assert alone[0] > 1.5 * teacher[0]
    assert gone == [False, True, True]
    assert found[0] == pytest.approx(1.5 * teacher[0])
    assert seen[0] == pytest.approx(found[0], abs=1e-3)
    assert found.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("c", [2.0, 5.0])
def test_a_tail_is_gone_past_the_closed_form_and_not_before(c: float) -> None:
    star = threshold.lambda_star(P, B, c)
    teacher, base = np.array([P, 1 - P]), np.array([B, 1 - B])
    below, gone = rest(teacher, base, star - 1e-6, c, ClipRule.MASK)
    assert gone == [False, False]
    z = threshold.fixed_point_logit(P, B, star - 1e-6)
    assert below[0] == pytest.approx(threshold.sigmoid(z), rel=1e-9)
    above, gone = rest(teacher, base, star + 1e-6, c, ClipRule.MASK)
    assert gone == [False, True]
    assert above[0] == pytest.approx(1.0)
    # A margin of m logits moves that by m over the gain.
    gain = threshold.logit(P) - threshold.logit(B)
    for shift, expected in ((-1e-3, False), (1e-3, True)):
        _, gone = rest(teacher, base, star - 0.1 / gain + shift, c, ClipRule.MASK, margin=0.1)
        assert gone[1] is expected or abs(shift) * gain < 0.02


def test_a_clip_near_one_leaves_a_rest_behind_it() -> None:
    """Point 17: the modal entry alone has less than all of the mass."""
    teacher, base, lam, c = np.array([0.6, 0.4]), np.array([0.55, 0.45]), 1.6, 1.01
    found, gone = rest(teacher, base, lam, c, ClipRule.MASK)
    assert gone == [False, True]
    held = 0.6**lam * 0.55 ** (1 - lam)
    assert held < 1.0
    assert found[0] == pytest.approx(held)
    assert found.sum() == pytest.approx(1.0)


def test_without_extrapolation_it_is_the_teacher() -> None:
    teacher, base = np.array([0.7, 0.2, 0.1, 0.0]), np.array([0.1, 0.2, 0.0, 0.7])
    for rule in (ClipRule.NONE, ClipRule.MASK):
        found, gone = rest(teacher, base, 1.0, 2.0, rule)
        np.testing.assert_allclose(found, teacher, atol=1e-15)
        assert not any(gone)


def test_entries_without_mass_stay_without() -> None:
    teacher, base = np.array([0.7, 0.0, 0.3, 0.0]), np.array([0.5, 0.3, 0.2, 0.0])
    for rule in (ClipRule.NONE, ClipRule.MASK, ClipRule.TRUNCATE, ClipRule.TWO_SIDED):
        found, gone = rest(teacher, base, 1.5, 3.0, rule)
        assert found[1] == found[3] == 0.0
        assert found.sum() == pytest.approx(1.0)
        assert gone[1] is gone[3] is False
    # What the base never does no student finds.
    found, _ = rest(np.array([0.5, 0.5]), np.array([1.0, 0.0]), 1.5, 3.0, ClipRule.MASK)
    assert found.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("rule", [ClipRule.PPO, ClipRule.ASPO])
def test_rules_on_another_ratio_are_refused(rule: ClipRule) -> None:
    with pytest.raises(ConfigError, match=r"clips pi_theta/pi_old, .*; preview mask"):
        rest(np.array([0.5, 0.5]), np.array([0.5, 0.5]), 1.5, 2.0, rule)


def halfway(teacher: Array, base: Array, lam: float) -> float:
    """Time in which the plain gradient flow, no clip, takes entry 0 half of its way in log mass."""
    log_m = lam * np.log(teacher) - (lam - 1.0) * np.log(base)
    end, _ = rest(teacher, base, lam, 5.0, ClipRule.NONE)
    goal = 0.5 * (math.log(base[0]) + math.log(end[0]))
    # The others are at rest, as a run has them long before.
    logits = np.concatenate([np.log(base[:1]), np.log(end[1:] / end[1:].sum())])
    time, step = 0.0, 2.0
    while (logp := logits - logsumexp(logits))[0] < goal:
        mass = np.exp(logp)
        push = log_m - logp
        logits = logits + step * mass * (push - (mass * push).sum())
        time += step
    return time


def test_a_rare_entry_rises_in_a_time_like_one_over_its_mass() -> None:
    """Point 22: so short runs do not show what settled students make of entries that are rare."""
    times = []
    for mass in (1e-2, 2e-3):
        base = np.array([mass, 0.6 - mass, 0.4])
        teacher = np.array([2.0 * mass, 0.7 - 2.0 * mass, 0.3])
        times.append(halfway(teacher, base, 2.5))
    assert 4.0 < times[1] / times[0] < 6.0


@pytest.mark.parametrize("lam", [1.0, 2.5])
@pytest.mark.parametrize("rule", [ClipRule.NONE, *CLIPPED])
def test_rare_entries_stay_and_the_others_settle_among_themselves(
    rule: ClipRule, lam: float
) -> None:
    base = np.array([2e-6, 0.5 - 2e-6, 0.3, 0.2])
    teacher = np.array([1e-3, 0.6 - 1e-3, 0.3, 0.1])
    found, gone = rest(teacher, base, lam, 3.0, rule, rare=1e-5)
    alone, alone_gone = rest(teacher[1:], base[1:], lam, 3.0, rule)
    assert found[0] == pytest.approx(base[0])
    assert gone == [False, *alone_gone]
    np.testing.assert_allclose(found[1:], alone * (1.0 - base[0]), rtol=1e-9)
    # Under its own mass it settles like any other: at lam = 2.5 far above the teacher's.
    # Under its own mass it settles like any other: at lam = 2.5, no clip, at most of it.
    common, _ = rest(teacher, base, lam, 3.0, rule, rare=1e-6)
    np.testing.assert_allclose(common, rest(teacher, base, lam, 3.0, rule)[0], rtol=1e-9)
    assert lam == 1.0 or rule is not ClipRule.NONE or common[0] > 0.9


def test_an_entry_the_teacher_forbids_is_not_kept_for_being_rare() -> None:
    base, teacher = np.array([1e-6, 1.0 - 1e-6]), np.array([0.0, 1.0])
    assert rest(teacher, base, 2.0, 3.0, ClipRule.NONE, rare=1e-5)[0][0] == 0.0
