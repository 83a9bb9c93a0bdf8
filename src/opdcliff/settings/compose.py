"""Composing Hydra configs: one of a run, or all cells of a grid, with errors as one line each."""

from __future__ import annotations

import contextlib
import copy
import difflib
import functools
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

from opdcliff.errors import ConfigError
from opdcliff.paths import conf_dir
from opdcliff.settings.checks import load, science, typed
from opdcliff.settings.schema import ClipConfig, ModelConfig, RunConfig, field_names
from opdcliff.storage import group_names, options_of

ROOT_CONFIG = "config"

# Hydra raises a ValueError for a group whose option is a number.
_COMPOSE_ERRORS = (HydraException, OmegaConfBaseException, ValueError)


@dataclass(frozen=True)
class GridCell:
    """One cell of a grid: its checked config, and the overrides that tell it from the others."""

    config: RunConfig
    varied: tuple[str, ...]


@dataclass(frozen=True)
class Grid:
    """The cells in the order in which Hydra numbers its jobs, and the launcher they run under."""

    cells: list[GridCell]
    launcher: str


def compose_one(overrides: Sequence[str]) -> DictConfig:
    """The config of one run.

    Raises:
        ConfigError: an unknown group, option or key, an override that cannot be read, or a grid.
    """
    _refuse_flags(overrides)
    with hydra_session(), _as_one_line(overrides):
        _refuse_hydra(overrides)
        composed: DictConfig = compose(
            ROOT_CONFIG, overrides=list(overrides), return_hydra_config=True
        )
        params = composed.hydra.sweeper.get("params")
        if params:
            raise ConfigError(
                f"this is a grid over {', '.join(map(str, params))}; run it with "
                "`opdcliff train -m ...`"
            )
        return _without_hydra(composed)


def compose_grid(overrides: Sequence[str]) -> Grid:
    """All cells of a multirun, each composed and checked.

    Raises:
        ConfigError: as `compose_one`, a value out of range in any cell, or the same run twice.
    """
    _refuse_flags(overrides)
    with hydra_session() as hydra, _as_one_line(overrides):
        _refuse_hydra(overrides)
        master = hydra.compose_config(ROOT_CONFIG, list(overrides), RunMode.MULTIRUN)
        params = master.hydra.sweeper.get("params") or {}
        words = [f"{key}={value}" for key, value in params.items()]
        words += list(master.hydra.overrides.task)
        parser = OverridesParser.create(config_loader=hydra.config_loader)
        cells = _product(parser.parse_overrides(words))
        checked = [
            GridCell(_checked(hydra.config_loader.load_sweep_config(master, cell), names), names)
            for cell, names in zip(cells, _varied(cells), strict=True)
        ]
    _refuse_repeats(checked)
    launcher = master.hydra.launcher
    if "_target_" not in launcher:
        raise ConfigError(f"hydra.launcher={launcher} is not allowed; set launcher=OPTION")
    return Grid(checked, str(launcher._target_))


def run_multirun(overrides: Sequence[str], task: Callable[[DictConfig], Any]) -> list[Any]:
    """Hand the grid to Hydra's sweeper and launcher; what `task` returned, by job number."""
    with hydra_session() as hydra:
        batches = hydra.multirun(ROOT_CONFIG, task, list(overrides))
    return [job.return_value for batch in batches for job in batch]


def clip_option(name: str) -> ClipConfig:
    """An option of the group `clip`. ConfigError if there is none of that name."""
    return copy.deepcopy(_with_option("clip", name).clip)


def model_option(name: str) -> ModelConfig:
    """An option of the group `model`. ConfigError if there is none of that name."""
    return copy.deepcopy(_with_option("model", name).model)


@functools.cache
def _with_option(group: str, name: str) -> RunConfig:
    return typed(compose_one([f"{group}={name}"]))


def quoted(value: object) -> str:
    """A value, e.g. a path, as Hydra's override grammar reads it back unchanged."""
    text = str(value).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{text}'"


