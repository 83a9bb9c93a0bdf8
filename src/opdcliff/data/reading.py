"""The bar over large raw files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from opdcliff.terminal import Stage

_MB = 10**6


@contextmanager
def reading_bar() -> Iterator[Callable[[int, int], None]]:
    """A bar over the bytes of raw files, in MB; none where nothing is read."""
    with ExitStack() as open_:
        stage: Stage | None = None

        def progress(done: int, total: int) -> None:
            nonlocal stage
            if stage is None:
                name = "reading reviews and items (MB)"
                stage = open_.enter_context(Stage(name, -(-total // _MB)))
            stage.update("MB", done // _MB if done < total else -(-total // _MB))

        yield progress
