"""Rows of Amazon Reviews 2023 and of a rubric: streamed, checked, rejected ones counted by reason.

Source: the raw JSONL schema on the data set's card. Only the fields named in `Review`, `Meta` and
`Grade` are looked at; `price` (a number, null or the text "None"), `details` (free-form) and all
else may hold anything. One line is in memory at a time, at most `MAX_LINE_BYTES` of it, and no
review text outlives its line.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from opdcliff.data.amazon.files import ReadProgress, open_raw, read_blocks
from opdcliff.errors import DataError
from opdcliff.storage import foreign_encoding

MAX_LINE_BYTES = 4 * 2**20
SCHEMA_ROWS = 1000
MAX_GRADE = 4
_UTF8_MARK = b"\xef\xbb\xbf"
_PROGRESS_ROWS = 1024
# What eight bytes hold: a time in milliseconds, far from it.
_MOST_WHOLE = 2**63 - 1
# Controls and lone surrogates, which no tokenizer takes. Joiners stay: scripts and emoji need them.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_FIELDS = {
    "reviews": "user_id, parent_asin, timestamp (milliseconds) and rating (1 to 5)",
    "meta": "parent_asin and title",
    "rubric": f"user_id, parent_asin and grade (a whole number from 0 to {MAX_GRADE})",
}

_T = TypeVar("_T")


class Hash(Protocol):
    """A hash that is being taken, as `hashlib` makes them."""

    def update(self, data: bytes, /) -> None:
        """Take more bytes."""
        ...

    def hexdigest(self) -> str:
        """The digest of all bytes so far."""
        ...


class Review(NamedTuple):
    """One usable review: ids, Unix time in milliseconds, stars rounded half up to 1..5."""

    user: str
    item: str
    timestamp: int
    stars: int


class Meta(NamedTuple):
    """One usable meta row: the item and its title on one line, quotes and letters as they are."""

    item: str
    title: str


class Grade(NamedTuple):
    """One usable rubric row: how relevant the item is to the user, an integer in 0..4."""

    user: str
    item: str
    grade: int


class _RowError(ValueError):
    """A row cannot be used; the text is the reason it is counted under."""


@dataclass
class RowLog:
    """What happened to the lines of one file: all, usable, and the others by reason.

    bytes, sha256: of the unpacked content, as far as it has been read.
    """

    kind: str
    rows: int = 0
    usable: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    bytes: int = 0
    sha256: Hash = field(default_factory=hashlib.sha256, compare=False)

    def reject(self, reason: str, count: int = 1) -> None:
        """Count `count` rows under `reason`."""
        if count:
            self.rejected[f"{self.kind}: {reason}"] += count


def review_rows(path: Path, log: RowLog, meter: ReadProgress) -> Iterator[Review]:
    """Usable reviews in file order; all other lines are counted in `log`.

    Raises DataError when the file cannot be read, or when no line, or none of the first
    `SCHEMA_ROWS`, is usable. The same holds for the two functions below.
    """
    return _rows(path, log, meter, _review)


def meta_rows(path: Path, log: RowLog, meter: ReadProgress) -> Iterator[Meta]:
    """Usable meta rows in file order; all other lines are counted in `log`."""
    return _rows(path, log, meter, _meta)


def grade_rows(path: Path, log: RowLog, meter: ReadProgress) -> Iterator[Grade]:
    """Usable rubric rows in file order; all other lines are counted in `log`.

    One object per line: `{"user_id": str, "parent_asin": str, "grade": int 0..4}`.
    """
    return _rows(path, log, meter, _grade)


def _rows(
    path: Path, log: RowLog, meter: ReadProgress, parse: Callable[[Mapping[str, object]], _T]
) -> Iterator[_T]:
    head = b""
    for line in _lines(path, log, meter):
        head = head or line[:4]
        log.rows += 1
        try:
            row = parse(_json_object(line))
        except _RowError as error:
            log.reject(str(error))
            if not log.usable and log.rows == SCHEMA_ROWS:
                raise _wrong_schema(path, log, head) from None
        else:
            log.usable += 1
            yield row
    if not log.usable:
        raise _wrong_schema(path, log, head)


def _wrong_schema(path: Path, log: RowLog, head: bytes) -> DataError:
    if foreign := foreign_encoding(head):
        return DataError(f"{path} {foreign}")
    needed = f"each line of the {log.kind} file must be an object with {_FIELDS[log.kind]}"
    if not log.rows:
        return DataError(f"{path} is empty: {needed}")
    commonest = min(log.rejected, key=lambda reason: (-log.rejected[reason], reason))
    return DataError(
        f"{path}: none of the first {log.rows} rows is usable (most often {commonest}): {needed}"
    )


def _lines(path: Path, log: RowLog, meter: ReadProgress) -> Iterator[bytes]:
    """Lines as bytes; of a longer one than the limit only the first limit + 1 bytes."""
    with open_raw(path) as raw:
        blocks = read_blocks(path, raw, lambda handle: handle.readline(MAX_LINE_BYTES + 1))
        inside_line = False
        for count, block in enumerate(blocks):
            log.sha256.update(block)
            log.bytes += len(block)
            if not inside_line:
                yield block
            inside_line = not block.endswith(b"\n")
            if count % _PROGRESS_ROWS == 0:
                meter.at(raw.tell())
        meter.end_pass(raw.tell())


def _json_object(line: bytes) -> Mapping[str, object]:
    if len(line) > MAX_LINE_BYTES:
        raise _RowError("line too long")
    # Files joined end to end carry a mark at each seam, not only at the start.
    line = line.removeprefix(_UTF8_MARK)
    if not line.strip():
        raise _RowError("blank line")
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise _RowError("not UTF-8") from None
    except (ValueError, RecursionError):
        raise _RowError("not JSON") from None
    if not isinstance(value, dict):
        raise _RowError("not an object")
    return value


def _review(row: Mapping[str, object]) -> Review:
    user, item = _identifier(row, "user_id"), _identifier(row, "parent_asin")
    timestamp = _whole_number(row, "timestamp")
    rating = _present(row, "rating")
    # The JSON reader lets NaN through; it fails the range test. A truth value is an int.
    if not isinstance(rating, int | float) or isinstance(rating, bool) or not 1 <= rating <= 5:
        raise _RowError("rating not usable")
    return Review(user, item, timestamp, math.floor(rating + 0.5))


def _meta(row: Mapping[str, object]) -> Meta:
    item, title = _identifier(row, "parent_asin"), _present(row, "title")
    if not isinstance(title, str):
        raise _RowError("title not usable")
    title = one_line(title)
    if not title:
        raise _RowError("title missing")
    return Meta(item, title)


def one_line(text: str) -> str:
    """A title without controls and lone surrogates, its words one blank apart."""
    return " ".join(_UNPRINTABLE.sub(" ", text).split())


def _grade(row: Mapping[str, object]) -> Grade:
    user, item = _identifier(row, "user_id"), _identifier(row, "parent_asin")
    grade = _whole_number(row, "grade")
    if grade > MAX_GRADE:
        raise _RowError("grade not usable")
    return Grade(user, item, grade)


def _present(row: Mapping[str, object], name: str) -> object:
    value = row.get(name)
    if value is None:
        raise _RowError(f"{name} missing")
    return value


def _whole_number(row: Mapping[str, object], name: str) -> int:
    value = _present(row, name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MOST_WHOLE:
        raise _RowError(f"{name} not usable")
    return value


def _identifier(row: Mapping[str, object], name: str) -> str:
    value = _present(row, name)
    # Control characters and lone surrogates are not printable; they would break hashes and logs.
    if not isinstance(value, str) or not value.isprintable() or not value.strip():
        raise _RowError(f"{name} not usable")
    return value
