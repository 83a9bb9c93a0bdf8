"""Which engine options go together; read by the checks of settings and by the engines."""

from __future__ import annotations

from opdcliff.errors import ConfigError
from opdcliff.settings.schema import RunConfig

STAGES = {"zero0": 0, "zero1": 1, "zero2": 2, "zero3": 3}
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
