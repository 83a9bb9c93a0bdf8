"""Candidate lists from the raw Amazon Reviews 2023 files (Amazon_Fashion).

Each file is read once, into columns without review texts (`columns`), which are kept (`kept`). All
later steps, which depend on seed, sizes and shape, work on the columns: who has enough distinct
titled items (`histories`), whose split is which, and one list a user (`lists`, `negatives`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from opdcliff.data.amazon.files import Progress, ReadProgress
from opdcliff.data.amazon.histories import join
from opdcliff.data.amazon.kept import RawPair, sums_for_people
from opdcliff.data.amazon.lists import ListShape, NoListError, as_example, draw_list
from opdcliff.data.amazon.negatives import UNIFORM, pool_of
from opdcliff.data.amazon.report import LoadReport, filter_table
from opdcliff.data.amazon.rows import RowLog, grade_rows
from opdcliff.data.amazon.shares import Shares, SplitPlan
from opdcliff.data.example import Example, Splits
from opdcliff.errors import DataError
from opdcliff.paths import StudyPaths

_Grades = Mapping[tuple[str, str], int]


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
    negatives: str = UNIFORM,
    keep: StudyPaths | None = None,
    progress: Progress | None = None,
) -> tuple[Splits, LoadReport]:
    """One list of `candidates` titles per user with at least `min_items` distinct titled items.

    The user's items are sorted by (time, item id); of a repeated user-item pair the first review
    counts. The last item is the positive, the `max_history` before it are shown, and negatives
    come from the titled items of all such users: any of them alike ("uniform"), or those about as
    popular as the positive first ("popularity", see `PopularPool`).

    Grades: with `rubric`, the rubric's (0 for a negative it does not name; a user whose positive
    it does not name gets no list, counted). Without, a stand-in from stars: the positive gets
    max(1, stars - 1) in 1..4 and negatives 0.

    rubric: JSONL of `{"user_id": str, "parent_asin": str, "grade": int 0..4}`; when a pair comes
        twice the lower grade counts.
    keep: where the columns of the raw files are kept; None reads the files at each call.
    progress: called with (bytes done, bytes to read in all).

    Raises ConfigError for a setting out of range, and DataError for missing, damaged or foreign
    files, when no list can be built, and when a split has fewer lists than asked.
    """
    shape = ListShape(candidates, min_items, max_history, max_title_words)
    pair = RawPair.of(folder, keep)
    if rubric is not None and not rubric.is_file():
        raise DataError(f"rubric {rubric} does not exist: name a JSONL file, or null for stars")
    meter = pair.meter(progress, rubric.stat().st_size if rubric else 0)
    reviews, metas = pair.reviews.columns(meter), pair.meta.columns(meter)
    bought = join(reviews, metas, min_items=min_items, max_title_words=max_title_words)
    counts = bought.counts
    rubric_log = RowLog("rubric")
    grades = _rubric_grades(rubric, rubric_log, meter, bought.active) if rubric else None
    if not bought.users:
        raise DataError(
            f"{folder}: none of {counts.users} users has {min_items} distinct titled items "
            f"({counts.pairs - counts.interactions} reviews have no title): check that reviews "
            "and meta are of one category, or lower min_items"
        )
    pool = pool_of(negatives, bought.pool, bought.popularity)
    widened: list[str] = []
    unnamed: dict[str, int] = {}

    def build(place: int) -> Example:
        user, stars = bought.users[place], bought.of(place)
        grade = _grader(user, stars, grades)
        drawn = draw_list(user, list(stars), bought.titles, pool, seed=seed, shape=shape)
        example = as_example(drawn, bought.titles, grade)
        if grades is not None:
            unnamed[user] = sum((user, item) not in grades for item in drawn.items)
        if user in pool.widened:
            widened.append(user)
        return example

    shares = Shares.of(bought.users, sizes, seed)
    shares.log.reject(f"fewer than {min_items} titled items", counts.users - len(bought.users))
    parts = shares.build(build, sizes)
    rows = RowLog("reviews", rejected=Counter(reviews.facts.rejected))
    rows.reject("user-item pair repeated", reviews.facts.usable - counts.pairs)
    rows.reject("item without a title", counts.pairs - counts.interactions)
    logs = (rows.rejected, metas.facts.rejected, rubric_log.rejected, shares.log.rejected)
    built = {name: len(part) for name, part in parts.items()}
    later = {"list tried": shares.tried, "list built": built}
    return Splits(parts["train"], parts["calibration"], parts["test"]), LoadReport(
        rows=reviews.facts.rows,
        meta_rows=metas.facts.rows,
        rubric_rows=rubric_log.rows,
        users=counts.users,
        interactions=counts.interactions,
        repeated_pairs=counts.repeated_pairs,
        pool_items=len(bought.pool),
        lists=sum(built.values()),
        splits=built,
        rejected={reason: count for log in logs for reason, count in log.items()},
        grade_source="rubric" if rubric else "stars (stand-in)",
        negatives=negatives,
        widened=len(widened),
        unnamed=sum(unnamed.values()),
        filters=filter_table(reviews.facts, counts, min_items, shares.sizes(), later),
        files=sums_for_people(reviews.facts, metas.facts),
    )


def _rubric_grades(
    path: Path, log: RowLog, meter: ReadProgress, users: Collection[str]
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
