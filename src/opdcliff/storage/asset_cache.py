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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opdcliff.errors import RecordError
from opdcliff.paths import StudyPaths
from opdcliff.storage.canonical import (
    digest,
    disk_refusal,
    file_digest,
    fsync_folder,
    fsync_tree,
    write_json_atomic,
)
from opdcliff.storage.provenance import source_files
from opdcliff.storage.wording import in_words

ASSET_MANIFEST = "asset.json"
_FIELDS = ("kind", "identity", "key", "facts")


@dataclass
class Draft:
    """An asset that is being built: its folder, still aside, and facts for its manifest."""

    folder: Path
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Asset:
    """An input of a kind, named by its key; its folder is whole as soon as it is there."""

    folder: Path
    kind: str
    key: Mapping[str, Any]
    identity: str

    @classmethod
    def of(cls, paths: StudyPaths, kind: str, key: Mapping[str, Any]) -> Asset:
        """The asset of that key. Raises ConfigError for a kind that is no plain name."""
        identity = digest(dict(key), f"asset-{kind}")
        return cls(paths.assets_dir(kind, identity), kind, key, identity)

    @classmethod
    def at(cls, folder: Path, kind: str, key: Mapping[str, Any]) -> Asset:
        """The asset of that key in a folder that a user has named with out=.

        An empty folder there is removed. Raises RecordError where it holds anything else.
        """
        asset = cls(folder, kind, key, digest(dict(key), f"asset-{kind}"))
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        if folder.exists() and not asset.is_ready():
            raise RecordError(
                f"out={folder} is there and holds no result of this command; give a new folder"
            )
        if asset.is_ready() and manifest(folder)["identity"] != asset.identity:
            raise RecordError(
                f"out={folder} holds the result of other settings, another model, other answers or "
                "another version of this program; give a new folder, or move that one away"
            )
        return asset

    def is_ready(self) -> bool:
        """Whether it has been built."""
        return (self.folder / ASSET_MANIFEST).exists()

    @contextlib.contextmanager
    def building(self) -> Iterator[Draft | None]:
        """A draft to be filled in this block, or None where the asset is there already.

        Two processes that want the same asset build it once: the second waits. A block that raises
        or is killed leaves nothing visible, and the next one starts over.

        Raises:
            RecordError: the folder is there without its manifest.
        """
        if self.is_ready():
            yield None
            return
        folder = self.folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.with_name(f"{folder.name}.lock")):
            if self.is_ready():
                yield None
                return
            if folder.exists():
                raise RecordError(
                    f"{folder} has lost its {ASSET_MANIFEST}; delete the folder to build it anew"
                )
            for left_over in folder.parent.glob(f"{folder.name}.partial-*"):
                shutil.rmtree(left_over, ignore_errors=True)
            # A fresh name each time: workers of a killed build may still be writing to theirs.
            aside = folder.with_name(f"{folder.name}.partial-{secrets.token_hex(4)}")
            aside.mkdir()
            draft = Draft(aside)
            try:
                yield draft
            except Exception as error:
                cause = disk_refusal(error)
                if cause is None:
                    raise
                raise RecordError(
                    f"cannot write {aside}: {cause}; free space or fix permissions, then run again"
                ) from error
            named = {"kind": self.kind, "identity": self.identity, "key": self.key}
            write_json_atomic(aside / ASSET_MANIFEST, {**named, "facts": draft.facts})
            fsync_tree(aside)
            aside.rename(folder)
            fsync_folder(folder.parent)

    def bring(self, kept: Path) -> None:
        """Build it from a copy that was kept elsewhere; nothing where it is there already.

        Raises:
            RecordError: the copy cannot be read, or the disk refuses.
        """
        with self.building() as draft:
            if draft is None:
                return
            draft.facts = manifest(kept)["facts"]
            ignored = shutil.ignore_patterns(ASSET_MANIFEST)
            shutil.copytree(kept, draft.folder, ignore=ignored, dirs_exist_ok=True)


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
    return RecordError(
        f"{file} cannot be read ({in_words(error)}); delete its folder to build it anew"
    )


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    # Opened to append: where a link leads to a file, that file stays as it is.
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
