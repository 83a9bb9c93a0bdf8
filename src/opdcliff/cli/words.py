"""Words of a command line that are a verb's own, and lines it says."""

from __future__ import annotations

from opdcliff.errors import ConfigError
from opdcliff.paths import StudyPaths
from opdcliff.terminal import console

MULTIRUN = ("-m", "--multirun")
# The verbs whose cells are named on the command line have no arms.
NO_ARMS = "protocol=grid"
# The protocol that is locked and confirmed unless another one is named.
LOCKED = "protocol=mini"
# Of a prompt that is shown.
_MOST_LINES = 20


def locked_words(words: list[str]) -> list[str]:
    """The words of a verb about a lock: with a protocol, if none is chosen."""
    chosen = any(word.startswith(("protocol=", "experiment=")) for word in words)
    return words if chosen else [LOCKED, *words]


def own_word(name: str, words: list[str]) -> tuple[str | None, list[str]]:
    """The value of the verb's own word `name=VALUE`, and the words that are settings."""
    values = [word.partition("=")[2] for word in words if word.startswith(f"{name}=")]
    if len(values) > 1 or "" in values:
        raise ConfigError(f"{name}= takes one value, given once")
    rest = [word for word in words if not word.startswith(f"{name}=")]
    return (values[0] if values else None), rest


def own_number(name: str, words: list[str], default: float) -> tuple[float, list[str]]:
    """The number of the verb's own word `name=NUMBER`, and the words that are settings."""
    value, rest = own_word(name, words)
    try:
        return default if value is None else type(default)(value), rest
    except ValueError as error:
        kind = "a whole number" if isinstance(default, int) else "a number"
        raise ConfigError(f"{name}={value} is not {kind}") from error


def flag(name: str, words: list[str]) -> tuple[bool, list[str]]:
    """The value of the verb's own word `name=true|false`, and the words that are settings."""
    value, rest = own_word(name, words)
    if value not in (None, "true", "false"):
        raise ConfigError(f"{name}={value} is not true or false")
    return value == "true", rest


def paths_of(words: list[str]) -> tuple[StudyPaths, list[str]]:
    """Where the verb reads and writes, and the words that are settings."""
    renew, rest = flag("renew_committed", words)
    return StudyPaths(renew=renew), rest


def say(text: str) -> None:
    """One line among the results, never broken."""
    console().print(text, markup=False, highlight=False, soft_wrap=True)


def say_prompt(text: str | None) -> None:
    """The first prompt as models read it, chat template and all: a wrong one is seen here."""
    if text is None:
        return
    say("What the models read, of the first prompt:")
    lines = text.split("\n")
    for line in [*lines[:_MOST_LINES], *(["..."] if len(lines) > _MOST_LINES else [])]:
        # A control character in a prompt is to be seen, not obeyed.
        say("  | " + "".join(c if c.isprintable() or c == "\t" else repr(c)[1:-1] for c in line))


def say_aside(text: str) -> None:
    """To where progress is shown, not among the results."""
    from rich.console import Console

    Console(stderr=True).print(text, markup=False, highlight=False, soft_wrap=True)
