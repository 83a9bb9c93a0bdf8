"""A verb of the command line: its function, what it is for, its help; each said once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Run = Callable[[list[str]], int]


@dataclass(frozen=True)
class Verb:
    """One verb. run: gets the words behind it and returns the exit code.

    summary: a line in the list of verbs. usage: its help. settings: takes those of conf/.
    """

    run: Run
    summary: str
    usage: str
    settings: bool


# Every verb by its name, in the order of the list of verbs.
VERBS: dict[str, Verb] = {}


def verb(summary: str, usage: str, *, settings: bool = True) -> Callable[[Run], Run]:
    """Make a function the verb of its name."""

    def register(run: Run) -> Run:
        VERBS[run.__name__] = Verb(run, summary, usage, settings)
        return run

    return register
