"""Where the student's next-token distribution comes to rest, under each clip rule.

At a prefix, with m = pi_T^lam pi_B^(1 - lam) and r = pi_T/pi, an entry of positive mass rests where
w(r) log(m/pi) = A, one A for all (the mean advantage; docs/theory.md, point 22). So, M its mass:

    none:      pi = m exp(-A), that is m/M
    mask:      the same for r <= c. An entry with r > c carries no gradient: it shrinks while A > 0,
               and is gone. Without such entries A = log M falls to log M', M' the mass of the rest,
               and r of the rest with it, so that no other entry follows: one pass is enough. Where
               M' < 1 the rest stays at m and 1 - M' is left to those entries (point 17).
    two_sided: as mask; and an entry with r < 1/c is held at c pi_T, where it slides on the clip;
               what all held entries leave then stays with the others.
    truncate:  with a = log(c m/pi_T), an entry with A <= a as under none; with a < A <= exp(a - 1),
               a < 1, it rests at pi = (pi_T/c) exp(a + W(-A exp(-a))), W Lambert's principal
               branch; else it is gone.

Entries that the base holds at next to nothing rise in a time like one over that mass, and no budget
is long enough for them: with `rare`, those under it stay where they are, and the others settle
among themselves.

All of it from a start within the clip. Of entries that begin beyond it (pi_T/pi_B > c) some may be
lost on the way although the rest would hold them, and under two_sided all may stay where they are.

Axes in names: R rows, V vocabulary. Source: docs/theory.md, points 2, 8, 17 and 22 [D].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy import special
from torch import Tensor

from opdcliff.errors import ConfigError
from opdcliff.theory import ClipRule

# Halvings of the interval that holds A: to the last digits of a float64.
_HALVINGS = 60
# A of no student lies beyond.
_MOST = 60.0


def settled(
    teacher_RV: Tensor,
    base_RV: Tensor,
    lam_R1: Tensor,
    *,
    rule: ClipRule,
    strength_R1: Tensor,
    margin: float = 0.0,
    rare: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Log-probs of the settled student, shape RV, and which entries of the teacher are gone.

    teacher_RV, base_RV: log-probs, float64; -inf where a model forbids an entry. What the base
    forbids no student reaches. lam_R1: at least 1. strength_R1: c, > 1, infinite for none.
    margin: entries within so many logits of the clip count as gone, too. rare: entries of less mass
    in the base keep it; r of the others is taken without what that leaves them, next to all.

    Raises:
        ConfigError: a rule on pi_theta/pi_old, which has no fixed point of its own.
    """
    if rule.uses_policy_ratio:
        raise ConfigError(
            f"clip.rule={rule.value} clips pi_theta/pi_old, whose settled student is that without "
            "a clip; preview mask, truncate, two_sided or none"
        )
    if rare > 0.0:
        rule_and_clip = {"rule": rule, "strength_R1": strength_R1, "margin": margin}
        return _among_common(teacher_RV, base_RV, lam_R1, rare, rule_and_clip)
    known_RV = torch.isfinite(base_RV) & torch.isfinite(teacher_RV)
    mixed_RV = lam_R1 * teacher_RV - (lam_R1 - 1.0) * base_RV
    mixed_RV = mixed_RV.masked_fill(~known_RV, -torch.inf)
    # At lam = 1 the base has no say.
    mixed_RV = torch.where(lam_R1 == 1.0, teacher_RV, mixed_RV)
    mass_R1 = mixed_RV.logsumexp(-1, keepdim=True)
    free_RV = mixed_RV - mass_R1
    nothing_RV = torch.zeros_like(known_RV)
    if rule is ClipRule.NONE:
        return free_RV, nothing_RV
    bound_R1 = strength_R1.log() - margin
    if rule is ClipRule.TRUNCATE:
        return _truncated(teacher_RV, mixed_RV, bound_R1)
    gone_RV = (teacher_RV - free_RV > bound_R1) & torch.isfinite(teacher_RV)
    held_RV = mixed_RV.masked_fill(gone_RV, -torch.inf)
    rest_R1 = held_RV.logsumexp(-1, keepdim=True)
    settled_RV = held_RV - rest_R1.clamp(min=0.0)
    if rule is ClipRule.TWO_SIDED:
        settled_RV = _capped(held_RV, teacher_RV + strength_R1.log())
    # Point 17: what the held entries leave stays with the others, in the shape they had.
    taken_R1 = settled_RV.logsumexp(-1, keepdim=True)
    left_R1 = torch.log(-torch.expm1(taken_R1.clamp(max=0.0)))
    lost_RV = mixed_RV.masked_fill(~gone_RV, -torch.inf)
    stays_RV = lost_RV - lost_RV.logsumexp(-1, keepdim=True) + left_R1
    settled_RV = torch.where(gone_RV, stays_RV.nan_to_num(nan=-torch.inf), settled_RV)
    return settled_RV - settled_RV.logsumexp(-1, keepdim=True), gone_RV


