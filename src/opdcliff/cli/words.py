"""Words of a command line that are a verb's own, and lines it says."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from opdcliff.errors import ConfigError, InadmissibleError
from opdcliff.paths import PACKAGE, StudyPaths, other_checkout
from opdcliff.storage import code_state, package_version, unknown_code, visible
from opdcliff.terminal import console

if TYPE_CHECKING:
    from opdcliff.settings import RunConfig

MULTIRUN = ("-m", "--multirun")
# The verbs whose cells are named on the command line have no arms.
NO_ARMS = "protocol=grid"
# Where no run is evaluated prompts for that need not be there.
NO_EVALUATION = tuple(f"evaluation.{name}=${{data.test}}" for name in ("prompts", "final_prompts"))
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


def refuse_other_checkout() -> None:
    """Refuse to judge or to lock in one checkout with the code and the settings of another."""
    other = other_checkout(Path.cwd())
    if other is not None:
        raise InadmissibleError(
            f"this folder is of the checkout {other}, and the code that runs is that of {PACKAGE}; "
            f"install it from here (`pip install -e {other}`), or go to where that code is"
        )


def say_unknown_code() -> None:
    """A warning where the records of a run would not say which code made it."""
    other = other_checkout(Path.cwd())
    if other is not None:
        say_aside(
            f"warning: this folder is of the checkout {other}, and the code that runs is that of "
            f"{PACKAGE}"
        )
    why = unknown_code()
    if why is not None:
        say_aside(
            f"warning: records will not say which code made them, and no lock takes such: {why}"
        )


def on_road(
    step: str, config: RunConfig, words: list[str]
) -> contextlib.AbstractContextManager[None]:
    """A block that is a step of the road, where `protocol.ordered` says that there is one."""
    if not config.protocol.ordered:
        return contextlib.nullcontext()
    from opdcliff.road import on_road as walked

    return walked(step, words, StudyPaths(), say)


@contextlib.contextmanager
def committed(paths: StudyPaths) -> Iterator[None]:
    """Results are read in this block: an error says so where those of the project are not here."""
    try:
        yield
    except InadmissibleError as error:
        if paths.results.is_dir():
            raise
        raise InadmissibleError(
            f"{error} (there is no {paths.results}: committed results lie in a checkout of the "
            "project; run this there)"
        ) from error


def say_code() -> None:
    """Which code it is that says all this."""
    commit, dirty = code_state()
    changed = " with changes" if dirty and commit != "unknown" else ""
    say(f"code: opd-cliff {package_version()}, commit {commit[:12]}{changed}, in {PACKAGE}")


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
        say("  | " + "\t".join(map(visible, line.split("\t"))))


def say_aside(text: str) -> None:
    """To where progress is shown, not among the results."""
    from rich.console import Console

    Console(stderr=True).print(text, markup=False, highlight=False, soft_wrap=True)
