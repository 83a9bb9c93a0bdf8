"""Measuring a model: its answers to test prompts."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel

from opdcliff.contract import Contract, Gain
from opdcliff.data import Example
from opdcliff.models import Codec, sample_answers
from opdcliff.rollout import EVALUATION_STREAM, Rollout
from opdcliff.settings import EvaluationConfig, RolloutConfig
from opdcliff.training.evaluation.metrics import answer_metrics, judge

# Prompts sampled at a time; answers do not depend on it.
EVALUATION_BATCH = 256


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


def gain_of(config: EvaluationConfig) -> Gain:
    """The gain of NDCG as configured."""
    return "exp" if config.gain == "exp" else "linear"
