"""From a composed Hydra config to a checked `RunConfig`.

`load` checks types and ranges; `science` is the part that decides the outcome of a run and
therefore its identity.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from opdcliff.errors import ConfigError
from opdcliff.paths import StudyPaths
from opdcliff.settings.contract_checks import check_contract, check_grade
from opdcliff.settings.engine_checks import ENGINE, check_rollout, check_stage
from opdcliff.settings.hostfile import check_slots
from opdcliff.settings.ranges import RANGES, value_at
from opdcliff.settings.schema import ArchConfig, RunConfig
from opdcliff.settings.structured import as_object, structured
from opdcliff.settings.study_schema import PredictionConfig
from opdcliff.storage import refuse_secrets
from opdcliff.theory import ClipRule, validate_clip

# Data sets that need no file, and those whose reasons are titles.
GENERATED, TITLED = ("mini", "titles", "orders"), ("titles", "amazon_titles")
# Plumbing: where a run executes and is mirrored, and the study it belongs to.
_NOT_SCIENCE = ("engine", "checkpoint", "tracking", "protocol", "tune", "preview", "grade")
# Settings that came later, and what was done before there was a choice: identities of then stay.
_LATER: dict[str, dict[str, Any]] = {
    "data": {
        "chat_template": "auto",
        "system_prompt": None,
        "template_args": {},
        "wrapper": "none",
        "negatives": "uniform",
    },
    "model": {"lora": None, "tune_loaded_teacher": False},
    "sft": {"micro_batch": None, "lora_rank": None},
    "rollout": {"engine_cap": None},
    "optim": {"name": "adamw"},
}


def load(composed: DictConfig | Mapping[str, Any]) -> RunConfig:
    """Check a composed config and return it typed.

    Raises:
        ConfigError: one line naming the field, its value and what is allowed.
    """
    return load_structured(structured(composed))


def load_structured(config: DictConfig) -> RunConfig:
    """`load` of a config whose types have been checked; it may be changed afterwards."""
    loaded = as_object(config)
    refuse_secrets(asdict(loaded))
    check(loaded)
    return loaded


def science(config: RunConfig) -> dict[str, Any]:
    """The settings that decide the outcome of a run: its identity is their hash.

    Paths are left out (the content they lead to is hashed with the prepared assets), and so are
    device, ranks, tracking, the study's layout, and what samples the answers unless its draws are
    its own.
    """
    return science_of(asdict(config))


def science_of(plain: Mapping[str, Any]) -> dict[str, Any]:
    """`science` of a config as plain containers, e.g. one read from a record."""
    kept = {k: copy.deepcopy(v) for k, v in plain.items() if k not in _NOT_SCIENCE}
    # lambda as a multiple of the threshold has become a value by the time a run starts.
    kept["lam"].pop("of_threshold")
    kept["lam"].pop("predicted", None)
    for key in ("path", "rubric", "study_seeds"):
        kept["data"].pop(key)
    # What it leads to is part of the prepared prompts.
    kept["data"].pop("form", None)
    kept["evaluation"].pop("stop_when_collapsed")
    # Those that sample the model itself draw the same tokens; older records have none.
    if kept["rollout"].get("backend") != ENGINE:
        kept["rollout"].pop("backend", None)
    kept["rollout"].pop("engine_memory", None)
    for group, later in _LATER.items():
        for key, default in later.items():
            if kept[group].get(key, default) == default:
                kept[group].pop(key, None)
    return kept


def check(config: RunConfig) -> None:
    """Raise ConfigError for the first value outside its range."""
    for name, allowed, holds in RANGES:
        value = value_at(config, name)
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{name}={value} is not finite; allowed: {allowed}")
        if value is not None and not holds(value):
            raise ConfigError(f"{name}={value} is not allowed; allowed: {allowed}")
    check_contract(config)
    # Both become parts of a path; any digest will do to have them checked.
    StudyPaths().cell_dir(config.protocol.name, config.clip.name, "0" * 12)
    _check_arch(config.model.arch)
    _check_clip(config)
    _check_lam(config)
    _check_sources(config)
    _check_reasons(config)
    _check_engine(config)
    check_rollout(config)
    _check_plateaus(config.protocol.predictions)
    check_grade(config.grade)


def _check_arch(arch: ArchConfig | None) -> None:
    if arch is None:
        return
    if arch.heads % arch.kv_heads:
        raise ConfigError(
            f"model.arch.kv_heads={arch.kv_heads} does not divide model.arch.heads={arch.heads}; "
            "give a divisor"
        )
    if arch.head_dim % 2:
        raise ConfigError(
            f"model.arch.head_dim={arch.head_dim} is odd; rotary positions need an even number"
        )


def _check_clip(config: RunConfig) -> None:
    rules = [rule.value for rule in ClipRule]
    if config.clip.rule not in rules:
        raise ConfigError(f"clip.rule={config.clip.rule} is unknown; allowed: {', '.join(rules)}")
    rule = ClipRule(config.clip.rule)
    validate_clip(rule, config.clip.strength, config.rollout.updates_per_batch)
    if rule.uses_policy_ratio and config.optim.estimator == "full":
        raise ConfigError(
            f"optim.estimator=full cannot use clip.rule={rule.value}, which acts on sampled tokens "
            "only; set optim.estimator=sampled"
        )


def _check_lam(config: RunConfig) -> None:
    lam = config.lam
    if lam.value is None and lam.of_threshold is None and not lam.predicted:
        raise ConfigError(
            "lam.value and lam.of_threshold are both null; set lam.value (a number >= 0) or "
            "lam.of_threshold (a multiple of the calibrated lambda*), or choose lambda=predicted"
        )


def _check_plateaus(predictions: PredictionConfig | None) -> None:
    if predictions is not None and not predictions.lower_plateau < predictions.upper_plateau:
        raise ConfigError(
            f"protocol.predictions.lower_plateau={predictions.lower_plateau} is not below "
            f"protocol.predictions.upper_plateau={predictions.upper_plateau}; the onset is read "
            "midway, where the parse rate falls from one to the other"
        )


def _check_engine(config: RunConfig) -> None:
    engine, ranks = config.engine, config.engine.ranks
    if engine.name == "single":
        for name, used in (
            ("ranks", ranks > 1),
            ("launcher", engine.launcher != "auto"),
            ("hostfile", engine.hostfile is not None),
        ):
            if used:
                value = getattr(engine, name)
                raise ConfigError(f"engine.{name}={value} needs a ZeRO engine; set engine=zero2")
    elif config.model.dtype == "float64":
        raise ConfigError("model.dtype=float64 is only for engine=single; set float32 or bfloat16")
    if engine.hostfile is not None:
        if engine.launcher != "deepspeed":
            raise ConfigError(
                f"engine.hostfile={engine.hostfile} needs the launcher that reaches other hosts; "
                "set engine.launcher=deepspeed"
            )
        check_slots(engine.hostfile, ranks)
    check_stage(config)
    if config.rollout.prompts_per_update % ranks:
        # Ranks work in step: each needs the same number of answers.
        raise ConfigError(
            f"rollout.prompts_per_update={config.rollout.prompts_per_update} cannot be shared out "
            f"evenly over engine.ranks={ranks}; give a multiple"
        )
    for name in ("prompts", "final_prompts"):
        if getattr(config.evaluation, name) < ranks:
            raise ConfigError(
                f"evaluation.{name}={getattr(config.evaluation, name)} leaves some of "
                f"engine.ranks={ranks} without any; give at least as many"
            )


def _check_sources(config: RunConfig) -> None:
    data, model = config.data, config.model
    if data.name not in GENERATED and data.path is None:
        raise ConfigError(f"data.path is missing for data={data.name}; set data.path=PATH")
    for name, value in (("data.path", data.path), ("data.rubric", data.rubric)):
        if value is not None and not Path(value).expanduser().exists():
            made = " (`opdcliff grade` writes it)" if name == "data.rubric" else ""
            raise ConfigError(f"{name}={value} does not exist{made}; give an existing path")
    for name, source in (("model.student", model.student), ("model.teacher", model.teacher)):
        # A hub id is `owner/name`; anything that looks like a file-system path must exist.
        if source and _looks_like_path(source) and not Path(source).expanduser().is_dir():
            made = "; `opdcliff fetch smollm2` makes it" if source.endswith("/smollm2") else ""
            raise ConfigError(
                f"{name}={source} is no folder{made}; give a model folder or a hub id"
            )
        revision = getattr(model, f"{name.removeprefix('model.')}_revision")
        if source and not Path(source).expanduser().is_dir() and not is_commit(revision):
            raise ConfigError(
                f"{name}={source} is no folder, and as a hub id it needs its commit: set "
                f"{name}_revision (now {revision}) to the 40 hex digits, or give a folder"
            )
    # A student that is fine-tuned here is tuned into a teacher as well, where there is none.
    alone = model.student is not None and model.teacher is None and not model.tune_loaded_student
    if alone or (model.student is None and model.teacher is not None):
        raise ConfigError(
            "model.student and model.teacher must both be given or both be null: they have to "
            "share a tokenizer (with model.tune_loaded_student=true, model.teacher=null tunes "
            "both from model.student)"
        )
    if model.tune_loaded_teacher and model.teacher is None:
        raise ConfigError(
            "model.tune_loaded_teacher=true has no teacher to tune: give model.teacher, or leave "
            "it false (a teacher that is made here is tuned anyway)"
        )
    if config.sft.lora_rank is not None and model.student is None:
        raise ConfigError(
            f"sft.lora_rank={config.sft.lora_rank} is for models that are loaded; leave it null "
            "where they are built from model.arch"
        )
    if model.student is None and model.arch is None:
        raise ConfigError("model.student is null and there is no model.arch to build; set one")
    most = max(config.evaluation.prompts, config.evaluation.final_prompts)
    if most > data.test:
        raise ConfigError(
            f"evaluation needs up to {most} test prompts and data.test={data.test}; raise "
            "data.test or lower evaluation.prompts and evaluation.final_prompts"
        )
    if config.calibration.prompts > data.calibration:
        raise ConfigError(
            f"calibration.prompts={config.calibration.prompts} exceeds "
            f"data.calibration={data.calibration}; lower the first or raise the second"
        )


def _check_reasons(config: RunConfig) -> None:
    for role in ("teacher", "student"):
        if getattr(config.sft, role).continue_mass == 1.0 and config.data.name not in TITLED:
            raise ConfigError(
                f"sft.{role}.continue_mass=1.0 would write filler words without end; only titles "
                "(data=titles, data=amazon_titles) end by themselves: give a number below 1"
            )


def is_commit(revision: str | None) -> bool:
    """Whether a hub revision names one checkpoint for good: 40 hex digits, no branch or tag."""
    return revision is not None and re.fullmatch(r"[0-9a-f]{40}", revision) is not None


def _looks_like_path(source: str) -> bool:
    return source.startswith((".", "/", "~")) or source.count("/") > 1
