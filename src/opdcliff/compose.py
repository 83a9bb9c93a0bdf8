"""Composing Hydra configs, with its errors as one line each."""

from __future__ import annotations

from collections.abc import Sequence

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from opdcliff.errors import ConfigError
from opdcliff.paths import conf_dir


def compose_one(overrides: Sequence[str]) -> DictConfig:
    """The config of one run.

    Raises:
        ConfigError: an unknown group, option or key, or an override that cannot be read.
    """
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return compose("config", overrides=list(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(one_line(error)) from error


def one_line(error: Exception) -> str:
    """A Hydra error as one readable line."""
    return " ".join(str(error).split())
