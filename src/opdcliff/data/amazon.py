"""Candidate lists from the raw Amazon Reviews 2023 files (Amazon_Fashion).

What the files say of users is read in `users.rows`, none of it with a review text in memory. Each
list built adds 1.4 KB [M, tracemalloc on 5,000 real rows]; cap their number with `SplitPlan`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from opdcliff.data.amazon_files import Progress, ReadProgress
from opdcliff.data.amazon_lists import (
    ListShape,
    NoListError,
    as_example,
    draw_list,
    split_position,
)
from opdcliff.data.amazon_report import LoadReport
from opdcliff.data.amazon_rows import RowLog, grade_rows
from opdcliff.data.example import Example, Splits
from opdcliff.data.users.rows import pass_files, read_users
from opdcliff.errors import ConfigError, DataError

SPLITS = ("train", "calibration", "test")

_Grades = Mapping[tuple[str, str], int]


@dataclass(frozen=True)
class SplitPlan:
    """How users are shared out.

    train, calibration, test: lists wanted per split; None takes all there are, at least one.
    fractions: shares of the users that hash to train, calibration and test; they sum to 1.
    """

    train: int | None = None
    calibration: int | None = None
    test: int | None = None
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)

    def __post_init__(self) -> None:
        for name in SPLITS:
            size = getattr(self, name)
            if size is not None and size < 1:
                raise ConfigError(f"{name}={size}: set at least 1 list, or null for all")
        if min(self.fractions) <= 0 or abs(sum(self.fractions) - 1) > 1e-9:
            raise ConfigError(f"fractions={self.fractions}: set three shares above 0 that sum to 1")

    @classmethod
    def of_sizes(cls, train: int, calibration: int, test: int) -> SplitPlan:
        """So many lists of each split, and users shared out in the same proportion."""
        whole = train + calibration + test
        fractions = (train / whole, calibration / whole, test / whole)
        return cls(train, calibration, test, fractions)


def load_amazon(
    folder: Path,
    *,
    candidates: int,
    seed: int,
    sizes: SplitPlan,
    rubric: Path | None = None,
    min_items: int = 3,
    max_history: int = 3,
    max_title_words: int = 8,
    progress: Progress | None = None,
) -> tuple[Splits, LoadReport]:
    """One list of `candidates` titles per user with at least `min_items` distinct titled items.

    The user's items are sorted by (time, item id); of a repeated user-item pair the first review
    counts. The last item is the positive, the `max_history` before it are shown, and negatives
    come from the titled items of all such users. A user's split is fixed by (seed, user id), so
    more rows never move a user; inside a split users come in the order of that same hash.

    Grades: with `rubric`, the rubric's (0 for a negative it does not name; a user whose positive
    it does not name gets no list, counted). Without, a stand-in from stars: the positive gets
    max(1, stars - 1) in 1..4 and negatives 0.

    rubric: JSONL of `{"user_id": str, "parent_asin": str, "grade": int 0..4}`; when a pair comes
        twice the lower grade counts.
    progress: called with (bytes done, bytes in all passes).

    Raises ConfigError for a setting out of range, and DataError for missing, damaged or foreign
    files, when no list can be built, and when a split has fewer lists than asked.
    """
    shape = ListShape(candidates, min_items, max_history, max_title_words)
    if rubric is not None and not rubric.is_file():
        raise DataError(f"rubric {rubric} does not exist: name a JSONL file, or null for stars")
    files = pass_files(folder)
    passes = [*files, *([rubric] if rubric else [])]
    meter = ReadProgress(sum(path.stat().st_size for path in passes), progress)
    rows, rubric_log, unnamed = read_users(folder, shape, meter), RowLog("rubric"), 0
    grades = _rubric_grades(rubric, rubric_log, meter, rows.visits) if rubric else None

    def build(user: str) -> Example:
        nonlocal unnamed
        stars = rows.stars_in_time(user)
        grade = _grader(user, stars, grades)
        drawn = draw_list(user, list(stars), rows.titles, rows.pool, seed=seed, shape=shape)
        example = as_example(drawn, rows.titles, grade)
        unnamed += sum(grades is not None and (user, item) not in grades for item in drawn.items)
        return example

    members = share_out(rows.names, seed, sizes)
    parts = _build_splits(members, build, sizes, rows.users)
    logs = (rows.reviews, rows.meta, rubric_log)
    rejected = sum((log.rejected for log in logs), rows.users.rejected)
    return Splits(parts[0], parts[1], parts[2]), LoadReport(
        rows=rows.reviews.rows,
        meta_rows=rows.meta.rows,
        rubric_rows=rubric_log.rows,
        users=rows.all_users,
        interactions=rows.interactions,
        repeated_pairs=rows.repeated_pairs,
        pool_items=len(rows.pool),
        lists=sum(map(len, parts)),
        splits=dict(zip(SPLITS, map(len, parts), strict=True)),
        unnamed=unnamed,
        rejected=dict(rejected),
        grade_source="rubric" if rubric else "stars (stand-in)",
    )


def share_out(users: Iterable[str], seed: int, sizes: SplitPlan) -> dict[str, list[str]]:
    """The users of each split, in the order of the hash that puts them there."""
    train_end, calibration_end = np.cumsum(sizes.fractions)[:2]
    members: dict[str, list[str]] = {name: [] for name in SPLITS}
    for position, user in sorted((split_position(seed, user), user) for user in users):
        index = int(position >= train_end) + int(position >= calibration_end)
        members[SPLITS[index]].append(user)
    return members


def _rubric_grades(
    path: Path, log: RowLog, meter: ReadProgress, users: Mapping[str, object]
) -> dict[tuple[str, str], int]:
    grades: dict[tuple[str, str], int] = {}
    for row in grade_rows(path, log, meter):
        pair = (row.user, row.item)
        if row.user not in users:
            log.reject("user has too few items")
        elif pair in grades:
            log.reject("user-item pair repeated")
            grades[pair] = min(grades[pair], row.grade)
        else:
            grades[pair] = row.grade
    return grades


def _grader(user: str, stars: Mapping[str, int], grades: _Grades | None) -> Callable[[str], int]:
    positive = list(stars)[-1]
    if grades is None:
        return lambda item: max(1, stars[item] - 1) if item == positive else 0
    if (user, positive) not in grades:
        raise NoListError("positive not in the rubric")
    return lambda item: grades.get((user, item), 0)


def _build_splits(
    members: Mapping[str, Sequence[str]],
    build: Callable[[str], Example],
    sizes: SplitPlan,
    log: RowLog,
) -> list[tuple[Example, ...]]:
    parts = {name: _build_part(members[name], build, getattr(sizes, name), log) for name in SPLITS}
    if not any(parts.values()):
        reasons = ", ".join(f"{reason} ({count})" for reason, count in sorted(log.rejected.items()))
        raise DataError(f"no list could be built: {reasons}; check the rubric and `candidates`")
    for name, part in parts.items():
        wanted = getattr(sizes, name) or 1
        if len(part) < wanted:
            raise DataError(
                f"split {name} has {len(part)} lists, {wanted} asked: lower its size, raise its "
                "share in `fractions`, or use more rows"
            )
    return list(parts.values())


def _build_part(
    users: Sequence[str], build: Callable[[str], Example], size: int | None, log: RowLog
) -> tuple[Example, ...]:
    examples: list[Example] = []
    for count, user in enumerate(users):
        if len(examples) == size:
            log.reject("beyond the size of their split", len(users) - count)
            break
        try:
            examples.append(build(user))
        except NoListError as reason:
            log.reject(str(reason))
    return tuple(examples)
