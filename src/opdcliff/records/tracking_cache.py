"""A folder that W&B's service can write its log to; without one it writes among our own lines."""

from __future__ import annotations

import os
from pathlib import Path

_VARIABLE = "WANDB_CACHE_DIR"


def make_room_for_logs(folder: Path) -> None:
    """Point W&B's cache into the record `folder` where the user's own cannot be written.

    The service, which lives as long as this process, reads that from the environment when it
    starts: a later run of the process finds its place made.
    """
    if not _is_usable(_cache()):
        os.environ[_VARIABLE] = str(folder.absolute() / "wandb" / "cache")


def _cache() -> Path | None:
    """Where the service would write: what it does with HOME unset, or a relative path, is fail."""
    for name, inside in ((_VARIABLE, ""), ("XDG_CACHE_HOME", ""), ("HOME", ".cache")):
        if os.environ.get(name):
            path = Path(os.environ[name], inside)
            return path if path.is_absolute() or name == _VARIABLE else None
    return None


def _is_usable(cache: Path | None) -> bool:
    if cache is None:
        return False
    logs = cache / "wandb" / "logs"
    try:
        logs.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(logs, os.W_OK | os.X_OK)
