"""One step of the road: refused out of order, remembered, followed by the command of the next."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from opdcliff.errors import ConfigError
from opdcliff.paths import StudyPaths
from opdcliff.road.looking import look
from opdcliff.road.memory import remember


@contextlib.contextmanager
def on_road(
    name: str, words: Sequence[str], paths: StudyPaths, say: Callable[[str], None]
) -> Iterator[None]:
    """Make the step `name` in this block, with the settings `words`; `say` is told the next one.

    Raises:
        ConfigError: a step before it is not done; its command.
    """
    road = look(words, paths)
    first = road.before(name)
    if first is not None:
        raise ConfigError(
            f"{name} comes after {first.step.name}, which is {first.state} "
            f"(protocol.ordered=true); {road.upcoming}"
        )
    remember(road.protocol, words, paths)
    yield
    say(look(words, paths).upcoming)
