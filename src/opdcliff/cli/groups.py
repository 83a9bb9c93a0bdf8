"""The groups of conf/ on the terminal, for `--help`."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from opdcliff.storage import default_of, describe, group_names, options_of
from opdcliff.terminal import console


def print_groups() -> None:
    """Print every group, its options (the default marked) and what they are for."""
    table = Table("group", "option", "for", title="Groups and options (* is the default)")
    table.title_justify = "left"
    for group in group_names():
        for row, option in enumerate(options_of(group)):
            mark = "*" if option == default_of(group) else ""
            table.add_row("" if row else group, option + mark, Text(describe(group, option)))
        table.add_section()
    console().print(table)
    print("Any field can be set as key.field=value; `opdcliff config` prints all of them.")
