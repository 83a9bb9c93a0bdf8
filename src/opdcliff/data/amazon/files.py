"""Amazon Reviews 2023 files on disk: their names, reading them in blocks, the full set's sums.

The files are never downloaded here. Source of names and layout: the hub data set
McAuley-Lab/Amazon-Reviews-2023, folders `raw/review_categories` and `raw/meta_categories`.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, cast

from opdcliff.errors import DataError
from opdcliff.storage import in_words

REVIEWS_NAME = "Amazon_Fashion.jsonl"
META_NAME = "meta_Amazon_Fashion.jsonl"
# The hub keeps the two files in these folders, so a plain download of it works unchanged.
_FOLDERS = {
    REVIEWS_NAME: (".", "raw/review_categories"),
    META_NAME: (".", "raw/meta_categories"),
}
# Name: size in bytes and sha256 of the unpacked file.
FULL_SET = {
    REVIEWS_NAME: (
        1_051_324_731,
        "e597b3ce6cbb2f9994a32e0eee6bb04fdae50725f2d49c89f6baef1a7b986c57",
    ),
    META_NAME: (
        1_422_365_805,
        "629dde620a4001934a8af705f6e5514a1b2d349720c26876ee803b90051a62df",
    ),
}
_HASH_BLOCK = 2**20

Progress = Callable[[int, int], None]


class ReadProgress:
    """Bytes read over all passes, told to an optional `progress(done, total)` callback.

    `total` is in bytes on disk, so a gzip file counts with its compressed size.
    """

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._total = total
        self._progress = progress
        self._before = 0

    def at(self, position: int) -> None:
        """Report `position` bytes into the file of the running pass."""
        if self._progress is not None:
            self._progress(self._before + position, self._total)

    def end_pass(self, size: int) -> None:
        """Close a pass over a file of `size` bytes."""
        self._before += size
        self.at(0)


def find_file(folder: Path, name: str) -> Path:
    """The file `name` or `name.gz` in `folder`, or in the hub's own sub-folder of it.

    The plain file wins over the gzip one. Raises DataError with every name that was looked for.
    """
    if not folder.is_dir():
        raise DataError(
            f"data folder {folder} does not exist or is no folder: name the one that holds "
            f"{REVIEWS_NAME} and {META_NAME} (each plain or .gz)"
        )
    tried = [
        (Path(place) / (name + end)).as_posix() for place in _FOLDERS[name] for end in ("", ".gz")
    ]
    for relative in tried:
        if (folder / relative).is_file():
            return folder / relative
    raise DataError(f"{name} is not in {folder}: looked for {', '.join(tried)}; put one there")


def full_set_name(size: int, sha256: str) -> str | None:
    """The file of the published full set that has this size and sum when unpacked, if any has."""
    return next((name for name, known in FULL_SET.items() if known == (size, sha256)), None)


def open_raw(path: Path) -> IO[bytes]:
    """The file opened for reading bytes as they are on disk. Raises DataError when it cannot."""
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; check the path") from None


def read_blocks(path: Path, raw: IO[bytes], read: Callable[[IO[bytes]], bytes]) -> Iterator[bytes]:
    """What `read` returns, again and again until it is empty, unpacked when `path` ends in .gz.

    Raises DataError when the file is damaged.
    """
    handle = cast(IO[bytes], gzip.GzipFile(fileobj=raw)) if path.suffix == ".gz" else raw
    try:
        yield from iter(lambda: read(handle), b"")
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(f"{path} is damaged ({in_words(error)}): fetch the file again") from None


def verify_full_set(folder: Path) -> list[str]:
    """How the files in `folder` differ from the published full set; empty when they do not.

    Compares size and sha256 of the unpacked bytes with `FULL_SET`, streaming. Raises DataError
    when a file is missing or damaged.
    """
    problems = []
    for name, (size, digest) in FULL_SET.items():
        path = find_file(folder, name)
        seen, sha256 = 0, hashlib.sha256()
        with open_raw(path) as raw:
            for block in read_blocks(path, raw, lambda handle: handle.read(_HASH_BLOCK)):
                seen += len(block)
                sha256.update(block)
        if seen != size:
            problems.append(f"{path}: {seen} bytes, the full set has {size}")
        elif sha256.hexdigest() != digest:
            problems.append(f"{path}: sha256 {sha256.hexdigest()}, the full set has {digest}")
    return problems
