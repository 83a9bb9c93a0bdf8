"""The cells of a protocol as a lock keeps them: its arms and its baselines."""

from __future__ import annotations

from dataclasses import replace

from opdcliff.calibration import Binding
from opdcliff.prereg.claims.contrasts import LARGER_SFT
from opdcliff.records import OPD
from opdcliff.settings import (
    AS_TEACHER,
    ModelConfig,
    ProtocolArm,
    RunConfig,
    model_option,
    science,
)
from opdcliff.study import arm_config, grid
from opdcliff.training import BASELINES
from opdcliff.verification import LockedArm


def locked_arms(config: RunConfig, binding: Binding | None) -> list[LockedArm]:
    """The arms of a protocol and its baselines, as a lock keeps them.

    Raises:
        ConfigError: no threshold was calibrated.
    """
    first, predictions = config.protocol.arms[0], config.protocol.predictions
    arms = [
        LockedArm(
            name=arm.name,
            kind=OPD,
            multiples=arm.multiples,
            lams=_lams(config, arm, binding),
            settings=science(arm_config(config, arm, 0)),
        )
        for arm in config.protocol.arms
    ]
    return arms + [
        LockedArm(
            name=kind,
            kind=kind,
            multiples=[],
            lams=[1.0],
            settings=science(baseline_config(config, first, kind, 0)),
        )
        for kind in BASELINES
        if kind != LARGER_SFT or (predictions is not None and predictions.larger_model is not None)
    ]


def baseline_config(config: RunConfig, arm: ProtocolArm, kind: str, seed: int) -> RunConfig:
    """The config of a baseline cell: that of an arm, with the larger model where it is that."""
    own = arm_config(config, arm, seed)
    predictions = config.protocol.predictions
    if kind == LARGER_SFT and predictions is not None and predictions.larger_model is not None:
        own.model = _larger(predictions.larger_model, own.model)
    return own


def _larger(name: str, pair: ModelConfig) -> ModelConfig:
    """The larger baseline: an option of the group `model`, or the checkpoint of the teacher.

    The latter stands in the student's place, to be fine-tuned under the seed of its cell.
    """
    if name != AS_TEACHER:
        return model_option(name)
    return replace(
        pair,
        student=pair.teacher,
        student_revision=pair.teacher_revision,
        tune_loaded_student=True,
        lora=None,
    )


def _lams(config: RunConfig, arm: ProtocolArm, binding: Binding | None) -> list[float]:
    protocol = replace(config.protocol, arms=[replace(arm, seeds=[0])])
    return [cell.lam for cell in grid(replace(config, protocol=protocol), binding)]
