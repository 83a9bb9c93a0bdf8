"""The raw files, each read once: columns are kept beside other assets, sums are compared.

What is kept is named by where the file lies, its size and times, and the code that reads it, so a
file that was touched or replaced is read again. It is written aside and renamed once whole; its own
sums are checked before use. A process that is killed loses the file it was reading, not the others.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from opdcliff.data.amazon.columns import Metas, ReadFacts, Reviews
from opdcliff.data.amazon.files import (
    META_NAME,
    REVIEWS_NAME,
    Progress,
    ReadProgress,
    find_file,
    full_set_name,
)
from opdcliff.errors import DataError, RecordError
from opdcliff.paths import StudyPaths
from opdcliff.storage import Asset, asset_cache, digest, file_digest, in_words, write_json_atomic

# The files whose code decides what a pass leaves.
_CODE = tuple(f"data/amazon/{name}.py" for name in ("columns", "files", "kept", "rows"))
_FIRST_USE = "first_use.json"

_log = logging.getLogger(__name__)
_T = TypeVar("_T", Reviews, Metas)


@dataclass(frozen=True)
class RawFile(Generic[_T]):
    """A raw file, what it is read as, and where its columns are kept; None keeps nothing."""

    path: Path
    kind: type[_T]
    keep: StudyPaths | None

    def bytes_to_read(self) -> int:
        """Bytes on disk that a pass has to read: none where its columns are kept."""
        if self.keep is not None and self._asset(self.keep).is_ready():
            return 0
        return self.path.stat().st_size

    def facts(self, meter: ReadProgress) -> ReadFacts:
        """What a pass found, from what is kept or by reading the file and keeping it."""
        if self.keep is None:
            return self.columns(meter).facts
        asset = self._asset(self.keep)
        with asset.building() as draft:
            if draft is not None:
                columns = _read(self.path, self.kind, meter)
                columns.write(draft.folder)
                _compare(self.path, columns.facts, self.keep)
                kept = sorted(file.name for file in draft.folder.iterdir())
                draft.facts["read"] = columns.facts.as_dict()
                draft.facts["kept"] = {name: file_digest(draft.folder / name) for name in kept}
        return ReadFacts(**_facts_of(asset.folder)["read"])

    def columns(self, meter: ReadProgress) -> _T:
        """The columns. Raises RecordError where what is kept is not as it was written."""
        if self.keep is None:
            return _read(self.path, self.kind, meter)
        facts, folder = self.facts(meter), self._asset(self.keep).folder
        for name, sum_ in _facts_of(folder)["kept"].items():
            if not (folder / name).is_file() or file_digest(folder / name) != sum_:
                raise RecordError(
                    f"{folder / name} is not as it was written; delete {folder} to read "
                    f"{self.path} again"
                )
        return self.kind.load(folder, facts)

    def _asset(self, keep: StudyPaths) -> Asset:
        key = {
            "file": _place(self.path),
            "stamp": list(_stamp(self.path)),
            "code": asset_cache.code_digest(*_CODE),
        }
        return Asset.of(keep, "rows", key)


@dataclass(frozen=True)
class RawPair:
    """The two files of a folder."""

    reviews: RawFile[Reviews]
    meta: RawFile[Metas]

    @classmethod
    def of(cls, folder: Path, keep: StudyPaths | None) -> RawPair:
        """Raises DataError where one is missing, see `find_file`."""
        reviews, meta = find_file(folder, REVIEWS_NAME), find_file(folder, META_NAME)
        return cls(RawFile(reviews, Reviews, keep), RawFile(meta, Metas, keep))

    def meter(self, progress: Progress | None, also: int = 0) -> ReadProgress:
        """Progress over the bytes that are still to be read, and `also` others."""
        total = self.reviews.bytes_to_read() + self.meta.bytes_to_read() + also
        return ReadProgress(total, progress)


def raw_sums(folder: Path, keep: StudyPaths, progress: Progress | None = None) -> dict[str, str]:
    """The sha256 of both files' content; those that were not read before are read and kept.

    progress: called with (bytes done, bytes in all), never where nothing is read.

    Raises:
        DataError: a file is missing, damaged, of another schema, or changes while it is read.
    """
    pair = RawPair.of(folder, keep)
    meter = pair.meter(progress)
    facts = (pair.reviews.facts(meter), pair.meta.facts(meter))
    return {one.name: one.sha256 for one in facts}


def sums_for_people(*facts: ReadFacts) -> dict[str, dict[str, object]]:
    """Size and sha256 of each file's content, and whether it is that of the published full set."""
    return {
        one.name: {
            "bytes": one.bytes,
            "sha256": one.sha256,
            "full_set": full_set_name(one.bytes, one.sha256) == one.name,
        }
        for one in facts
    }


def _read(path: Path, kind: type[_T], meter: ReadProgress) -> _T:
    before = _stamp(path)
    columns = kind.read(path, meter)
    if _stamp(path) != before:
        raise DataError(f"{path} changed while it was read; run again once it is complete")
    return columns


def _stamp(path: Path) -> tuple[int, int, int, int]:
    """What changes with the file. Its time of change cannot be set back, unlike that of writing."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def _place(path: Path) -> str:
    # Hashed: assets name no folder of a machine.
    return digest(os.fspath(path.resolve()), "raw-file")


def _compare(path: Path, facts: ReadFacts, keep: StudyPaths) -> None:
    """Say so if the content is not that of the first use, which is noted here."""
    file = keep.assets_dir("raw", _place(path)) / _FIRST_USE
    seen = _first_use(file)
    if seen and seen["sha256"] != facts.sha256:
        _log.warning(
            "%s is not the file that was read here before (sha256 %s..., now %s...): prompts and "
            "models are made anew from it, and runs made before rest on the other one",
            path,
            seen["sha256"][:12],
            facts.sha256[:12],
        )
    if seen.get("sha256") != facts.sha256:
        named = {"name": facts.name, "bytes": facts.bytes, "sha256": facts.sha256}
        write_json_atomic(file, {**named, "before": seen or None})


def _first_use(file: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(file.read_text())
        found["sha256"][:12]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise RecordError(
            f"{file} cannot be read ({in_words(error)}); delete it to note the raw file anew"
        ) from error
    return found


def _facts_of(folder: Path) -> Mapping[str, Any]:
    facts: Mapping[str, Any] = asset_cache.manifest(folder)["facts"]
    return facts
