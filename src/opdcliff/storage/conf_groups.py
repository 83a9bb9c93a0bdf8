"""The groups of conf/ and their options, read without Hydra so that help comes at once."""

from __future__ import annotations

import functools
from pathlib import Path

from opdcliff.paths import conf_dir
from opdcliff.storage.yaml_text import read_yaml

_NOTES = ("# @package", "# opdcliff ")


def group_names() -> list[str]:
    """Names of all groups, in the order of the root config."""
    return list(_defaults())


def options_of(group: str) -> list[str]:
    """Names of a group's options, the default first; empty for an unknown group."""
    default = _defaults().get(group)
    names = sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))
    return sorted(names, key=lambda name: name != default)


def default_of(group: str) -> str | None:
    """The option taken when none is named; None for a group that is off by default."""
    return _defaults()[group]


def describe(group: str, option: str) -> str:
    """What an option is for: the first line of its header comment."""
    file = conf_dir() / group / f"{option}.yaml"
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith("# ") and not line.startswith(_NOTES):
            return line.removeprefix("# ")
    return ""


def _defaults() -> dict[str, str | None]:
    return _defaults_in(conf_dir())


@functools.cache
def _defaults_in(folder: Path) -> dict[str, str | None]:
    root = read_yaml((folder / "config.yaml").read_text(encoding="utf-8"))
    return {
        key: option
        for entry in root["defaults"]
        if isinstance(entry, dict)
        for key, option in entry.items()
        if not key.startswith("override ")
    }
