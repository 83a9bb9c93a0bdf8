"""What Hydra composes from words; options are composed once a process, values set on a copy.

Hydra takes a tenth of a second of CPU for one config, and most configs of a process differ in plain
values alone, which Hydra too sets on what it composed of the rest. `grid` does so for its cells.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from opdcliff.paths import conf_dir
from opdcliff.storage import group_names

ROOT_CONFIG = "config"


@dataclass(frozen=True)
class Composition:
    """A composed config without Hydra's own settings; swept: keys of the grid it asks for."""

    config: DictConfig
    swept: tuple[str, ...]


@contextlib.contextmanager
def hydra_session() -> Iterator[Any]:
    """Hydra on the groups in conf/, whatever was initialised before."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3", job_name="opdcliff"):
        yield GlobalHydra.instance().hydra


def parsed(words: Sequence[str]) -> list[Override]:
    """Overrides as Hydra's grammar reads them. Raises what Hydra raises."""
    overrides: list[Override] = OverridesParser.create().parse_overrides(list(words))
    return overrides


def composition(overrides: Sequence[Override]) -> Composition:
    """What Hydra composes from the overrides. Raises what Hydra raises."""
    words = [str(override.input_line) for override in overrides]
    if not all(map(_plain, overrides)):
        return _by_hydra(words)
    groups = set(group_names())
    options = [w for w, o in zip(words, overrides, strict=True) if o.key_or_group in groups]
    values = [override for override in overrides if override.key_or_group not in groups]
    kept = _of_options(str(conf_dir()), *options)
    config = copy.deepcopy(kept.config)
    try:
        for override in values:
            OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
    except OmegaConfBaseException:
        # Hydra's own words about it.
        return _by_hydra(words)
    return Composition(config, kept.swept)


def _plain(override: Override) -> bool:
    """Whether it only chooses an option or changes a value: one, given as KEY=VALUE."""
    return (
        not (override.is_add() or override.is_force_add() or override.is_delete())
        and override.package is None
        and not override.is_sweep_override()
        and not isinstance(override.value(), dict)
        and "hydra" not in override.key_or_group
    )


@functools.cache
def _of_options(folder: str, *options: str) -> Composition:
    """The composition of options alone; folder: where they are read."""
    return _by_hydra(options)


def _by_hydra(words: Sequence[str]) -> Composition:
    with hydra_session():
        composed: DictConfig = compose(ROOT_CONFIG, list(words), return_hydra_config=True)
    swept = tuple(map(str, composed.hydra.sweeper.get("params") or ()))
    return Composition(without_hydra(composed), swept)


def without_hydra(composed: DictConfig) -> DictConfig:
    """The composed config without Hydra's own settings."""
    with open_dict(composed):
        composed.pop("hydra")
    return composed
