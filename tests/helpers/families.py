"""Tiny models of the families that are used most, each from its own configuration class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

PAD, EOS = "<pad>", "<eos>"
BYTES = [PAD, EOS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
# Positions that a sliding layer looks back on, less than the texts of the tests.
WINDOW = 8

_CLASSES: dict[str, type[PreTrainedConfig]] = {
    "qwen3": Qwen3Config,
    "qwen2": Qwen2Config,
    "llama": LlamaConfig,
    "mistral": MistralConfig,
    "gemma2": Gemma2Config,
    "gemma3": Gemma3TextConfig,
    "phi3": Phi3Config,
    "gpt2": GPT2Config,
    "olmo2": Olmo2Config,
}
FAMILIES = tuple(_CLASSES)
SLIDING = ("mistral", "gemma2", "gemma3", "phi3")
# Tied by the library's default.
TIED = ("gemma2", "gemma3", "gpt2")


def configuration(family: str, **changes: Any) -> PreTrainedConfig:
    """A configuration of a family; changes are its own fields."""
    fields: dict[str, Any] = {
        "vocab_size": len(BYTES),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": None,
        "eos_token_id": 1,
        "pad_token_id": 0,
        # Wide enough for distributions that are far from uniform.
        "initializer_range": 0.2,
    }
    if family in ("qwen3", "gemma2", "gemma3"):
        fields["head_dim"] = 8
    if family in SLIDING:
        fields["sliding_window"] = WINDOW
    if family == "gemma2":
        fields |= {"final_logit_softcapping": 3.0, "attn_logit_softcapping": 5.0}
        fields["query_pre_attn_scalar"] = 8
    if family == "gemma3":
        fields["query_pre_attn_scalar"] = 8
    if family == "gpt2":
        for name in ("intermediate_size", "num_key_value_heads"):
            del fields[name]
    fields |= changes
    if family == "gemma3":
        sliding = fields["num_hidden_layers"] - 1
        fields["layer_types"] = ["sliding_attention"] * sliding + ["full_attention"]
    return _CLASSES[family](**fields)


def build(family: str, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A random float32 model in evaluation mode, with the attention that `load_model` takes."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(
        configuration(family, **changes),
        attn_implementation="eager" if family == "gemma2" else "sdpa",
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Norms and biases start at one and zero, where a mistake with them would not be seen.
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
            assert parameter.isfinite().all(), name
    return model.eval()


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One entry per byte, and two special ones."""
    inner = Tokenizer(models.BPE({text: i for i, text in enumerate(BYTES)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token=PAD,
        eos_token=EOS,
        clean_up_tokenization_spaces=False,
    )


def save_pair(folder: Path, student: PreTrainedModel, teacher: PreTrainedModel) -> list[str]:
    """The words that name two models, saved with their tokenizer, as a pair of one's own."""
    for role, model in (("student", student), ("teacher", teacher)):
        model.save_pretrained(folder / role)
        byte_tokenizer().save_pretrained(folder / role)
    return [f"model.{role}={folder / role}" for role in ("student", "teacher")]


def unslid(family: str) -> tuple[list[list[int]], PreTrainedModel]:
    """Prompts of several lengths, and a model with a window, if any, that none slides out of."""
    wide = {"sliding_window": 64} if family in SLIDING else {}
    model = build(family, **wide)
    generator = torch.Generator().manual_seed(2)
    prompts = [torch.randint(2, 258, (n,), generator=generator).tolist() for n in (3, 20, 11, 7)]
    return prompts, model if family == "gemma2" else model.double()
