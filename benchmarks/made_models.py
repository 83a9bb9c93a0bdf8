"""Models, prompts and settings that the benchmarks make from nothing: no download, no training.

Weights are random by seed, so times mean what times mean and losses mean nothing. Prompts are
random tokens, all of one length. The token that ends answers has an id just beyond the models'
outputs: every sampler looks for it and none can draw it, so all answers have the full length and
times of different programs can be set beside each other.
"""

from __future__ import annotations

import copy
import functools
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel, Qwen3Config
from transformers import PreTrainedTokenizerFast as FastTokenizer

from opdcliff.data import Example, Splits
from opdcliff.models import Codec, Trio
from opdcliff.rollout import StepError, build_step, graph, offer_step, refusal
from opdcliff.rollout.steps.step_package import step_key
from opdcliff.settings import RunConfig
from opdcliff.settings.checks import load
from opdcliff.settings.compose import compose_one
from opdcliff.storage import asset_cache

# Written as they are into prompts of chat messages, so that both kinds of prompt read the same.
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
PAD = 0
# More than any answer here needs; the same for all, so that a compiled step fits all of a shape.
POSITIONS = 4096
# Where compiled steps are kept, beside what the benchmarks write.
STEPS = Path("runs/benchmarks/steps")
# Different weights for the two models that differ; the base is the student's copy.
STUDENT_SEED, TEACHER_SEED, PROMPT_SEED = 1, 2, 3


@dataclass(frozen=True)
class Shape:
    """A decoder of the Qwen3 or Llama family; sizes as in the family's own configuration."""

    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    family: str = "qwen3"
    tied: bool = True

    def config(self) -> Any:
        """The configuration in the family's own words."""
        kind = Qwen3Config if self.family == "qwen3" else LlamaConfig
        return kind(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            intermediate_size=self.inner,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            head_dim=self.head_dim,
            max_position_embeddings=POSITIONS,
            tie_word_embeddings=self.tied,
            bos_token_id=None,
            eos_token_id=self.end,
            pad_token_id=PAD,
        )

    @property
    def end(self) -> int:
        """The id that ends answers, which no model of this vocabulary can draw."""
        return self.vocabulary

    @property
    def layer_weights(self) -> int:
        """Weights of the matrix products of all layers, read once per token."""
        attention = self.hidden * self.head_dim * 2 * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.inner)

    @property
    def head_weights(self) -> int:
        """Weights of the product that gives logits."""
        return self.hidden * self.vocabulary


# Named by their weights in millions. The first three are the kind that the studies here train;
# 135M and 500M have the shapes of published small models; the last two are the paper's, by their
# published config.json.
SHAPES = {
    ".1M": Shape(64, 192, 2, 4, 2, 16, 64),
    "1M": Shape(192, 640, 2, 4, 2, 48, 64),
    "10M": Shape(640, 1920, 2, 10, 5, 64, 64),
    "135M": Shape(576, 1536, 30, 9, 3, 64, 49152, family="llama"),
    "500M": Shape(896, 4864, 24, 14, 2, 64, 151936),
    "1.7B": Shape(2048, 6144, 28, 16, 8, 128, 151936),
    "8B": Shape(4096, 12288, 36, 32, 8, 128, 151936, tied=False),
}
# Of every kind one that a test builds in milliseconds.
TINY = Shape(16, 24, 2, 2, 1, 8, 11)


def make_model(
    shape: Shape, seed: int, device: torch.device, dtype: torch.dtype
) -> PreTrainedModel:
    """A model with random weights, made on its device: 8B weights made on a CPU take minutes."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), device:
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            shape.config(), dtype=dtype, attn_implementation="sdpa"
        )
    return model.eval()


@functools.cache
def make_tokenizer(vocabulary: int) -> FastTokenizer:
    """Words w0, w1, ... as tokens, and behind them the one that ends answers."""
    words = {f"w{number}": number for number in range(vocabulary)} | {"end": vocabulary}
    plain = Tokenizer(WordLevel(words, unk_token="w1"))
    plain.pre_tokenizer = Whitespace()
    tokenizer = FastTokenizer(tokenizer_object=plain, pad_token="w0", eos_token="end")
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def make_codec(shape: Shape) -> Codec:
    """The tokenizer as this project uses it; the bytes of answers are not looked at here."""
    tokenizer = make_tokenizer(shape.vocabulary)
    return Codec(tokenizer, (), (shape.end,), PAD, opening_id=None, chat=None)


def make_prompts(shape: Shape, count: int, tokens: int) -> list[str]:
    """Random prompts of one length, so that no program wins or loses by padding."""
    rng = np.random.default_rng(PROMPT_SEED)
    ids = rng.integers(2, shape.vocabulary, (count, tokens))
    return [" ".join(f"w{number}" for number in row) for row in ids]


def make_splits(prompts: Sequence[str]) -> Splits:
    """The prompts as a data set of this project."""
    examples = [Example(text, (), (), str(number)) for number, text in enumerate(prompts)]
    return Splits(examples, [], [])


def make_trio(
    shape: Shape,
    device: torch.device,
    dtype: torch.dtype,
    teacher_shape: Shape | None = None,
) -> Trio:
    """Student, its frozen copy as base, and a frozen teacher of the same or another shape."""
    student = make_model(shape, STUDENT_SEED, device, dtype)
    teacher = make_model(teacher_shape or shape, TEACHER_SEED, device, dtype)
    base = copy.deepcopy(student)
    for frozen in (teacher, base):
        frozen.requires_grad_(False)
    return Trio(student=student, teacher=teacher, base=base, codec=make_codec(shape))


def offer_compiled(config: RunConfig, model: PreTrainedModel) -> str | None:
    """Have the model's answers sampled by a compiled step or a graph, or say why they are not.

    A command decides that when it prepares its models (`models.decoding`); here it is compiled
    however few updates follow, once for a shape and a number of threads.
    """
    if config.rollout.backend == "graph":
        return graph.why_not(model, 0)
    if config.rollout.backend != "compiled":
        return f"rollout.backend={config.rollout.backend}"
    if model.device.type != "cpu":
        return "steps are compiled for the CPU only"
    reason = refusal(model, 0)
    if reason is not None:
        return reason
    # A step of other code is another step.
    code = asset_cache.code_digest("rollout/steps/decode_step.py", "rollout/draws.py")[:12]
    path = STEPS / code / f"{step_key(model)}.pt2"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as aside:
            try:
                os.replace(build_step(model, Path(aside)), path)
            except StepError as error:
                return str(error)
    offer_step(path)
    return None


def run_settings(
    *,
    answers: int,
    new_tokens: int,
    threads: int,
    device: str,
    dtype: str,
    micro_batch: int | None = None,
    backend: str | None = None,
    words: Sequence[str] = (),
) -> RunConfig:
    """The run that is measured, the defaults of conf/ else.

    Raises:
        ConfigError: a value that is not allowed, as a backend that does not exist.
    """
    own = [
        f"rollout.prompts_per_update={answers}",
        f"rollout.max_new_tokens={new_tokens}",
        f"engine.threads={threads}",
        f"engine.device={device}",
        f"engine.micro_batch={micro_batch or answers}",
        f"model.dtype={dtype}",
        "lam.value=1.5",
    ]
    if backend is not None:
        own.append(f"rollout.backend={backend}")
    return load(compose_one([*own, *words]))
