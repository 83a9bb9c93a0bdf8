"""The range of every setting: its dotted name, what is allowed in words, and the test."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any


def value_at(config: Any, dotted: str) -> Any:
    """The value of a dotted name; None where it or a parent is null."""
    for part in dotted.split("."):
        config = getattr(config, part)
        if config is None:
            return None
    return config


def _positive(value: float) -> bool:
    return value > 0


def _not_negative(value: float) -> bool:
    return value >= 0


def _inside(value: float) -> bool:
    return 0 < value < 1


def _rate(value: float) -> bool:
    return 0 <= value < 1


def _strengths(values: list[float]) -> bool:
    return bool(values) and all(1 < value < math.inf for value in values)


def _extrapolations(values: list[float]) -> bool:
    return bool(values) and all(1 <= value < math.inf for value in values)


def _names(values: list[str]) -> bool:
    return bool(values) and all(values) and ("all-linear" not in values or len(values) == 1)


def _one_of(*names: str) -> tuple[str, Callable[[Any], bool]]:
    return " | ".join(names), lambda value: value in names


_POSITIVE = ("a number > 0", _positive)
_COUNT = ("a whole number >= 1", lambda value: value >= 1)
_NOT_NEGATIVE = ("a number >= 0", _not_negative)
_SEED = ("a whole number from 0 to 4294967295", lambda value: 0 <= value < 2**32)
_INSIDE = ("a number between 0 and 1, both excluded", _inside)
_MASS = ("a number above 0, at most 1 (1 only for titles)", lambda value: 0 < value <= 1)
_SHARE = ("a number above 0, at most 1", lambda value: 0 < value <= 1)
_RATE = ("a number from 0 up to, not including, 1", _rate)

RANGES: tuple[tuple[str, str, Callable[[Any], bool]], ...] = tuple(
    (name, allowed, holds)
    for names, (allowed, holds) in (
        ("seed data.seed sft.seed calibration.seed tune.seed preview.seed grade.seed", _SEED),
        ("lam.value lam.warmup_updates", _NOT_NEGATIVE),
        ("lam.of_threshold protocol.predictions.safe_multiple", _POSITIVE),
        ("sft.warmup_steps sft.weight_decay optim.weight_decay data.max_history", _NOT_NEGATIVE),
        ("rollout.temperature optim.lr optim.grad_clip sft.teacher.lr sft.student.lr", _POSITIVE),
        ("sft.grad_clip tune.epochs tune.lr tune.grad_clip model.lora.alpha", _POSITIVE),
        ("tune.weight_decay", _NOT_NEGATIVE),
        ("tune.batch_size model.lora.rank", _COUNT),
        ("tune.warmup tune.held_out model.lora.dropout", _RATE),
        ("model.lora.targets", ("all-linear, or one or more names", _names)),
        ("rollout.prompts_per_update rollout.max_new_tokens rollout.updates_per_batch", _COUNT),
        ("optim.updates optim.topk evaluation.every evaluation.prompts", _COUNT),
        ("evaluation.final_prompts evaluation.ndcg_k evaluation.collapse_patience", _COUNT),
        ("calibration.prompts calibration.offset_bin calibration.bootstrap", _COUNT),
        ("calibration.forced_words sft.long_words sft.teacher.steps sft.student.steps", _COUNT),
        ("engine.ranks engine.threads engine.micro_batch engine.score_chunk_tokens", _COUNT),
        ("engine.bucket_elements", _COUNT),
        ("engine.persistent_elements", _NOT_NEGATIVE),
        ("data.train data.calibration data.test data.min_items data.max_title_words", _COUNT),
        ("data.answer_room", _COUNT),
        ("data.tokenizer_entries", ("a whole number >= 258", lambda value: value >= 258)),
        ("sft.batch_size sft.micro_batch sft.lora_rank protocol.workers", _COUNT),
        ("model.arch.hidden_size model.arch.intermediate_size model.arch.layers", _COUNT),
        ("model.arch.heads model.arch.kv_heads model.arch.head_dim", _COUNT),
        ("model.arch.max_positions", _COUNT),
        ("preview.lams", ("one or more numbers >= 1", _extrapolations)),
        ("preview.strengths", ("one or more numbers > 1", _strengths)),
        ("preview.prompts", _COUNT),
        ("preview.margin", _NOT_NEGATIVE),
        ("grade.temperature grade.price_in grade.price_out grade.retries", _NOT_NEGATIVE),
        ("grade.repeats", _NOT_NEGATIVE),
        ("grade.answer_tokens grade.candidates grade.history grade.title_words", _COUNT),
        ("grade.concurrency grade.bootstrap", _COUNT),
        ("grade.per_minute grade.timeout grade.limit", _POSITIVE),
        ("grade.ungraded preview.rare", _RATE),
        ("grade.answer_format", _one_of("schema", "object", "text")),
        ("rollout.engine_memory", _INSIDE),
        ("rollout.engine_cap", ("a number >= 1", lambda value: value >= 1)),
        ("preview.reached preview.floor", _SHARE),
        ("calibration.strengths", ("one or more numbers > 1", _strengths)),
        ("sft.teacher.continue_mass sft.student.continue_mass", _MASS),
        ("protocol.predictions.upper_plateau protocol.predictions.lower_plateau", _INSIDE),
        ("protocol.predictions.flat_delta protocol.predictions.least_lift", _INSIDE),
        ("protocol.predictions.parity_margin", _INSIDE),
        ("protocol.predictions.blind_from", _POSITIVE),
        # An interval over seeds needs two of them.
        ("protocol.predictions.least_seeds", ("a whole number >= 2", lambda value: value >= 2)),
        ("sft.teacher.corrupt_rate sft.student.corrupt_rate sft.long_share", _RATE),
        ("sft.teacher.swap_rate sft.student.swap_rate evaluation.collapse_floor", _RATE),
        ("optim.beta1 optim.beta2", _RATE),
        ("data.candidates", ("2 to 26", lambda value: 2 <= value <= 26)),
        (
            "data.name",
            _one_of("mini", "titles", "orders", "amazon_fashion", "amazon_titles", "prompts"),
        ),
        ("data.negatives", _one_of("uniform", "popularity")),
        ("optim.name", _one_of("adamw", "sgd")),
        ("optim.estimator", _one_of("sampled", "full")),
        ("evaluation.gain", _one_of("exp", "linear")),
        ("engine.name", _one_of("single", "zero0", "zero1", "zero2", "zero3")),
        ("engine.device", _one_of("auto", "cpu", "cuda")),
        ("engine.launcher", _one_of("auto", "torchrun", "deepspeed")),
        ("rollout.backend", _one_of("compiled", "graph", "reference", "continuous", "vllm")),
        ("model.dtype", _one_of("float32", "bfloat16", "float64")),
        ("model.arch.family", _one_of("qwen3", "llama")),
        ("checkpoint.every", ("a whole number >= 0; 0 is never", _not_negative)),
        ("checkpoint.keep", _COUNT),
        ("checkpoint.resume", _one_of("auto", "force", "never")),
        ("tracking.mode", _one_of("offline", "online", "off")),
        ("tracking.answers", _NOT_NEGATIVE),
    )
    for name in names.split()
)
