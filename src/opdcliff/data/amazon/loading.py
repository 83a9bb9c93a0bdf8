"""Candidate lists from the raw Amazon Reviews 2023 files (Amazon_Fashion).

Three passes, none of which holds review texts. (1) The reviews give 64-bit hashes of user, item
and pair, 24 bytes per row: who has enough distinct items, which pairs repeat. (2) The reviews
again give (time, item, stars) of those users only. (3) The meta file gives the shortened titles
of their items. A hash collision can only add a user that the exact check after pass 3 drops, or
move a count of the report by one (chance about 1e-7 on the full set).

Memory on the full set (2.5M reviews, 2.0M users, 826K items) is an estimate, never a run of it.
Pass 1: 60 MB of hashes and about as much again twice over to sort them, freed. Passes 2 and 3:
300 bytes per kept review with its share of ids and titles [M, tracemalloc on 5,000 real rows],
and at most 750K reviews by 250K users can be kept, because every other user takes one row at
least: 225 MB. Each list built adds 1.4 KB [M]; cap their number with `SplitPlan`.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from opdcliff.data.amazon.files import META_NAME, REVIEWS_NAME, Progress, ReadProgress, find_file
from opdcliff.data.amazon.lists import ListShape, NoListError, build_list, shorten, split_position
from opdcliff.data.amazon.report import LoadReport
from opdcliff.data.amazon.rows import RowLog, grade_rows, meta_rows, review_rows
from opdcliff.data.example import Example, Splits
from opdcliff.errors import ConfigError, DataError

SPLITS = ("train", "calibration", "test")

_Visit = tuple[int, str, int]
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


@dataclass(frozen=True)
class _Survey:
    """Pass 1. `active`: hashes of users with enough distinct items, titled or not.

    `pair_items`: hash of the item of every distinct user-item pair.
    """

    users: int
    repeated_pairs: int
    active: frozenset[int]
    pair_items: NDArray[np.int64]


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
    reviews, meta = find_file(folder, REVIEWS_NAME), find_file(folder, META_NAME)
    if rubric is not None and not rubric.is_file():
        raise DataError(f"rubric {rubric} does not exist: name a JSONL file, or null for stars")
    passes = [reviews, reviews, meta, *([rubric] if rubric else [])]
    meter = ReadProgress(sum(path.stat().st_size for path in passes), progress)
    review_log, meta_log, rubric_log, user_log = map(RowLog, ("reviews", "meta", "rubric", "users"))

    survey = _survey(reviews, review_log, meter, min_items)
    visits, titles = _visits_and_titles(reviews, survey.active, meter)
    titled = _fill_titles(titles, meta, meta_log, meter, max_title_words)
    grades = _rubric_grades(rubric, rubric_log, meter, visits) if rubric else None

    interactions = int(np.isin(survey.pair_items, titled).sum())
    review_log.reject("user-item pair repeated", review_log.usable - survey.pair_items.size)
    review_log.reject("item without a title", survey.pair_items.size - interactions)
    users = [user for user, rows in visits.items() if len(_in_time(rows, titles)) >= min_items]
    user_log.reject(f"fewer than {min_items} titled items", survey.users - len(users))
    if not users:
        raise DataError(
            f"{folder}: none of {survey.users} users has {min_items} distinct titled items "
            f"({survey.pair_items.size - interactions} reviews have no title): check that reviews "
            "and meta are of one category, or lower min_items"
        )
    pool = sorted(titles)

    def build(user: str) -> Example:
        stars = _in_time(visits[user], titles)
        grade = _grader(user, stars, grades)
        return build_list(user, list(stars), titles, pool, grade, seed=seed, shape=shape)

    parts = _build_splits(users, build, sizes, seed, user_log)
    rejected = sum((log.rejected for log in (review_log, meta_log, rubric_log)), user_log.rejected)
    return Splits(parts[0], parts[1], parts[2]), LoadReport(
        rows=review_log.rows,
        meta_rows=meta_log.rows,
        rubric_rows=rubric_log.rows,
        users=survey.users,
        interactions=interactions,
        repeated_pairs=survey.repeated_pairs,
        pool_items=len(pool),
        lists=sum(map(len, parts)),
        splits=dict(zip(SPLITS, map(len, parts), strict=True)),
        rejected=dict(rejected),
        grade_source="rubric" if rubric else "stars (stand-in)",
    )


def _survey(path: Path, log: RowLog, meter: ReadProgress, min_items: int) -> _Survey:
    users, items, pairs = array("q"), array("q"), array("q")
    for row in review_rows(path, log, meter):
        users.append(hash(row.user))
        items.append(hash(row.item))
        pairs.append(hash((row.user, row.item)))
    _, first, repeats = np.unique(_int64(pairs), return_index=True, return_counts=True)
    ids, items_per_user = np.unique(_int64(users)[first], return_counts=True)
    return _Survey(
        users=ids.size,
        repeated_pairs=int((repeats > 1).sum()),
        active=frozenset(ids[items_per_user >= min_items].tolist()),
        pair_items=_int64(items)[first],
    )


def _int64(values: array[int]) -> NDArray[np.int64]:
    return np.frombuffer(values, dtype=np.int64)


def _visits_and_titles(
    path: Path, active: frozenset[int], meter: ReadProgress
) -> tuple[dict[str, list[_Visit]], dict[str, str]]:
    """Reviews of the active users, and their items, each with an empty title."""
    visits: dict[str, list[_Visit]] = {}
    names: dict[str, str] = {}
    for row in review_rows(path, RowLog("reviews"), meter):
        if hash(row.user) in active:
            # One string object per item, however many users have it.
            item = names.setdefault(row.item, row.item)
            visits.setdefault(row.user, []).append((row.timestamp, item, row.stars))
    return visits, dict.fromkeys(names, "")


def _fill_titles(
    titles: dict[str, str], path: Path, log: RowLog, meter: ReadProgress, max_words: int
) -> NDArray[np.int64]:
    """Set the title of each item, drop items without one; hashes of all titled items there are.

    Of an item that comes twice the title first in the alphabet counts, whatever the file's order.
    """
    hashes = array("q")
    for row in meta_rows(path, log, meter):
        hashes.append(hash(row.item))
        if row.item in titles:
            title = shorten(row.title, max_words)
            titles[row.item] = min(title, titles[row.item] or title)
    for item in [item for item, title in titles.items() if not title]:
        del titles[item]
    titled = np.unique(_int64(hashes))
    log.reject("item repeated", len(hashes) - titled.size)
    return titled


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


def _in_time(visits: Sequence[_Visit], titles: Mapping[str, str]) -> dict[str, int]:
    """Titled items in order of first review, each with the stars of that review."""
    stars: dict[str, int] = {}
    for _, item, count in sorted(visits):
        if item in titles:
            stars.setdefault(item, count)
    return stars


def _grader(user: str, stars: Mapping[str, int], grades: _Grades | None) -> Callable[[str], int]:
    positive = list(stars)[-1]
    if grades is None:
        return lambda item: max(1, stars[item] - 1) if item == positive else 0
    if (user, positive) not in grades:
        raise NoListError("positive not in the rubric")
    return lambda item: grades.get((user, item), 0)


def _build_splits(
    users: Iterable[str],
    build: Callable[[str], Example],
    sizes: SplitPlan,
    seed: int,
    log: RowLog,
) -> list[tuple[Example, ...]]:
    train_end, calibration_end = np.cumsum(sizes.fractions)[:2]
    members: dict[str, list[str]] = {name: [] for name in SPLITS}
    for position, user in sorted((split_position(seed, user), user) for user in users):
        index = int(position >= train_end) + int(position >= calibration_end)
        members[SPLITS[index]].append(user)
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