@contextlib.contextmanager
def hydra_session() -> Iterator[Any]:
    """Hydra on the groups in conf/, whatever was initialised before."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3", job_name="opdcliff"):
        yield GlobalHydra.instance().hydra


def one_line(error: Exception, overrides: Sequence[str] = ()) -> str:
    """A Hydra error as one readable line: the value, what is allowed, what to do."""
    text = " ".join(str(error).split())
    if isinstance(error, MissingConfigException):
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        return _unknown_option(group, option, error.options)
    if isinstance(error, OverrideParseException):
        return f"{error.override} cannot be read; write group=option or key.field=value"
    if match := re.match(r"Could not override '(.+?)'", text):
        return _unknown_setting(match[1])
    if match := re.match(r"Ambiguous value for argument '(.+?)'", text):
        return (
            f"{match[1]} holds several values; for a grid use `opdcliff train -m {match[1]}`, for "
            "a list put it in [ ]"
        )
    if match := re.match(r"Could not delete from config. '(.+?)'", text):
        return f"{match[1]} cannot be removed; every setting needs a value, which may be null"
    if "Can only enumerate CHOICE and RANGE sweeps" in text:
        return "a grid lists its values: key=value,value,... or key=range(start,stop,step)"
    if type(error) is ValueError:
        for word in overrides:
            group, _, option = word.partition("=")
            if group in group_names() and option not in options_of(group):
                return _unknown_option(group, option, options_of(group))
    return text


@contextlib.contextmanager
def _as_one_line(overrides: Sequence[str]) -> Iterator[None]:
    try:
        yield
    except _COMPOSE_ERRORS as error:
        raise ConfigError(one_line(error, overrides)) from error


def _refuse_flags(overrides: Sequence[str]) -> None:
    for word in overrides:
        if word.startswith("-"):
            raise ConfigError(
                f"{word} is unknown; flags are --help and, with train, -m; settings are written "
                "key.field=value"
            )
        if word.startswith("="):
            raise ConfigError(f"{word} names no setting; write group=option or key.field=value")


def _refuse_hydra(overrides: Sequence[str]) -> None:
    """Only fields of the launcher may be set: the rest of `hydra` names code, files and folders."""
    for parsed in OverridesParser.create().parse_overrides(list(overrides)):
        key, package = parsed.key_or_group, parsed.package or ""
        if "hydra" not in re.split(r"[./]", f"{key}.{package}"):
            continue
        field = re.fullmatch(r"hydra[./]launcher(\.\w+)?", key) and not package
        if not field or re.search(r"_target_|\$", parsed.input_line or ""):
            raise ConfigError(
                f"{parsed.get_key_element()} cannot be set; of Hydra's own settings only "
                "hydra.launcher.FIELD can, to a plain value, and launcher=OPTION"
            )


def _unknown_option(group: str, option: str, allowed: Sequence[str] | None) -> str:
    line = f"{group}={option} is unknown; allowed: {', '.join(sorted(allowed or ())) or 'none'}"
    if group == "lambda":
        line += "; a number goes into lam.value"
    elif group.startswith("hydra/"):
        line += "; `pip install -e '.[launchers]'` adds joblib and slurm"
    return line


def _unknown_setting(key: str) -> str:
    if key.startswith("data.template_args"):
        return (
            f"{key}: a variable of the chat template is added with a plus, as in "
            "+data.template_args.enable_thinking=false"
        )
    known = [*group_names(), *field_names()]
    if key in known:
        parent = key.rpartition(".")[0]
        return (
            f"there is no setting {key} where {parent} is null; choose an option of its group that "
            "sets it first (`opdcliff train --help`)"
        )
    near = difflib.get_close_matches(key, known, n=3)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return f"there is no setting {key}; {hint}`opdcliff config` prints all of them"


def _checked(composed: DictConfig, varied: Sequence[str]) -> RunConfig:
    try:
        return load(_without_hydra(composed))
    except ConfigError as error:
        if not varied:
            raise
        raise ConfigError(f"{error} (in the cell {' '.join(varied)})") from error


def _refuse_repeats(cells: Sequence[GridCell]) -> None:
    """The same run twice would be trained once, and fight over one record under joblib."""
    first: dict[str, int] = {}
    for number, cell in enumerate(cells, start=1):
        lam = cell.config.lam
        multiple = lam.of_threshold if lam.value is None else None
        key = repr((science(cell.config), multiple))
        if key in first:
            names = f" ({' '.join(cell.varied)})" if cell.varied else ""
            raise ConfigError(
                f"cells {first[key]} and {number} of the grid are the same run{names}; drop one"
            )
        first[key] = number


def _product(overrides: Sequence[Override]) -> list[list[str]]:
    """What Hydra's sweeper will do, done beforehand: every combination, the last varies fastest.

    A key given again, as on a command line after an experiment, replaces what it was.
    """
    choices: dict[str, list[str]] = {}
    for override in overrides:
        values = (
            override.sweep_string_iterator()
            if override.is_sweep_override()
            else [override.get_value_element_as_str()]
        )
        key = override.get_key_element()
        choices[key] = [f"{key}={value}" for value in values]
    return [list(cell) for cell in itertools.product(*choices.values())]


def _varied(cells: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """Of each cell, the overrides that are not the same in all of them."""
    common = set(cells[0]).intersection(*cells)
    return [tuple(word for word in cell if word not in common) for cell in cells]


def _without_hydra(composed: DictConfig) -> DictConfig:
    with open_dict(composed):
        composed.pop("hydra")
    return composed
