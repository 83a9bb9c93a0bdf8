"""A tiny model, prompts and settings to sample with, for the tests of every backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from opdcliff.models.tokens.train_bpe import pad_left
from opdcliff.rollout import reference
from opdcliff.rollout.draws import TRAIN_STREAM, Rollout

PAD, EOS = 0, 1
VOCABULARY = 11
PROMPTS = [[5], [2, 3, 4, 5, 6], [7, 7], [9, 2, 8], [3, 4], [10, 9, 8, 7, 6, 5, 4], [6], [2, 9, 3]]
SETTINGS: dict[str, Any] = {
    "seed": 3,
    "stream": TRAIN_STREAM,
    "max_new_tokens": 12,
    "temperature": 0.7,
    "end_ids": (EOS,),
    "pad_id": PAD,
}


def tiny_model(vocabulary: int = VOCABULARY, dropout: float = 0.0) -> PreTrainedModel:
    """A Qwen3 of two layers in float64."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=128,
        attention_dropout=dropout,
        # Wide enough for distributions that are far from uniform.
        initializer_range=0.25,
        bos_token_id=None,
        pad_token_id=PAD,
        eos_token_id=EOS,
    )
    return Qwen3ForCausalLM(config).double().eval()


def assert_as_reference(
    sample: Callable[..., Rollout], prompts: list[list[int]], model: PreTrainedModel, **changes: Any
) -> Rollout:
    """The answers of a backend that decodes by steps, which are those of `reference`."""
    options = {"numbers": list(range(len(prompts)))} | SETTINGS | changes
    expected = reference.sample(model, *pad_left(prompts, PAD), **options)
    found = sample(model, *pad_left(prompts, PAD), **options)
    assert found.compiled
    assert not expected.compiled
    for name in ("ids_BL", "attention_BL", "mask_BT", "ended_B"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    return found
