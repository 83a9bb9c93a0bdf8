"""Models of two layers by what they keep of the tokens they have read."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from tiny_rollout import EOS, PAD, VOCABULARY

HYBRID = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
# Kinds of caches, by what a model of two layers keeps: states of linear attention beside keys, of
# convolutions, of both in one layer, states alone; a window that slides; no cache of the library.
CACHES: dict[str, dict[str, Any]] = {
    "qwen3_5_text": HYBRID,
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "falcon_h1": {"mamba_d_ssm": 16, "mamba_n_heads": 2, "mamba_d_head": 8, "mamba_d_state": 8},
    "mamba": {"state_size": 4},
    "gemma3_text": {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]},
    "rwkv": {"attention_hidden_size": 32, "context_length": 128},
}


def model_of_cache(kind: str) -> PreTrainedModel:
    """A model with one of `CACHES`; some do not know padding."""
    config = AutoConfig.for_model(
        kind,
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        pad_token_id=PAD,
        eos_token_id=EOS,
        initializer_range=0.2,
        **CACHES[kind],
    )
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval()
    return model
