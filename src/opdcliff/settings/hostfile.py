"""The hosts of a run on several nodes, in DeepSpeed's format: `NAME slots=NUMBER`, one per line."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from opdcliff.errors import ConfigError
from opdcliff.storage import foreign_encoding, in_words, short

# pdsh takes commas and brackets for lists of hosts, and a leading dash for an option.
_LINE = re.compile(r"([A-Za-z0-9][A-Za-z0-9._@-]*)\s+slots=([1-9][0-9]*)\s*(?:#.*)?")


@dataclass(frozen=True)
class Host:
    """A node: its name as ssh knows it, and how many ranks it takes (one per GPU)."""

    name: str
    slots: int


def read_hostfile(path: str) -> list[Host]:
    """The hosts in the order of their ranks.

    Raises:
        ConfigError: no such file, a line that is none of `NAME slots=NUMBER`, a comment or blank,
            a host named twice, or no host.
    """
    try:
        data = resolved(path).read_bytes()
        foreign = foreign_encoding(data[:4])
        lines = [] if foreign else data.decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"engine.hostfile={path} cannot be read ({in_words(error)}); give a file with lines "
            " `NAME slots=NUMBER`"
        ) from error
    if foreign:
        raise ConfigError(f"engine.hostfile={path} {foreign}")
    hosts: dict[str, Host] = {}
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        match = _LINE.fullmatch(text)
        if match is None:
            raise ConfigError(
                f"line {number} of engine.hostfile={path} is {short(text)}; write "
                "`NAME slots=NUMBER`"
            )
        if match[1] in hosts:
            raise ConfigError(
                f"line {number} of engine.hostfile={path} names {match[1]} again; give each host "
                "one line with all its slots"
            )
        hosts[match[1]] = Host(match[1], int(match[2]))
    if not hosts:
        raise ConfigError(f"engine.hostfile={path} names no host; write `NAME slots=NUMBER`")
    return list(hosts.values())


def check_slots(path: str, ranks: int) -> None:
    """Raise ConfigError unless the hosts take exactly `ranks` ranks, as well as `read_hostfile`."""
    slots = sum(host.slots for host in read_hostfile(path))
    if slots != ranks:
        raise ConfigError(
            f"engine.ranks={ranks} and the hosts of engine.hostfile={path} have {slots} slots; "
            f"set engine.ranks={slots} or change the slots"
        )


def resolved(path: str) -> Path:
    """The hostfile's path, absolute."""
    return Path(path).expanduser().absolute()
