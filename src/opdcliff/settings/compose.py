"""Composing the Hydra config of one run, with errors as one line each; grids are in `grid`."""

from __future__ import annotations

import contextlib
import copy
import difflib
import functools
import re
from collections.abc import Iterator, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, Sweep, ValueType
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from opdcliff.errors import ConfigError
from opdcliff.settings.composition import composition, parsed
from opdcliff.settings.schema import ClipConfig, ModelConfig, RunConfig, field_names
from opdcliff.settings.structured import typed
from opdcliff.settings.typed_text import keep_texts
from opdcliff.storage import group_names, options_of

# Hydra raises a ValueError for a group whose option is a number.
_COMPOSE_ERRORS = (HydraException, OmegaConfBaseException, ValueError)


def compose_one(overrides: Sequence[str]) -> DictConfig:
    """The config of one run.

    Raises:
        ConfigError: an unknown group, option or key, an override that cannot be read, or a grid.
    """
    words = checked_words(overrides)
    with as_one_line(words):
        found = composition(parsed(words))
    if found.swept:
        raise ConfigError(
            f"this is a grid over {', '.join(found.swept)}; run it with `opdcliff train -m ...`"
        )
    return found.config


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


def checked_words(overrides: Sequence[str]) -> list[str]:
    """The overrides with texts kept as typed, once each can be read and set.

    Raises:
        ConfigError: a flag, one of Hydra's own settings, or values that cannot be listed.
    """
    _refuse_flags(overrides)
    words = keep_texts(overrides)
    with as_one_line(words):
        for parsed in OverridesParser.create().parse_overrides(words):
            _refuse_hydra(parsed)
            _refuse_values(parsed)
    return words


@contextlib.contextmanager
def as_one_line(overrides: Sequence[str]) -> Iterator[None]:
    """Whatever composing raises in this block, as ConfigError."""
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


def _refuse_hydra(parsed: Override) -> None:
    """Only fields of the launcher may be set: the rest of `hydra` names code, files and folders."""
    key, package = parsed.key_or_group, parsed.package or ""
    if "hydra" not in re.split(r"[./]", f"{key}.{package}"):
        return
    field = re.fullmatch(r"hydra[./]launcher(\.\w+)?", key) and not package
    if not field or re.search(r"_target_|\$", parsed.input_line or ""):
        raise ConfigError(
            f"{parsed.get_key_element()} cannot be set; of Hydra's own settings only "
            "hydra.launcher.FIELD can, to a plain value, and launcher=OPTION"
        )


def _refuse_values(parsed: Override) -> None:
    """What Hydra's parser lets through and its sweeper would fail of."""
    if parsed.value_type is ValueType.GLOB_CHOICE_SWEEP and parsed.key_or_group not in [
        *group_names(),
        "hydra/launcher",
    ]:
        raise ConfigError(
            f"{parsed.input_line}: glob() lists the options of a group; for a setting write its "
            "values, key=value,value,..."
        )
    values = parsed.value()
    listed = values.list if isinstance(values, ChoiceSweep) else values
    if isinstance(listed, list) and any(isinstance(value, Sweep) for value in listed):
        raise ConfigError(
            f"{parsed.input_line}: a list cannot hold range(), choice() or glob(); write all its "
            "values out, or give that alone"
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
    if key.startswith("grade.extra"):
        return (
            f"{key}: a field of the requests is added with a plus, as in "
            "+grade.extra.reasoning_effort=low"
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
