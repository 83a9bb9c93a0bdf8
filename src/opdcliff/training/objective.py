"""The on-policy distillation objective: extrapolated advantage, clip rules, sampled loss.

Axes in names: B batch, T completion tokens.
Three distributions meet at every position: pi_S the student being trained (the only one with a
gradient), pi_T the frozen teacher, pi_B the frozen warm-start student ("base").
All log-probs are natural logarithms at the temperature of the rollouts.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from opdcliff.errors import ConfigError
from opdcliff.theory import ClipRule
from opdcliff.training.forbidden import dead_entries, settle, zeroed

ASPO_SOFT_CAP = 3.0


class LossOutput(NamedTuple):
    """A scalar loss with its detached diagnostics, to be averaged per token class.

    loss: nats per completion token; the only field with a gradient.
    advantage_BT: A of the sampled token, or its mean under pi_S for `full_loss`; nats.
    clipped_BT: 1 where the rule changed the token's weight, or the pi_S mass of such entries.
    kl_BT: log pi_S - log pi_T of the sampled token, an unbiased estimate of KL(pi_S || pi_T) where
        pi_S sampled it, or that KL over the given entries for `full_loss`; nats.
    Outside the mask all three are 0.
    """

    loss: Tensor
    advantage_BT: Tensor
    clipped_BT: Tensor
    kl_BT: Tensor


def extrapolated_advantage(
    logp_teacher: Tensor, logp_student: Tensor, logp_base: Tensor | None, lam: float
) -> Tensor:
    """Reward-extrapolated advantage of each entry, detached.

    A = lam * log pi_T - log pi_S - (lam - 1) * log pi_B, in nats; any common shape.
    lam = 1 is plain on-policy distillation and reads no base; lam = 0 reads no teacher.
    Entries that a model forbids give infinities here, which the losses settle (`forbidden`).
    Raises ConfigError when lam != 1 and there is no base, instead of acting as if lam were 1.
    Source: [P,S] docs/theory.md, point 1.
    """
    teacher = logp_teacher.detach()
    if lam == 0.0:
        teacher = teacher.masked_fill(teacher.isneginf(), 0.0)
    # In place: of the whole vocabulary these are large.
    plain = (lam * teacher).sub_(logp_student.detach())
    if lam == 1.0:
        return plain
    if logp_base is None:
        raise ConfigError(
            f"lam={lam} needs the log-probs of the warm-start student (base), which are missing; "
            "load the base model, or set lam=1 for plain on-policy distillation"
        )
    return plain.sub_((lam - 1.0) * logp_base.detach())


def clip_weight(rule: ClipRule, strength: float | None, log_ratio: Tensor) -> Tensor:
    """Weight in [0, 1] that a rule on r = pi_T/pi_S gives to each entry; any shape.

    mask: 1[r <= c]; truncate: min(1, c/r); two_sided: 1[1/c <= r <= c]; none: 1.
    log_ratio: log r in nats, so that no ratio overflows. strength: c > 1.
    Raises ConfigError for `ppo` and `aspo`, which act on another ratio.
    Source: [D] docs/theory.md, points 3 and 8.
    """
    if rule.uses_policy_ratio:
        raise ConfigError(
            f"clip rule '{rule}' acts on pi_theta/pi_old of sampled tokens only; with the full "
            "estimator choose mask, truncate, two_sided or none"
        )
    if rule is ClipRule.NONE:
        return torch.ones_like(log_ratio)
    log_c = _log_strength(rule, strength)
    if rule is ClipRule.TRUNCATE:
        return (log_c - log_ratio).clamp(max=0.0).exp()
    size = log_ratio.abs() if rule is ClipRule.TWO_SIDED else log_ratio
    return (size <= log_c).to(log_ratio.dtype)


def sampled_loss(
    logp_student_BT: Tensor,
    logp_teacher_BT: Tensor,
    logp_base_BT: Tensor | None,
    mask_BT: Tensor,
    *,
    lam: float,
    rule: ClipRule,
    strength: float | None,
    token_count: int,
    logp_old_BT: Tensor | None = None,
    token_BT: Tensor | None = None,
    engine_weight_BT: Tensor | None = None,
) -> LossOutput:
    """Policy-gradient loss on the sampled tokens.

    Rules on pi_T/pi_S: L = -(1/N) sum_t w_t A_t log pi_S(a_t), w from `clip_weight`.
    Rules on r = pi_theta/pi_old, with the interval [1/c, c] (eps_high = c - 1, eps_low = 1 - 1/c):
    - ppo: L = -(1/N) sum_t min(r_t A_t, clip(r_t, 1/c, c) A_t), the gradient flowing through r.
    - aspo: as ppo where A <= 0. Where A > 0 a token with r > c gets no gradient, any other the
      gradient of log pi_S weighted by min(1/r, 3), a constant (arXiv 2510.06062 [S]; its dual
      clip of negative advantages is left out).
    A is taken at the current student, not at pi_old, so that the unclipped r A grad log pi_S is
    unbiased for the full gradient at every update of a batch.

    mask_BT: true on completion tokens, the end token included. The student's log-probs must not be
    NaN elsewhere either; a NaN of the teacher or base on a completion token reaches the loss.
    Forbidden tokens (-inf), padding among them, count as `forbidden` says.
    token_count: N, completion tokens of the whole update, over all ranks and accumulation steps,
    so that any split gives the same gradient once parts are summed (a trainer that averages over
    ranks multiplies the loss by their number).
    logp_old_BT: log-probs of the sampling policy; read by ppo and aspo only.
    token_BT: ids of the tokens, for errors.
    engine_weight_BT: a constant factor of each token's term, where another distribution than the
    student's was sampled (`mismatch.engine_weight`); None for 1.
    Raises ConfigError: no base at lam != 1, no old log-probs for a policy rule.
    Raises ModelError: teacher or base forbids a token that counts.
    Source: [P,S] docs/theory.md, points 1 and 3.
    """
    mask_BT = mask_BT.bool()
    dead_BT = dead_entries(logp_student_BT)
    logp_student_BT, logp_teacher_BT = (
        zeroed(logp_student_BT, dead_BT),
        zeroed(logp_teacher_BT, dead_BT),
    )
    logp_base_BT, logp_old_BT = zeroed(logp_base_BT, dead_BT), zeroed(logp_old_BT, dead_BT)
    advantage_BT = extrapolated_advantage(logp_teacher_BT, logp_student_BT, logp_base_BT, lam)
    advantage_BT = advantage_BT.masked_fill(~mask_BT, 0.0)
    log_ratio_BT = (logp_teacher_BT - logp_student_BT).detach().masked_fill(~mask_BT, 0.0)
    weight_BT = None if rule.uses_policy_ratio else clip_weight(rule, strength, log_ratio_BT)
    advantage_BT, log_ratio_BT = settle(
        advantage_BT,
        log_ratio_BT,
        weight_BT,
        logp_teacher_BT,
        logp_base_BT,
        mask_BT,
        lam=lam,
        index=token_BT,
        sampled=True,
    )
    if weight_BT is not None:
        objective_BT = weight_BT * advantage_BT * logp_student_BT
        clipped_BT = weight_BT < 1.0
    else:
        if logp_old_BT is None:
            raise ConfigError(
                f"clip rule '{rule}' needs the log-probs of the policy that sampled the batch; "
                "score the rollouts before the first update"
            )
        log_policy_BT = (logp_student_BT - logp_old_BT.detach()).masked_fill(~mask_BT, 0.0)
        objective_BT, clipped_BT = _policy_objective(rule, strength, log_policy_BT, advantage_BT)
    if engine_weight_BT is not None:
        objective_BT = objective_BT * engine_weight_BT.masked_fill(~mask_BT, 0.0)
    return LossOutput(
        -objective_BT.sum() / token_count,
        advantage_BT,
        clipped_BT.to(advantage_BT.dtype),
        -log_ratio_BT,
    )


def _policy_objective(
    rule: ClipRule, strength: float | None, log_ratio_BT: Tensor, advantage_BT: Tensor
) -> tuple[Tensor, Tensor]:
    """Per-token objective (to be maximized) of `ppo` or `aspo`, and where its clip acted."""
    log_c = _log_strength(rule, strength)
    constant_BT = log_ratio_BT.detach()
    bounded_BT = log_ratio_BT.clamp(-log_c, log_c)
    objective_BT = torch.minimum(log_ratio_BT.exp() * advantage_BT, bounded_BT.exp() * advantage_BT)
    positive_BT = advantage_BT > 0
    too_high_BT = positive_BT & (constant_BT > log_c)
    too_low_BT = (advantage_BT < 0) & (constant_BT < -log_c)
    clipped_BT = too_high_BT | too_low_BT
    if rule is ClipRule.PPO:
        return objective_BT, clipped_BT
    weight_BT = (-constant_BT).exp().clamp(max=ASPO_SOFT_CAP).masked_fill(too_high_BT, 0.0)
    # exp(x - x.detach()) is 1 with the gradient of x: the value stays comparable to ppo's.
    flipped_BT = weight_BT * advantage_BT * (log_ratio_BT - constant_BT).exp()
    capped_BT = positive_BT & (constant_BT < -math.log(ASPO_SOFT_CAP))
    return torch.where(positive_BT, flipped_BT, objective_BT), clipped_BT | capped_BT


def _log_strength(rule: ClipRule, strength: float | None) -> float:
    if strength is None or strength <= 1.0:
        raise ConfigError(f"clip strength {strength} with rule '{rule}': set a number > 1")
    return math.log(strength)
