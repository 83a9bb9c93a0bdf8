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


def rest(
    teacher: Array, base: Array, lam: float, c: float, rule: ClipRule, margin: float = 0.0
) -> tuple[Array, list[bool]]:
    with np.errstate(divide="ignore"):
        logs = [torch.from_numpy(np.log(x))[None] for x in (teacher, base)]
    one = torch.ones(1, 1, dtype=torch.float64)
    found, gone = settled(*logs, lam * one, rule=rule, strength_R1=c * one, margin=margin)
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
