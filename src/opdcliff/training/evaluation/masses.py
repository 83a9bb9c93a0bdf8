"""The binding class against its theory: what the models hold on a student's own live prefixes.

Axes in names: B batch, T completion tokens, n labelled positions of one answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

from opdcliff.calibration import CLASSES, NO_CLASS, label, modal_logits
from opdcliff.contract import Labels
from opdcliff.data import Example
from opdcliff.models import Trio
from opdcliff.rollout import Rollout

# One standard deviation below, at and above the middle of a normal distribution.
_MIDDLE = (0.158655, 0.5, 0.841345)


@dataclass(frozen=True)
class Masses:
    """Modal masses at the labelled positions of one answer, in the memory of the host.

    class_n: index into `CLASSES`. tail_n: whether an accepted answer needs the tail there.
    logit_p_n, logit_q_n, logit_b_n: of teacher, student and base. ratio_n: (1-p)/(1-q).
    """

    class_n: Tensor
    tail_n: Tensor
    logit_p_n: Tensor
    logit_q_n: Tensor
    logit_b_n: Tensor
    ratio_n: Tensor


def measure_masses(
    trio: Trio,
    rollout: Rollout,
    examples: Sequence[Example],
    labels: Labels,
    *,
    temperature: float,
    chunk_tokens: int,
) -> list[Masses]:
    """Masses of every answer of a rollout, one for each row."""
    positions = label(rollout, examples, labels)
    logit_p_BT, logit_q_BT, logit_b_BT = (
        modal_logits(m, rollout, positions, temperature=temperature, chunk_tokens=chunk_tokens)
        for m in (trio.teacher, trio.student, trio.base)
    )
    # (1-p)/(1-q) from logits, without cancelling digits when both masses are close to 1.
    ratio_BT = torch.exp(F.softplus(logit_q_BT) - F.softplus(logit_p_BT))
    values_BT = (
        positions.class_BT,
        positions.tail_BT,
        logit_p_BT,
        logit_q_BT,
        logit_b_BT,
        ratio_BT,
    )
    rows = zip(*(value_BT.cpu() for value_BT in values_BT), strict=True)
    return [Masses(*(value_T[row[0] != NO_CLASS] for value_T in row)) for row in rows]


def class_metrics(
    measured: Sequence[Masses], *, lam: float, strength: float | None
) -> dict[str, float]:
    """How far the student is along, per class.

    train/tail_ratio/<class>: mean of (1-p)/(1-q), which the clip bounds by c (point 3).
    train/residual_mean, _sd: logit q - [lam logit p - (lam-1) logit b] over positions of the
    classes that can bind (points 2 and 15). train/modal_logit: their median logit q.
    train/beyond_zc: share of them with ratio above c. train/headroom: median of z_c - logit q,
    each at its own p; train/headroom_spread: half the width of its middle 68%, the sd of a normal
    one, untouched by the few positions after a stray token (point 16). Positions where a model
    forbids the whole modal class or tail (an infinite logit) are left out.
    """
    class_n, tail_n, logit_p, logit_q, logit_b, ratio = (
        torch.cat([getattr(masses, name) for masses in measured])
        for name in (field.name for field in fields(Masses))
    )
    known = ~(logit_p.isinf() | logit_q.isinf() | logit_b.isinf())
    metrics = {
        f"train/tail_ratio/{name.value}": ratio[known & (class_n == code)].mean().item()
        for code, name in enumerate(CLASSES)
        if (known & (class_n == code)).any()
    }
    binding = known & tail_n
    if not binding.any():
        return metrics
    residual = (logit_q - lam * logit_p + (lam - 1.0) * logit_b)[binding]
    metrics["train/residual_mean"] = residual.mean().item()
    metrics["train/residual_sd"] = residual.std(correction=0).item()
    metrics["train/modal_logit"] = logit_q[binding].median().item()
    if strength is not None:
        metrics["train/beyond_zc"] = (ratio[binding] > strength).float().mean().item()
        logit_p = logit_p[binding]
        # z_c of each position at its own p: theory.clip_safe_logit, in logits.
        boundary = logit_p + torch.log1p((strength - 1.0) / torch.sigmoid(logit_p))
        headroom = boundary - logit_q[binding]
        low, middle, high = headroom.quantile(headroom.new_tensor(_MIDDLE)).tolist()
        metrics["train/headroom"] = middle
        metrics["train/headroom_spread"] = 0.5 * (high - low)
    return metrics
