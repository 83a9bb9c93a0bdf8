"""The typed configuration: fields and their types. Values live in conf/*.yaml, nowhere else.

`settings` turns a composed Hydra config into a checked `RunConfig`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from typing import Any

# A setting is found by the name of its type in this module, those of inner fields included.
from opdcliff.settings.study_schema import (
    GradeConfig,
    PredictionConfig,  # noqa: F401
    PreviewConfig,
    ProtocolArm,  # noqa: F401
    ProtocolConfig,
)


@dataclass
class ArchConfig:
    """A small model built from config; sizes as in the model family's own configuration."""

    family: str
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    max_positions: int


@dataclass
class LoraConfig:
    """A LoRA adapter that is trained in place of the student's own weights."""

    rank: int
    alpha: float
    targets: list[str]
    dropout: float


@dataclass
class ModelConfig:
    """Student and teacher: a path or hub id, or null to build `arch` and train it here."""

    name: str
    student: str | None
    teacher: str | None
    student_revision: str | None
    teacher_revision: str | None
    dtype: str
    tune_loaded_student: bool
    tune_loaded_teacher: bool
    arch: ArchConfig | None
    lora: LoraConfig | None


@dataclass
class DataConfig:
    """Which problems, how many, and what their answers are judged by."""

    name: str
    path: str | None
    rubric: str | None
    contract: str
    form: str | None
    wrapper: str
    candidates: int
    train: int
    calibration: int
    test: int
    min_items: int
    max_history: int
    max_title_words: int
    negatives: str
    chat_template: str
    system_prompt: str | None
    template_args: dict[str, Any]
    tokenizer_entries: int
    answer_room: int
    study_seeds: list[int]
    seed: int


@dataclass
class RoleConfig:
    """Supervised fine-tuning of one model; the style of its reference answers."""

    steps: int
    lr: float
    continue_mass: float
    corrupt_rate: float
    swap_rate: float


@dataclass
class SftConfig:
    """Supervised fine-tuning of teacher and warm start."""

    teacher: RoleConfig
    student: RoleConfig
    batch_size: int
    micro_batch: int | None
    lora_rank: int | None
    warmup_steps: int
    weight_decay: float
    grad_clip: float
    long_share: float
    long_words: int
    seed: int


@dataclass
class TuneConfig:
    """Fine-tuning on answers of one's own (`opdcliff sft`); no part of a run's identity."""

    epochs: float
    batch_size: int
    lr: float
    warmup: float
    weight_decay: float
    grad_clip: float
    held_out: float
    seed: int


@dataclass
class LamConfig:
    """Reward extrapolation: `value`, or what a pilot recommends, or `of_threshold` x lambda*."""

    value: float | None
    predicted: bool
    of_threshold: float | None
    warmup_updates: int


@dataclass
class ClipConfig:
    """Clip rule and its strength c."""

    name: str
    rule: str
    strength: float | None


@dataclass
class RolloutConfig:
    """How answers are sampled; of `backend`, vllm alone is part of a run's identity."""

    backend: str
    engine_memory: float
    engine_cap: float | None
    prompts_per_update: int
    max_new_tokens: int
    temperature: float
    updates_per_batch: int


@dataclass
class OptimConfig:
    """Optimizer, budget, step size and estimator of the policy gradient."""

    name: str
    updates: int
    lr: float
    beta1: float
    beta2: float
    weight_decay: float
    grad_clip: float
    estimator: str
    topk: int | None


@dataclass
class EvaluationConfig:
    """When and on how many prompts a run is measured, and when it counts as collapsed."""

    every: int
    prompts: int
    final_prompts: int
    ndcg_k: int
    gain: str
    collapse_floor: float
    collapse_patience: int
    stop_when_collapsed: bool


@dataclass
class CalibrationConfig:
    """How p and b are measured."""

    prompts: int
    forced_words: int
    offset_bin: int
    bootstrap: int
    strengths: list[float]
    seed: int


@dataclass
class EngineConfig:
    """Where and on how many ranks a run executes; no part of its identity."""

    name: str
    launcher: str
    hostfile: str | None
    device: str
    ranks: int
    threads: int
    micro_batch: int
    score_chunk_tokens: int
    gradient_checkpointing: bool
    offload_optimizer: bool
    offload_parameters: bool
    shard_teacher: bool
    overlap_comm: bool
    bucket_elements: int
    persistent_elements: int


@dataclass
class CheckpointConfig:
    """Checkpoints of a run in its record; no part of its identity."""

    every: int
    keep: int
    resume: str
    final_student: bool


@dataclass
class TrackingConfig:
    """What a run leaves to be looked at: its W&B mirror, and some of its answers."""

    mode: str
    project: str
    answers: int


@dataclass
class RunConfig:
    """One run, fully resolved."""

    seed: int
    model: ModelConfig
    data: DataConfig
    sft: SftConfig
    tune: TuneConfig
    lam: LamConfig
    clip: ClipConfig
    rollout: RolloutConfig
    optim: OptimConfig
    evaluation: EvaluationConfig
    calibration: CalibrationConfig
    preview: PreviewConfig
    grade: GradeConfig
    engine: EngineConfig
    checkpoint: CheckpointConfig
    tracking: TrackingConfig
    protocol: ProtocolConfig


def field_names(schema: type = RunConfig, prefix: str = "") -> list[str]:
    """Dotted names of all fields, for the test that no YAML value is left unread."""
    names: list[str] = []
    for field in fields(schema):
        inner = globals().get(str(field.type).split(" | ", maxsplit=1)[0])
        if isinstance(inner, type) and is_dataclass(inner):
            names += field_names(inner, f"{prefix}{field.name}.")
        else:
            names.append(prefix + field.name)
    return names
