"""Measuring a model: strict parse rate, NDCG, lengths, and the binding class against its theory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from opdcliff.config import EvaluationConfig
from opdcliff.contract import Contract, FailureCode, Verdict
from opdcliff.data.example import Example
from opdcliff.data.prompts import prompt_batch
from opdcliff.masses import CLASSES, Positions, label, modal_logits
from opdcliff.models import Trio
from opdcliff.ranking import Gain, ranked_grades, ranking_metrics
from opdcliff.rollout import EVALUATION_STREAM, Rollout, sample
from opdcliff.token_classes import TAIL_NEEDED, ModalSets
from opdcliff.tokenization import answer_text

# Prompts sampled at a time; answers do not depend on it.
BATCH = 256


@dataclass(frozen=True)
class Judged:
    """One answer: its verdict, grades in ranked order if it parsed, and its length in tokens."""

    verdict: Verdict
    grades: tuple[int, ...] | None
    length: int


def judge(
    rollout: Rollout, examples: Sequence[Example], contract: Contract, tokenizer: Any
) -> list[Judged]:
    """Parse every answer strictly."""
    judged = []
    for example, ids, ended in zip(
        examples, rollout.answers(), rollout.ended_B.tolist(), strict=True
    ):
        text = answer_text(tokenizer, ids[:-1] if ended else ids)
        verdict = contract.parse(text, example.candidates, ended=ended)
        grades = (
            None
            if verdict.ranking is None
            else ranked_grades(verdict.ranking, example.candidates, example.grades)
        )
        judged.append(Judged(verdict, grades, len(ids)))
    return judged


def answer_metrics(judged: Sequence[Judged], ndcg_k: int, gain: Gain) -> dict[str, float]:
    """Metrics `eval/...` of judged answers: rates over all answers, lengths in tokens."""
    failures = Counter(j.verdict.failure for j in judged)
    ndcg = ranking_metrics([j.grades for j in judged], ks=(ndcg_k,), gain=gain)
    count = len(judged)
    metrics = {
        "eval/prompts": float(count),
        "eval/parse_rate": sum(j.verdict.ok for j in judged) / count,
        "eval/truncated_rate": failures[FailureCode.TRUNCATED] / count,
        "eval/mean_length": float(np.mean([j.length for j in judged])),
    }
    metrics |= {f"eval/{name}": value for name, value in ndcg.items()}
    return metrics | {f"eval/fail/{code.value}": failures[code] / count for code in FailureCode}


def sample_answers(
    model: PreTrainedModel,
    tokenizer: Any,
    numbered: Sequence[tuple[int, Example]],
    *,
    seed: int,
    max_new_tokens: int,
    temperature: float,
) -> list[tuple[list[Example], Rollout]]:
    """Answers to numbered prompts, in batches."""
    batches = []
    for start in range(0, len(numbered), BATCH):
        part = numbered[start : start + BATCH]
        examples = [example for _, example in part]
        prompt_BL, attention_BL = prompt_batch(tokenizer, examples)
        rollout = sample(
            model,
            prompt_BL,
            attention_BL,
            numbers=[number for number, _ in part],
            seed=seed,
            stream=EVALUATION_STREAM,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            tokenizer=tokenizer,
        )
        batches.append((examples, rollout))
    return batches


def evaluate_model(
    model: PreTrainedModel,
    tokenizer: Any,
    examples: Sequence[Example],
    contract: Contract,
    config: EvaluationConfig,
    *,
    seed: int,
    max_new_tokens: int,
    temperature: float,
) -> dict[str, float]:
    """`answer_metrics` of one model on its own, e.g. the teacher or the warm start."""
    batches = sample_answers(
        model,
        tokenizer,
        list(enumerate(examples)),
        seed=seed,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
    )
    judged = [j for part, rollout in batches for j in judge(rollout, part, contract, tokenizer)]
    return answer_metrics(judged, config.ndcg_k, _gain(config))


def class_metrics(
    trio: Trio,
    rollout: Rollout,
    examples: Sequence[Example],
    modal_sets: ModalSets,
    *,
    lam: float,
    strength: float | None,
    temperature: float,
    chunk_tokens: int,
) -> dict[str, float]:
    """How far the student is along, per class, on its own live prefixes.

    train/tail_ratio/<class>: mean of (1-p)/(1-q), which the clip bounds by c (point 3).
    train/residual_mean, _sd: logit q - [lam logit p - (lam-1) logit b] over positions of the
    classes that can bind (points 2 and 15). train/beyond_zc: share of them with ratio above c.
    """
    positions = label(rollout, examples, modal_sets)
    logit_p, logit_q, logit_b = (
        modal_logits(m, rollout, positions, temperature=temperature, chunk_tokens=chunk_tokens)
        for m in (trio.teacher, trio.student, trio.base)
    )
    # (1-p)/(1-q) from logits, without cancelling digits when both masses are close to 1.
    ratio_BT = torch.exp(
        torch.nn.functional.softplus(logit_q) - torch.nn.functional.softplus(logit_p)
    )
    metrics = {
        f"train/tail_ratio/{name.value}": ratio_BT[positions.of_class(name)].mean().item()
        for name in CLASSES
        if positions.of_class(name).any()
    }
    binding_BT = _can_bind(positions)
    if not binding_BT.any():
        return metrics
    residual = (logit_q - lam * logit_p + (lam - 1.0) * logit_b)[binding_BT]
    metrics["train/residual_mean"] = residual.mean().item()
    metrics["train/residual_sd"] = residual.std(correction=0).item()
    if strength is not None:
        metrics["train/beyond_zc"] = (ratio_BT[binding_BT] > strength).float().mean().item()
    return metrics


def _can_bind(positions: Positions) -> torch.Tensor:
    mask_BT = torch.zeros_like(positions.class_BT, dtype=torch.bool)
    for name in TAIL_NEEDED:
        mask_BT |= positions.of_class(name)
    return mask_BT


def _gain(config: EvaluationConfig) -> Gain:
    return "exp" if config.gain == "exp" else "linear"
