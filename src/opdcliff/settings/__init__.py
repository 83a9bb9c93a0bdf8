"""From conf/ to one checked, typed configuration; every range and every error line about it."""

from __future__ import annotations

from opdcliff.settings.checks import GENERATED, check, load, science, science_of
from opdcliff.settings.compose import (
    clip_option,
    compose_one,
    model_option,
    quoted,
)
from opdcliff.settings.composition import ROOT_CONFIG, hydra_session
from opdcliff.settings.engine_checks import ENGINE, STAGES
from opdcliff.settings.grid import Grid, GridCell, compose_grid, launch_grid
from opdcliff.settings.hostfile import Host, read_hostfile, resolved
from opdcliff.settings.schema import (
    ArchConfig,
    CalibrationConfig,
    CheckpointConfig,
    DataConfig,
    EngineConfig,
    EvaluationConfig,
    LoraConfig,
    ModelConfig,
    OptimConfig,
    RoleConfig,
    RolloutConfig,
    RunConfig,
    SftConfig,
)
from opdcliff.settings.study_schema import AS_TEACHER, GradeConfig, PredictionConfig, ProtocolArm

__all__ = [
    "AS_TEACHER",
    "ENGINE",
    "GENERATED",
    "ROOT_CONFIG",
    "STAGES",
    "ArchConfig",
    "CalibrationConfig",
    "CheckpointConfig",
    "DataConfig",
    "EngineConfig",
    "EvaluationConfig",
    "GradeConfig",
    "Grid",
    "GridCell",
    "Host",
    "LoraConfig",
    "ModelConfig",
    "OptimConfig",
    "PredictionConfig",
    "ProtocolArm",
    "RoleConfig",
    "RolloutConfig",
    "RunConfig",
    "SftConfig",
    "check",
    "clip_option",
    "compose_grid",
    "compose_one",
    "hydra_session",
    "launch_grid",
    "load",
    "model_option",
    "quoted",
    "read_hostfile",
    "resolved",
    "science",
    "science_of",
]
