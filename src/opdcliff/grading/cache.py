"""Every reply that was paid for, kept: an append-only file with a checksum on each line.

A kill in the middle of a write leaves half a line, which is cut off when the file is opened again.
A line that is damaged otherwise counts as not there, and is counted: its request is sent anew.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from opdcliff.grading.answers import Graded, Reason
from opdcliff.records import hold_lock, let_go_of_lock
from opdcliff.storage import append_line, canonical_json, digest, fsync_folder, writing

ANSWERS = "answers.jsonl"
_LOCK = "answers.lock"
# Of an answer that could not be used, what is kept to look at.
_MOST_KEPT = 2000


@dataclass(frozen=True)
class Entry:
    """One reply. grades: in the order of the question's items; reason: why there are none.

    text: of an answer that could not be used, its beginning. tokens_in, tokens_out: counted by the
    endpoint, or where `assumed` says so the most that they can have been.
    lost_in, lost_out: at most, of attempts whose answer never arrived.
    """

    key: str
    grades: tuple[int, ...] | None
    reason: str | None
    detail: str
    text: str
    tokens_in: int
    tokens_out: int
    assumed: bool
    lost_in: int
    lost_out: int

    def graded(self) -> Graded:
        """The grades, or why there are none."""
        return Graded(self.grades, None if self.reason is None else Reason(self.reason))


class AnswerCache:
    """Entries of one judge in one folder; `open_cache` makes it.

    damaged: lines that could not be read.
    """

    def __init__(self, path: Path, entries: Iterable[Entry], damaged: int) -> None:
        self._path = path
        self._entries: dict[str, list[Entry]] = {}
        for entry in entries:
            self._entries.setdefault(entry.key, []).append(entry)
        self.damaged = damaged

    def find(self, key: str) -> Entry | None:
        """The entry of a request that was graded; else the last that was not; None without any."""
        found = self._entries.get(key)
        if not found:
            return None
        return next((entry for entry in found if entry.grades is not None), found[-1])

    def all_of(self, key: str) -> list[Entry]:
        """Every entry of a request: each was paid for."""
        return list(self._entries.get(key, ()))

    def add(self, entry: Entry) -> None:
        """Keep an entry; on return it is on disk.

        Raises:
            RecordError: the disk refuses; the file then holds the entries before.
        """
        line = _encode(entry)
        with writing(self._path):
            file = os.open(self._path, os.O_WRONLY | os.O_APPEND)
            try:
                append_line(file, line)
            finally:
                os.close(file)
        self._entries.setdefault(entry.key, []).append(entry)


@contextmanager
def open_cache(folder: Path) -> Iterator[AnswerCache]:
    """The cache in `folder`, held against other processes in this block.

    Raises:
        RecordError: another process holds it, or the disk refuses.
    """
    path = folder / ANSWERS
    with writing(path):
        folder.mkdir(parents=True, exist_ok=True)
    lock, _ = hold_lock(folder / _LOCK)
    try:
        with writing(path):
            path.touch()
            fsync_folder(folder)
            entries, damaged = _read_and_mend(path)
        yield AnswerCache(path, entries, damaged)
    finally:
        let_go_of_lock(lock)


def kept_text(text: str) -> str:
    """What is kept of an answer that could not be used."""
    return text[:_MOST_KEPT].encode("utf-8", "replace").decode()


def _read_and_mend(path: Path) -> tuple[list[Entry], int]:
    whole, newline, rest = path.read_bytes().rpartition(b"\n")
    if rest:
        os.truncate(path, len(whole) + len(newline))
    lines = whole.split(b"\n") if newline else []
    entries = [_decode(line) for line in lines]
    found = [entry for entry in entries if entry is not None]
    return found, len(entries) - len(found)


def _encode(entry: Entry) -> bytes:
    plain = asdict(entry)
    line = canonical_json({**plain, "sha256": digest(plain, "grade-answer")})
    return line.encode("ascii") + b"\n"


def _decode(line: bytes) -> Entry | None:
    try:
        plain: dict[str, Any] = json.loads(line)
        plain.pop("sha256")
        grades = plain["grades"]
        entry = Entry(**plain | {"grades": None if grades is None else tuple(grades)})
        # Comparing bytes, not values: no edit passes.
        return entry if _encode(entry) == line + b"\n" else None
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return None