def _among_common(
    teacher_RV: Tensor, base_RV: Tensor, lam_R1: Tensor, rare: float, options: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """`settled` of the entries that are not rare, which share what the rare ones leave."""
    rare_RV = torch.isfinite(teacher_RV) & (base_RV < math.log(rare))
    teacher_RV, common_RV = (x.masked_fill(rare_RV, -torch.inf) for x in (teacher_RV, base_RV))
    found_RV, gone_RV = settled(teacher_RV, common_RV, lam_R1, **options)
    kept_RV = base_RV.masked_fill(~rare_RV, -torch.inf)
    left_R1 = torch.log(-torch.expm1(kept_RV.logsumexp(-1, keepdim=True).clamp(max=0.0)))
    settled_RV = torch.where(rare_RV, base_RV, (found_RV + left_R1).nan_to_num(nan=-torch.inf))
    return settled_RV - settled_RV.logsumexp(-1, keepdim=True), gone_RV


def _capped(held_RV: Tensor, cap_RV: Tensor) -> Tensor:
    """min(m exp(-A), c pi_T) with the A at which it sums to 1; A at least 0."""

    def at(mean_R1: Tensor) -> Tensor:
        return torch.minimum(held_RV - mean_R1, cap_RV)

    return at(_mean_advantage(at, held_RV))


def _truncated(teacher_RV: Tensor, mixed_RV: Tensor, bound_R1: Tensor) -> tuple[Tensor, Tensor]:
    a_RV = bound_R1 + mixed_RV - teacher_RV
    a_RV = a_RV.masked_fill(~torch.isfinite(mixed_RV), -torch.inf)

    def at(mean_R1: Tensor) -> Tensor:
        inner = -mean_R1 * torch.exp(-a_RV)
        plain = np.asarray(inner.cpu().numpy(), dtype=np.float64)
        root = np.asarray(special.lambertw(plain), dtype=np.complex128)  # type: ignore[call-overload]
        lambert = torch.from_numpy(root.real.copy()).to(inner)
        between_RV = teacher_RV - bound_R1 + a_RV + lambert
        rests = (mean_R1 > a_RV) & (a_RV < 1.0) & (mean_R1 <= torch.exp(a_RV - 1.0))
        lower_RV = torch.where(rests, between_RV, -torch.inf)
        return torch.where(mean_R1 <= a_RV, mixed_RV - mean_R1, lower_RV)

    settled_RV = at(_mean_advantage(at, mixed_RV))
    gone_RV = ~torch.isfinite(settled_RV) & torch.isfinite(mixed_RV)
    return settled_RV - settled_RV.logsumexp(-1, keepdim=True), gone_RV


def _mean_advantage(at: Callable[[Tensor], Tensor], mixed_RV: Tensor) -> Tensor:
    """The least A >= 0 at which the masses sum to at most 1, by halving."""
    low_R1 = torch.zeros_like(mixed_RV[:, :1])
    high_R1 = torch.full_like(low_R1, _MOST)
    for _ in range(_HALVINGS):
        middle_R1 = 0.5 * (low_R1 + high_R1)
        over_R1 = at(middle_R1).logsumexp(-1, keepdim=True) > 0.0
        low_R1 = torch.where(over_R1, middle_R1, low_R1)
        high_R1 = torch.where(over_R1, high_R1, middle_R1)
    return high_R1
