"""Lines added to a file that others rely on."""

from __future__ import annotations

import os


def append_line(file: int, line: bytes) -> None:
    """Append to an open file; on return it is on disk, and where that fails nothing of it is.

    Half a line would be glued to the next one, or make the whole file unreadable.

    Raises:
        OSError: the disk refuses.
    """
    size = os.fstat(file).st_size
    try:
        written = 0
        while written < len(line):
            written += os.write(file, line[written:])
        os.fsync(file)
    except OSError:
        os.ftruncate(file, size)
        raise
