"""Prepared inputs shared by the cells of a study: prompts, models, calibration.

Each asset is a folder named by the hash of everything that shaped it. It is built aside and
renamed into place, so a folder that exists is whole; a second call finds it and builds nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from opdcliff.errors import RecordError
from opdcliff.paths import StudyPaths
from opdcliff.storage.canonical import (
    digest,
    file_digest,
    fsync_folder,
    fsync_tree,
    write_json_atomic,
)
from opdcliff.storage.provenance import source_files

ASSET_MANIFEST = "asset.json"
_FIELDS = ("kind", "identity", "key", "facts")


def ensure(
    paths: StudyPaths,
    kind: str,
    key: Mapping[str, Any],
    build: Callable[[Path], dict[str, Any]],
) -> Path:
    """The folder of an asset, built if it is not there yet.

    build: fills an empty folder and returns facts about the asset for its manifest.
    Two processes that want the same asset build it once: the second waits. A build that fails or
    is killed leaves nothing visible, and the next call starts over.

    Raises:
        RecordError: the folder is there without its manifest.
    """
    identity = digest(dict(key), f"asset-{kind}")
    folder = paths.assets_dir(kind, identity)
    if (folder / ASSET_MANIFEST).exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_name(f"{folder.name}.lock")):
        if (folder / ASSET_MANIFEST).exists():
            return folder
        if folder.exists():
            raise RecordError(
                f"{folder} has lost its {ASSET_MANIFEST}; delete the folder to build it anew"
            )
        for left_over in folder.parent.glob(f"{folder.name}.partial-*"):
            shutil.rmtree(left_over, ignore_errors=True)
        # A fresh name each time: workers of a killed build may still be writing to theirs.
        aside = folder.with_name(f"{folder.name}.partial-{secrets.token_hex(4)}")
        aside.mkdir()
        facts = build(aside)
        write_json_atomic(
            aside / ASSET_MANIFEST, {"kind": kind, "identity": identity, "key": key, "facts": facts}
        )
        fsync_tree(aside)
        aside.rename(folder)
        fsync_folder(folder.parent)
    return folder


def code_digest(*places: str) -> str:
    """Hash of the source in rooms or files of the package, for the key of what they build.

    Settings alone do not name an asset: an edit of the code that draws answers or measures masses
    must not be answered with what the old code left.
    """
    return digest(source_files(*places), "code")


def manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished asset: kind, identity, key, facts.

    Raises:
        RecordError: it cannot be read, or lacks one of them.
    """
    try:
        content: dict[str, Any] = json.loads((folder / ASSET_MANIFEST).read_text())
        return {name: content[name] for name in _FIELDS}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise _damaged(folder / ASSET_MANIFEST, error) from error


def content_digest(folder: Path) -> str:
    """Digest of an asset's files, its manifest left out: what was built, not how it was named."""
    files = sorted(
        path for path in folder.rglob("*") if path.is_file() and path.name != ASSET_MANIFEST
    )
    return digest({str(p.relative_to(folder)): file_digest(p) for p in files}, "asset-content")


def _damaged(file: Path, error: Exception) -> RecordError:
    return RecordError(f"{file} cannot be read ({error!r}); delete its folder to build it anew")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    # Opened to append: where a link leads to a file, that file stays as it is.
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
