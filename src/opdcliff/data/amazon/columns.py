"""Rows of a raw file as columns: all that later steps need of it, in a few bytes a row.

One pass over a file makes them. Every usable row is there, whatever the settings, so that other
seeds, sizes and numbers of candidates need no second pass. Shapes: N rows, U users, I items.
"""

from __future__ import annotations

import io
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self, overload

import numpy as np
from numpy.typing import NDArray

from opdcliff.data.amazon.files import ReadProgress
from opdcliff.data.amazon.rows import RowLog, meta_rows, review_rows

_ROWS, _USERS, _ITEMS, _TITLES = "rows.npz", "users.txt", "items.txt", "titles.txt"


class Names(Sequence[str]):
    """Texts without line breaks, kept as the bytes of their lines."""

    def __init__(self, lines: bytes) -> None:
        self.lines = lines
        self._ends = np.flatnonzero(np.frombuffer(lines, dtype=np.uint8) == ord("\n"))

    def __len__(self) -> int:
        return self._ends.size

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        start = int(self._ends[index - 1]) + 1 if index else 0
        return self.lines[start : int(self._ends[index])].decode()

    def __iter__(self) -> Iterator[str]:
        return (line[:-1].decode() for line in io.BytesIO(self.lines))


@dataclass(frozen=True)
class ReadFacts:
    """What one pass over a file found.

    rows, usable, rejected: see `RowLog`. bytes, sha256: of the unpacked content.
    """

    name: str
    rows: int
    usable: int
    rejected: Mapping[str, int]
    bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path, log: RowLog) -> Self:
        """The facts of a finished pass; a packed file has the name and sums of its content."""
        name = path.name.removesuffix(".gz")
        found = dict(log.rejected)
        return cls(name, log.rows, log.usable, found, log.bytes, log.sha256.hexdigest())

    def as_dict(self) -> dict[str, Any]:
        """The facts as plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Reviews:
    """Usable reviews in file order: places of user and item in their lists, milliseconds, stars."""

    users: Names
    items: Names
    user_N: NDArray[np.int32]
    item_N: NDArray[np.int32]
    time_N: NDArray[np.int64]
    stars_N: NDArray[np.int8]
    facts: ReadFacts

    @classmethod
    def read(cls, path: Path, meter: ReadProgress) -> Self:
        """One pass over the file. Raises DataError, see `review_rows`."""
        log = RowLog("reviews")
        users: dict[str, int] = {}
        items: dict[str, int] = {}
        user_N, item_N, time_N, stars_N = array("i"), array("i"), array("q"), array("b")
        for row in review_rows(path, log, meter):
            user_N.append(users.setdefault(row.user, len(users)))
            item_N.append(items.setdefault(row.item, len(items)))
            time_N.append(row.timestamp)
            stars_N.append(row.stars)
        return cls(
            Names(_lines_of(users)),
            Names(_lines_of(items)),
            np.frombuffer(user_N, dtype=np.int32),
            np.frombuffer(item_N, dtype=np.int32),
            np.frombuffer(time_N, dtype=np.int64),
            np.frombuffer(stars_N, dtype=np.int8),
            ReadFacts.of(path, log),
        )

    def write(self, folder: Path) -> None:
        """Write the columns; the facts go to the manifest beside them."""
        (folder / _USERS).write_bytes(self.users.lines)
        (folder / _ITEMS).write_bytes(self.items.lines)
        np.savez(
            folder / _ROWS,
            user=self.user_N,
            item=self.item_N,
            time=self.time_N,
            stars=self.stars_N,
        )

    @classmethod
    def load(cls, folder: Path, facts: ReadFacts) -> Self:
        """Read what `write` wrote."""
        with np.load(folder / _ROWS) as rows:
            user_N, item_N, time_N, stars_N = (
                rows["user"],
                rows["item"],
                rows["time"],
                rows["stars"],
            )
        users, items = (Names((folder / name).read_bytes()) for name in (_USERS, _ITEMS))
        return cls(users, items, user_N, item_N, time_N, stars_N, facts)


@dataclass(frozen=True)
class Metas:
    """Usable item rows in file order: the item and the whole title of each."""

    items: Names
    titles: Names
    facts: ReadFacts

    @classmethod
    def read(cls, path: Path, meter: ReadProgress) -> Self:
        """One pass over the file. Raises DataError, see `meta_rows`."""
        log = RowLog("meta")
        items, titles = bytearray(), bytearray()
        seen: set[str] = set()
        for row in meta_rows(path, log, meter):
            seen.add(row.item)
            items += row.item.encode() + b"\n"
            titles += row.title.encode() + b"\n"
        log.reject("item repeated", log.usable - len(seen))
        return cls(Names(bytes(items)), Names(bytes(titles)), ReadFacts.of(path, log))

    def write(self, folder: Path) -> None:
        """Write the columns; the facts go to the manifest beside them."""
        (folder / _ITEMS).write_bytes(self.items.lines)
        (folder / _TITLES).write_bytes(self.titles.lines)

    @classmethod
    def load(cls, folder: Path, facts: ReadFacts) -> Self:
        """Read what `write` wrote."""
        items, titles = (Names((folder / name).read_bytes()) for name in (_ITEMS, _TITLES))
        return cls(items, titles, facts)


def _lines_of(names: Mapping[str, int]) -> bytes:
    lines = bytearray()
    for name in names:
        lines += name.encode() + b"\n"
    return bytes(lines)
