"""DeepSpeed's own configuration, composed from ours."""

from __future__ import annotations

from typing import Any

from opdcliff.settings import STAGES, RunConfig


def deepspeed_settings(config: RunConfig) -> dict[str, Any]:
    """The JSON object that trains the student, for a config whose engine is a ZeRO one.

    bfloat16 parameters get a float32 copy in the optimizer. Stages 2 and 3 sum the gradients of
    parts in float32 as well, stage 1 in the model's precision.
    """
    engine, stage = config.engine, STAGES[config.engine.name]
    zero = _zero(config, stage)
    if stage > 0:
        zero["overlap_comm"] = engine.overlap_comm
    if stage == 3:
        zero["stage3_param_persistence_threshold"] = engine.persistent_elements
    # Page-locked memory, which DeepSpeed takes by default, exists for the sake of a GPU.
    if engine.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu"}
    if engine.offload_parameters:
        zero["offload_param"] = {"device": "cpu"}
    settings = _common(config) | {
        "gradient_clipping": config.optim.grad_clip,
        "zero_optimization": zero,
        # Both allow torch's AdamW, the one the other engine uses.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    if config.model.dtype == "bfloat16" and stage > 1:
        settings["data_types"] = {"grad_accum_dtype": "fp32"}
    return settings


def teacher_settings(config: RunConfig) -> dict[str, Any]:
    """The JSON object that splits the frozen teacher over the ranks: ZeRO-3, no optimizer."""
    # All of it: what ZeRO-3 would keep whole is not counted on.
    whole = {"stage3_param_persistence_threshold": 0}
    return _common(config) | {"zero_optimization": _zero(config, 3) | whole}


def _common(config: RunConfig) -> dict[str, Any]:
    return {
        # Parts are counted by `backward`; this field is required and decides nothing.
        "train_micro_batch_size_per_gpu": 1,
        "bf16": {"enabled": config.model.dtype == "bfloat16"},
    }


def _zero(config: RunConfig, stage: int) -> dict[str, Any]:
    zero: dict[str, Any] = {
        "stage": stage,
        "reduce_bucket_size": config.engine.bucket_elements,
        "allgather_bucket_size": config.engine.bucket_elements,
    }
    if stage == 3:
        zero["stage3_prefetch_bucket_size"] = config.engine.bucket_elements
    return zero
