"""DeepSpeed's configuration is composed from ours, and DeepSpeed knows every word of it."""

from __future__ import annotations

from typing import Any

import pytest

from opdcliff.engine.zero_settings import deepspeed_settings, teacher_settings
from opdcliff.settings.checks import load
from opdcliff.settings.compose import compose_one
from opdcliff.settings.schema import RunConfig


def _config(*words: str) -> RunConfig:
    return load(compose_one(["lam.value=1.0", *words]))


def _composed(*words: str) -> dict[str, Any]:
    return deepspeed_settings(_config(*words))


@pytest.mark.parametrize("stage", range(4))
def test_the_stage_and_the_optimizer_are_those_of_the_engine(stage: int) -> None:
    settings = _composed(f"engine=zero{stage}", "optim.grad_clip=0.25")
    assert settings["zero_optimization"]["stage"] == stage
    assert settings["gradient_clipping"] == 0.25
    assert settings["bf16"] == {"enabled": False}
    # torch's own AdamW, whatever is offloaded.
    assert settings["zero_allow_untested_optimizer"]
    assert not settings["zero_force_ds_cpu_optimizer"]


def test_sizes_of_collectives_are_set_everywhere() -> None:
    words = ["engine=zero3", "engine.bucket_elements=77", "engine.persistent_elements=5"]
    zero = _composed(*words)["zero_optimization"]
    assert zero["reduce_bucket_size"] == zero["allgather_bucket_size"] == 77
    assert zero["stage3_prefetch_bucket_size"] == 77
    assert zero["stage3_param_persistence_threshold"] == 5


def test_offloading_is_to_host_memory_and_only_on_demand() -> None:
    zero = _composed("engine=zero3")["zero_optimization"]
    assert not {"offload_optimizer", "offload_param"} & zero.keys()
    words = ["engine.offload_optimizer=true", "engine.offload_parameters=true"]
    zero = _composed("engine=zero3", *words)["zero_optimization"]
    assert zero["offload_optimizer"] == zero["offload_param"] == {"device": "cpu"}


def test_overlap_is_a_setting_of_stages_that_split() -> None:
    assert "overlap_comm" not in _composed("engine=zero0")["zero_optimization"]
    assert not _composed("engine=zero2")["zero_optimization"]["overlap_comm"]
    assert _composed("engine=zero3")["zero_optimization"]["overlap_comm"]
    assert _composed("engine=zero2", "engine.overlap_comm=true")["zero_optimization"][
        "overlap_comm"
    ]


@pytest.mark.parametrize(("stage", "sum_in_float32"), [(1, False), (2, True), (3, True)])
def test_bfloat16_models_are_trained_as_such(stage: int, sum_in_float32: bool) -> None:
    settings = _composed(f"engine=zero{stage}", "model.dtype=bfloat16")
    assert settings["bf16"] == {"enabled": True}
    assert (settings.get("data_types") == {"grad_accum_dtype": "fp32"}) == sum_in_float32


def test_a_split_teacher_has_stage_3_and_no_optimizer() -> None:
    config = _config("engine=zero1", "engine.shard_teacher=true", "model.dtype=bfloat16")
    settings = teacher_settings(config)
    assert settings["zero_optimization"]["stage"] == 3
    assert settings["bf16"] == {"enabled": True}
    assert not {"optimizer", "gradient_clipping"} & settings.keys()
    assert not {"offload_param", "offload_optimizer"} & settings["zero_optimization"].keys()


@pytest.mark.parametrize("stage", range(4))
def test_deepspeed_knows_every_setting(stage: int) -> None:
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    zero = _composed(f"engine=zero{stage}")["zero_optimization"]
    known = {
        word for name, f in DeepSpeedZeroConfig.model_fields.items() for word in (name, f.alias)
    }
    assert zero.keys() <= known
    assert DeepSpeedZeroConfig(**zero).stage == stage
