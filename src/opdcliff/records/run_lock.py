"""One writer per run record: a lock that the kernel releases however its owner dies."""

from __future__ import annotations

import fcntl
import json
import logging
import os
from pathlib import Path
from typing import Any

from opdcliff.errors import RecordError
from opdcliff.storage import canonical_json, fsync_folder, now, writing

_log = logging.getLogger(__name__)


def acquire(path: Path) -> tuple[int, dict[str, Any] | None]:
    """Take the lock; return its descriptor and what a dead owner left in it, if one did.

    Closing the descriptor without `release` looks like a killed owner.

    Raises:
        RecordError: another process, or another writer in this one, holds it.
    """
    with writing(path):
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            return lock, _take(lock, path)
        except BaseException:
            # Else this process, which may go on with other cells, would hold it to its end.
            os.close(lock)
            raise


def _take(lock: int, path: Path) -> dict[str, Any] | None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = _owner(lock) or {}
        raise RecordError(
            f"{path.parent}: in use by process {owner.get('pid', '?')} since "
            f"{owner.get('start', '?')}; wait for it or stop it"
        ) from None
    stale = _owner(lock)
    if stale is not None:
        _log.warning("%s: stale lock of dead process %s taken over", path, stale.get("pid"))
    text = canonical_json({"pid": os.getpid(), "start": now()})
    os.ftruncate(lock, 0)
    os.pwrite(lock, text.encode("ascii"), 0)
    os.fsync(lock)
    fsync_folder(path.parent)
    return stale


def in_use(path: Path) -> bool:
    """Whether a living process holds the lock."""
    try:
        lock = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def release(lock: int) -> None:
    """Give up the lock, cleanly."""
    # An empty lock file tells a clean end from a killed owner.
    os.ftruncate(lock, 0)
    os.close(lock)


def _owner(lock: int) -> dict[str, Any] | None:
    try:
        owner = json.loads(os.pread(lock, 4096, 0))
    except ValueError:
        return None
    return owner if isinstance(owner, dict) else None
