"""Measuring a model: its answers to test prompts, and the binding class against its theory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from opdcliff.calibration import CLASSES, Positions, label, modal_logits
from opdcliff.contract import TAIL_NEEDED, Contract, Gain, ModalSets
from opdcliff.data import Example
from opdcliff.models import Codec, Trio, sample_answers
from opdcliff.rollout import EVALUATION_STREAM, Rollout
from opdcliff.settings import EvaluationConfig, RolloutConfig
from opdcliff.training.evaluation.metrics import answer_metrics, judge

# Prompts sampled at a time; answers do not depend on it.
EVALUATION_BATCH = 256

# One standard deviation below, at and above the middle of a normal distribution.
_MIDDLE = (0.158655, 0.5, 0.841345)


def answers_in_batches(
    model: PreTrainedModel,
    codec: Codec,
    numbered: Sequence[tuple[int, Example]],
    how: RolloutConfig,
    *,
    seed: int,
) -> list[tuple[list[Example], Rollout]]:
    """Answers to numbered test prompts, `EVALUATION_BATCH` at a time."""
    parts = [
        numbered[start : start + EVALUATION_BATCH]
        for start in range(0, len(numbered), EVALUATION_BATCH)
    ]
    return [
        (
            [example for _, example in part],
            sample_answers(model, codec, part, how, seed=seed, stream=EVALUATION_STREAM),
        )
        for part in parts
    ]


def evaluate_model(
    model: PreTrainedModel,
    codec: Codec,
    examples: Sequence[Example],
    contract: Contract,
    config: EvaluationConfig,
    how: RolloutConfig,
    *,
    seed: int,
) -> dict[str, float]:
    """`answer_metrics` of one model on its own, e.g. the teacher or the warm start."""
    batches = answers_in_batches(model, codec, list(enumerate(examples)), how, seed=seed)
    judged = [j for part, rollout in batches for j in judge(rollout, part, contract, codec)]
    return answer_metrics(judged, config.ndcg_k, gain_of(config), contract)


def class_metrics(
    trio: Trio,
    rollout: Rollout,
    examples: Sequence[Example],
    modal_sets: ModalSets | None,
    *,
    lam: float,
    strength: float | None,
    temperature: float,
    chunk_tokens: int,
) -> dict[str, float]:
    """How far the student is along, per class, on its own live prefixes.

    train/tail_ratio/<class>: mean of (1-p)/(1-q), which the clip bounds by c (point 3).
    train/residual_mean, _sd: logit q - [lam logit p - (lam-1) logit b] over positions of the
    classes that can bind (points 2 and 15). train/modal_logit: their median logit q.
    train/beyond_zc: share of them with ratio above c. train/headroom: median of z_c - logit q,
    each at its own p; train/headroom_spread: half the width of its middle 68%, the sd of a normal
    one, untouched by the few positions after a stray token (point 16). Positions where a model
    forbids the whole modal class or tail (an infinite logit) are left out. Nothing where the
    contract has no classes.
    """
    if modal_sets is None:
        return {}
    positions = label(rollout, examples, modal_sets)
    logit_p, logit_q, logit_b = (
        modal_logits(m, rollout, positions, temperature=temperature, chunk_tokens=chunk_tokens)
        for m in (trio.teacher, trio.student, trio.base)
    )
    known_BT = ~(logit_p.isinf() | logit_q.isinf() | logit_b.isinf())
    # (1-p)/(1-q) from logits, without cancelling digits when both masses are close to 1.
    ratio_BT = torch.exp(
        torch.nn.functional.softplus(logit_q) - torch.nn.functional.softplus(logit_p)
    )
    metrics = {
        f"train/tail_ratio/{name.value}": ratio_BT[known_BT & positions.of_class(name)]
        .mean()
        .item()
        for name in CLASSES
        if (known_BT & positions.of_class(name)).any()
    }
    binding_BT = known_BT & _can_bind(positions)
    if not binding_BT.any():
        return metrics
    residual = (logit_q - lam * logit_p + (lam - 1.0) * logit_b)[binding_BT]
    metrics["train/residual_mean"] = residual.mean().item()
    metrics["train/residual_sd"] = residual.std(correction=0).item()
    metrics["train/modal_logit"] = logit_q[binding_BT].median().item()
    if strength is not None:
        metrics["train/beyond_zc"] = (ratio_BT[binding_BT] > strength).float().mean().item()
        logit_p = logit_p[binding_BT]
        # z_c of each position at its own p: theory.clip_safe_logit, in logits.
        boundary = logit_p + torch.log1p((strength - 1.0) / torch.sigmoid(logit_p))
        headroom = boundary - logit_q[binding_BT]
        low, middle, high = headroom.quantile(headroom.new_tensor(_MIDDLE)).tolist()
        metrics["train/headroom"] = middle
        metrics["train/headroom_spread"] = 0.5 * (high - low)
    return metrics


def _can_bind(positions: Positions) -> torch.Tensor:
    mask_BT = torch.zeros_like(positions.class_BT, dtype=torch.bool)
    for name in TAIL_NEEDED:
        mask_BT |= positions.of_class(name)
    return mask_BT


def gain_of(config: EvaluationConfig) -> Gain:
    """The gain of NDCG as configured."""
    return "exp" if config.gain == "exp" else "linear"
