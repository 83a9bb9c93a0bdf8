"""What the Amazon files say of the users that have enough items: three passes, no review texts.

(1) The reviews give 64-bit hashes of user, item and pair, 24 bytes per row: who has enough distinct
items, which pairs repeat. (2) The reviews again give (time, item, stars) of those users only.
(3) The meta file gives the shortened titles of their items. A hash collision can only add a user
that the exact check after pass 3 drops, or move a count of the report by one (chance about 1e-7 on
the full set).

Memory on the full set (2.5M reviews, 2.0M users, 826K items) is an estimate, never a run of it.
Pass 1: 60 MB of hashes and about as much again twice over to sort them, freed. Passes 2 and 3:
300 bytes per kept review with its share of ids and titles [M, tracemalloc on 5,000 real rows],
and at most 750K reviews by 250K users can be kept, because every other user takes one row at
least: 225 MB.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from opdcliff.data.amazon_files import META_NAME, REVIEWS_NAME, ReadProgress, find_file
from opdcliff.data.amazon_lists import ListShape, shorten
from opdcliff.data.amazon_rows import RowLog, meta_rows, review_rows
from opdcliff.errors import DataError

Visit = tuple[int, str, int]


@dataclass(frozen=True)
class UserRows:
    """Users with enough titled items.

    names: those users. visits: (time, item, stars) of every review of a user.
    titles: shortened title of every item of theirs that has one. pool: those items, sorted.
    all_users, interactions, repeated_pairs: as in `LoadReport`.
    reviews, meta: what happened to the lines of the two files; users: to the users.
    """

    names: list[str]
    visits: dict[str, list[Visit]]
    titles: dict[str, str]
    pool: list[str]
    all_users: int
    interactions: int
    repeated_pairs: int
    reviews: RowLog
    meta: RowLog
    users: RowLog

    def stars_in_time(self, user: str) -> dict[str, int]:
        """Titled items of a user in order of first review, each with the stars of that review."""
        return in_time(self.visits[user], self.titles)


@dataclass(frozen=True)
class _Survey:
    """Pass 1. `active`: hashes of users with enough distinct items, titled or not.

    `pair_items`: hash of the item of every distinct user-item pair.
    """

    users: int
    repeated_pairs: int
    active: frozenset[int]
    pair_items: NDArray[np.int64]


def pass_files(folder: Path) -> tuple[Path, Path, Path]:
    """The files that `read_users` reads, one a pass. Raises DataError where one is missing."""
    reviews, meta = find_file(folder, REVIEWS_NAME), find_file(folder, META_NAME)
    return reviews, reviews, meta


def read_users(folder: Path, shape: ListShape, meter: ReadProgress) -> UserRows:
    """The users of `folder` that can get a list of `shape`.

    Raises:
        DataError: missing, damaged or foreign files, or no such user.
    """
    reviews, _, meta = pass_files(folder)
    review_log, meta_log, user_log = map(RowLog, ("reviews", "meta", "users"))
    survey = _survey(reviews, review_log, meter, shape.min_items)
    visits, titles = _visits_and_titles(reviews, survey.active, meter)
    titled = fill_titles(titles, meta, meta_log, meter, shape.max_title_words)

    interactions = int(np.isin(survey.pair_items, titled).sum())
    untitled = survey.pair_items.size - interactions
    review_log.reject("user-item pair repeated", review_log.usable - survey.pair_items.size)
    review_log.reject("item without a title", untitled)
    least = shape.min_items
    names = [user for user, rows in visits.items() if len(in_time(rows, titles)) >= least]
    user_log.reject(f"fewer than {least} titled items", survey.users - len(names))
    if not names:
        raise DataError(
            f"{folder}: none of {survey.users} users has {least} distinct titled items "
            f"({untitled} reviews have no title): check that reviews and meta are of one "
            "category, or lower min_items"
        )
    return UserRows(
        names,
        visits,
        titles,
        sorted(titles),
        survey.users,
        interactions,
        survey.repeated_pairs,
        review_log,
        meta_log,
        user_log,
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
) -> tuple[dict[str, list[Visit]], dict[str, str]]:
    """Reviews of the active users, and their items, each with an empty title."""
    visits: dict[str, list[Visit]] = {}
    names: dict[str, str] = {}
    for row in review_rows(path, RowLog("reviews"), meter):
        if hash(row.user) in active:
            # One string object per item, however many users have it.
            item = names.setdefault(row.item, row.item)
            visits.setdefault(row.user, []).append((row.timestamp, item, row.stars))
    return visits, dict.fromkeys(names, "")


def fill_titles(
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


def in_time(visits: Sequence[Visit], titles: Mapping[str, str]) -> dict[str, int]:
    """Titled items in order of first review, each with the stars of that review."""
    stars: dict[str, int] = {}
    for _, item, count in sorted(visits):
        if item in titles:
            stars.setdefault(item, count)
    return stars
