"""The engine that a configuration names."""

from __future__ import annotations

from transformers import PreTrainedModel

from opdcliff.engine.protocol import Engine
from opdcliff.engine.single import SingleEngine
from opdcliff.settings import RunConfig


def open_engine(student: PreTrainedModel, config: RunConfig) -> Engine:
    """The engine of `config.engine.name` around `student`; a ZeRO engine only inside a rank."""
    if config.engine.name == "single":
        return SingleEngine(student, config)
    from opdcliff.engine.zero import DeepSpeedEngine

    return DeepSpeedEngine(student, config)
