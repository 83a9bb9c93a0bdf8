"""Python's collector of reference cycles, kept from the millions of objects that imports leave."""

from __future__ import annotations

import atexit
import gc

# Objects made between two looks through the youngest of them. Of the 4.7 s of CPU that importing
# all of this package took (torch and transformers among it), .9 went into such looks, which find
# nothing, and 1.0 into the last one, at the end of the process [M].
_YOUNG = 50_000


def spare_imports() -> None:
    """At the start of a process: look for cycles more rarely, and not when the process ends."""
    gc.set_threshold(_YOUNG, *gc.get_threshold()[1:])
    atexit.register(gc.freeze)
