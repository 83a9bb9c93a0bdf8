"""Write config.md and default_config.yaml beside this file, from conf/: `make renew-docs`.

The comments of conf/*.yaml are the only place where a setting is explained; this page repeats them.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from opdcliff.cli import main
from opdcliff.paths import conf_dir
from opdcliff.settings import schema
from opdcliff.settings.ranges import RANGES
from opdcliff.storage.conf_groups import default_of, describe, group_names, options_of

FOLDER = Path(__file__).parent
# Groups that are no part of the typed configuration.
_OTHERS = {
    "launcher": "What runs the cells of `opdcliff train -m`.",
    "lora": "Whether `train` and `sft` train the student's weights or an adapter on them.",
    "experiment": "Ready grids and studies; off unless named. The first line is the command.",
    "debug": "Changes many groups at once; off unless named.",
}
_SWEPT = "hydra.sweeper.params."
_TYPES = {
    "str": "a text",
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "list[int]": "a list of whole numbers",
    "list[float]": "a list of numbers",
    "list[ProtocolArm]": "a list of arms",
}
_HEAD = """# Every setting

Written by `make renew-docs` from the comments in [conf/](../conf/); edit those, not this page. A
setting is a field of a group: `opdcliff train GROUP=OPTION FIELD=VALUE`, where FIELD is the dotted
name in the tables. An option that names others takes their values first and lists only what
it changes. [default_config.yaml](default_config.yaml) is the whole default, resolved, as
`opdcliff config` prints it.

| group | options, the default first |
|---|---|
"""


def default_config() -> str:
    """The exact output of `opdcliff config`."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        main(["config"])
    return out.getvalue()


def page() -> str:
    """All groups, options, fields, values and comments as Markdown."""
    names = (
        (group, ", ".join(f"`{option}`" for option in options_of(group))) for group in group_names()
    )
    parts = [_HEAD + "".join(f"| [{group}](#{group}) | {options} |\n" for group, options in names)]
    root = _table((conf_dir() / "config.yaml").read_text(encoding="utf-8"), "", skip="hydra.")
    parts.append(f"## seed\n\nA field of no group.\n\n{root}")
    for group in group_names():
        parts.append(f"## {group}\n\n{_OTHERS.get(group) or _purpose(group)}\n")
        parts += [_option(group, option) for option in options_of(group)]
    return "\n".join(parts)


def _option(group: str, option: str) -> str:
    text = (conf_dir() / group / f"{option}.yaml").read_text(encoding="utf-8")
    mark = " (default)" if option == default_of(group) else ""
    lines = [f"### {group}={option}{mark}\n"]
    commands = [line[2:] for line in text.splitlines() if line.startswith("# opdcliff ")]
    lines += [f"`{command}`\n" for command in commands[:1]]
    header, _ = _header(text)
    lines.append((header or describe(group, option)) + "\n")
    words = [word for entry in yaml.safe_load(text).get("defaults", []) for word in _words(entry)]
    if words:
        lines.append(f"As {', '.join(words)}, except for what follows.\n")
    package = re.search(r"^# @package (\w+)", text)
    place = package[1] if package else group
    prefix = "" if place == "_global_" else f"{place}."
    return "\n".join(lines) + "\n" + _table(text, prefix)


def _words(entry: Any) -> list[str]:
    """An entry of a defaults list, as words of a command line; Hydra's own left out."""
    if isinstance(entry, str):
        return [] if entry == "_self_" else [f"`{entry}`"]
    named = {key.removeprefix("override /"): option for key, option in entry.items()}
    return [f"`{key}={option}`" for key, option in named.items() if not key.startswith("hydra/")]


def _table(text: str, prefix: str, skip: str = "defaults") -> str:
    rows = []
    for name, value, comment in _leaves(text, yaml.compose(text)):
        if name.startswith(("defaults", skip)):
            continue
        field = prefix + name.removeprefix(_SWEPT)
        said = "Swept: a cell for each value." if name.startswith(_SWEPT) else comment
        rows.append(f"| `{field}` | {value} | {_allowed(field)} | {said} |")
    head = ["| field | value | allowed | what it is |", "|---|---|---|---|"]
    return "\n".join([*head, *rows]) + "\n" if rows else ""


def _leaves(text: str, node: Any, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Dotted name, value and comment of every leaf, as table cells."""
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        inner = isinstance(value, yaml.MappingNode) and value.value
        if inner and key.value != "additional_parameters":
            yield from _leaves(text, value, f"{name}.")
            continue
        items = [value]
        if isinstance(value, yaml.SequenceNode) and not value.flow_style:
            items = value.value
        sources = [" ".join(text[i.start_mark.index : i.end_mark.index].split()) for i in items]
        yield name, "<br>".join(f"`{_cell(s)}`" for s in sources), _cell(_comment(text, key))


def _comment(text: str, key: Any) -> str:
    """What stands behind the value on its line, or else above it."""
    lines, at = text.splitlines(), key.start_mark.line
    if "  # " in lines[at]:
        return lines[at].split("  # ", 1)[1].strip()
    above: list[str] = []
    first = _header(text)[1]
    while at - 1 >= first and lines[at - 1].strip().startswith("# "):
        at -= 1
        above.insert(0, lines[at].strip()[2:])
    return " ".join(above) or ("Name of the option." if key.value == "name" else "")


def _header(text: str) -> tuple[str, int]:
    """What a file is for, and the line its header ends at.

    Where the first value is not a name, a comment of its own follows the header's first sentence.
    """
    lines = text.splitlines()
    end = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    kept = [i for i in range(end) if not lines[i].startswith(("# @package", "# opdcliff "))]
    plain = not lines[end].startswith(("name:", "defaults:")) and ": " in lines[end]
    if plain:
        sentence = next(n for n, i in enumerate(kept) if lines[i].endswith("."))
        kept, end = kept[: sentence + 1], kept[sentence] + 1
    return " ".join(lines[i][2:] for i in kept), end


def _purpose(group: str) -> str:
    """The docstring of the group's class, on one line."""
    name = {"lambda": "lam"}.get(group, group)
    (kind,) = [field.type for field in fields(schema.RunConfig) if field.name == name]
    return " ".join(str(getattr(schema, str(kind)).__doc__).split())


def _allowed(name: str) -> str:
    ranges = {known: text for known, text, _ in RANGES}
    kind, _, null = str(_field_types().get(name, "")).partition(" | ")
    text = ranges.get(name, _TYPES.get(kind, ""))
    return _cell(f"{text}, or null" if text and null else text)


def _field_types(kind: Any = schema.RunConfig, prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for field in fields(kind):
        inner = getattr(schema, str(field.type).split(" | ", maxsplit=1)[0], None)
        if isinstance(inner, type) and is_dataclass(inner):
            found |= _field_types(inner, f"{prefix}{field.name}.")
        else:
            found[prefix + field.name] = str(field.type)
    return found


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    (FOLDER / "config.md").write_text(page(), encoding="utf-8")
    (FOLDER / "default_config.yaml").write_text(default_config(), encoding="utf-8")
