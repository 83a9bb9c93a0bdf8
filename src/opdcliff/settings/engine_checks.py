"""Which options of engines go together; read by the checks of settings and by the engines."""

from __future__ import annotations

from opdcliff.errors import ConfigError
from opdcliff.settings.schema import RunConfig

STAGES = {"zero0": 0, "zero1": 1, "zero2": 2, "zero3": 3}
# What samples with weights, kernels and draws of its own.
ENGINE = "vllm"
# Engines that can do what is switched on.
_ABLE = {
    "shard_teacher": ("zero2", "zero0", "zero1", "zero3"),
    "offload_optimizer": ("zero2", "zero1", "zero3"),
    "overlap_comm": ("zero2", "zero1", "zero3"),
    "offload_parameters": ("zero3",),
}


def check_stage(config: RunConfig) -> None:
    """Raise ConfigError for engine options that the engine cannot do."""
    engine = config.engine
    for name, able in _ABLE.items():
        if getattr(engine, name) and engine.name not in able:
            raise ConfigError(
                f"engine.{name}=true does not go with engine={engine.name}; set engine={able[0]} "
                f"or engine.{name}=false"
            )
    if engine.shard_teacher and engine.ranks == 1:
        raise ConfigError(
            "engine.shard_teacher=true has no ranks to split over (engine.ranks=1); raise "
            "engine.ranks or set engine.shard_teacher=false"
        )
    if engine.name == "zero0" and config.model.dtype == "bfloat16":
        raise ConfigError(
            "model.dtype=bfloat16 does not go with engine=zero0, which would sum gradients in "
            "bfloat16; set engine=zero2, or model.dtype=float32"
        )


def check_rollout(config: RunConfig) -> None:
    """Raise ConfigError for what an engine of its own cannot sample or correct."""
    cap, backend = config.rollout.engine_cap, config.rollout.backend
    if backend != ENGINE:
        if cap is not None:
            raise ConfigError(
                f"rollout.engine_cap={cap:g} has no effect on rollout.backend={backend}, which "
                "samples the student itself; set rollout.engine_cap=null, or "
                f"rollout.backend={ENGINE}"
            )
        return
    if cap is not None and config.optim.estimator == "full":
        raise ConfigError(
            f"rollout.engine_cap={cap:g} weighs sampled tokens, and optim.estimator=full averages "
            "over all tokens at each place; set rollout.engine_cap=null, or optim.estimator=sampled"
        )
    if config.model.dtype == "float64":
        raise ConfigError(
            f"model.dtype=float64 does not go with rollout.backend={ENGINE}, which has no such "
            "precision; set model.dtype=float32 or bfloat16"
        )
    if config.model.lora is not None:
        raise ConfigError(
            f"model.lora does not go with rollout.backend={ENGINE}, which is handed whole weights; "
            "set model.lora=null, or rollout.backend=compiled"
        )
