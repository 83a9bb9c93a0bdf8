"""The typed configuration of what is run around single runs: studies, locks, previews, grades.

Values live in conf/*.yaml, as those of `schema`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# A larger model that is none of the group `model`: the checkpoint that the teacher is loaded from.
AS_TEACHER = "as_teacher"


@dataclass
class ProtocolArm:
    """Cells of a study: every multiple of lambda* with every seed under one clip option."""

    name: str
    clip: str
    multiples: list[float]
    seeds: list[int]
    estimator: str | None
    warmup_updates: int | None
    updates: int | None


@dataclass
class PredictionConfig:
    """What makes locked windows of calibration and pilot; an arm or model of null has no test."""

    pilot: list[ProtocolArm]
    exact: bool
    blind_from: float | None
    fine_grid: str
    extended: list[str]
    small_clip: str | None
    far_below: str | None
    larger_model: str | None
    previews: list[str]
    carried: str | None
    upper_plateau: float
    lower_plateau: float
    safe_multiple: float
    flat_delta: float
    least_lift: float
    parity_margin: float
    least_seeds: int
    published: str | None
    choices: dict[str, str]


@dataclass
class ProtocolConfig:
    """A study: its arms, how many cells run side by side, and for a locked one its predictions."""

    name: str
    arms: list[ProtocolArm]
    bisect: bool
    workers: int
    ordered: bool
    predictions: PredictionConfig | None


@dataclass
class PreviewConfig:
    """Where settled students are sampled, and of what a run falls short: margin, budget."""

    lams: list[float] | None
    strengths: list[float] | None
    prompts: int
    margin: float | None
    reached: float
    rare: float
    floor: float | None
    seed: int


@dataclass
class GradeConfig:
    """A judge that writes a rubric file (`opdcliff grade`); no part of a run's identity."""

    base_url: str | None
    model: str | None
    key_variable: str | None
    temperature: float | None
    answer_format: str
    answer_tokens: int
    extra: dict[str, Any]
    candidates: int | None
    history: int
    title_words: int
    rubric: str | None
    seed: int
    concurrency: int
    per_minute: float | None
    timeout: float
    retries: int
    price_in: float | None
    price_out: float | None
    limit: float | None
    repeats: int
    ungraded: float
    other: str | None
    out: str | None
    bootstrap: int
