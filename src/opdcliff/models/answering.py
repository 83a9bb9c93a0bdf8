"""Answers of a model to numbered prompts of a data set, sampled as the rollout settings say."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel

from opdcliff.data import Example
from opdcliff.models.batches import prompt_batch
from opdcliff.models.tokens.codec import Codec
from opdcliff.rollout import Rollout, sample
from opdcliff.settings import RolloutConfig


def sample_answers(
    model: PreTrainedModel,
    codec: Codec,
    numbered: Sequence[tuple[int, Example]],
    how: RolloutConfig,
    *,
    seed: int,
    stream: int,
) -> Rollout:
    """One answer per prompt; an answer depends on model, prompt, seed, stream and number alone."""
    prompt_BL, attention_BL = prompt_batch(codec, [example for _, example in numbered])
    return sample(
        model,
        prompt_BL,
        attention_BL,
        numbers=[number for number, _ in numbered],
        seed=seed,
        stream=stream,
        max_new_tokens=how.max_new_tokens,
        temperature=how.temperature,
        end_ids=codec.end_ids,
        pad_id=codec.pad_id,
        backend=how.backend,
    )
