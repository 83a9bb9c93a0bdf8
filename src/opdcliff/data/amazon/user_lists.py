"""The lists of users as a judge grades them: who, what they had, which items, drawn as for a run.

These are the lists that `load_amazon` builds of the same settings, in the same order, but with ids
and stars, and with longer titles where a judge is shown more than the models are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from opdcliff.data.amazon.files import Progress, ReadProgress
from opdcliff.data.amazon.histories import Histories, join
from opdcliff.data.amazon.kept import RawPair
from opdcliff.data.amazon.lists import ListShape, NoListError, draw_list
from opdcliff.data.amazon.negatives import Pool, pool_of
from opdcliff.data.amazon.report import SPLITS
from opdcliff.data.amazon.rows import RowLog, grade_rows
from opdcliff.data.amazon.shares import Shares, SplitPlan
from opdcliff.errors import DataError
from opdcliff.paths import StudyPaths


@dataclass(frozen=True)
class UserList:
    """One list to be graded.

    history: (title, stars) of items the user had before, oldest first. items: candidates in the
    order of the prompt. titles: theirs. positive: the item that was bought. stars: those it got.
    """

    user: str
    history: tuple[tuple[str, int], ...]
    items: tuple[str, ...]
    titles: tuple[str, ...]
    positive: str
    stars: int


@dataclass(frozen=True)
class UserLists:
    """The lists of each split, drawn one by one in the order in which a run takes them.

    sizes: how many lists a run takes of each split, None for all. most_shown: earlier items that a
    list shows at most.
    """

    sizes: Mapping[str, int | None]
    most_shown: int
    _bought: Histories
    _shown: Mapping[str, str]
    _pool: Pool
    _members: Mapping[str, list[int]]
    _shape: ListShape
    _seed: int

    def of(self, split: str) -> Iterator[UserList]:
        """The lists of a split; users that get none are passed over, as `load_amazon` does."""
        for place in self._members[split]:
            user, stars = self._bought.users[place], self._bought.of(place)
            items, titles = list(stars), self._bought.titles
            try:
                drawn = draw_list(
                    user, items, titles, self._pool, seed=self._seed, shape=self._shape
                )
            except NoListError:
                continue
            *earlier, positive = items
            yield UserList(
                user,
                tuple((self._shown[item], stars[item]) for item in earlier[-self.most_shown :]),
                drawn.items,
                tuple(self._shown[item] for item in drawn.items),
                positive,
                stars[positive],
            )


def load_user_lists(
    folder: Path,
    *,
    candidates: int,
    seed: int,
    sizes: SplitPlan,
    min_items: int,
    max_history: int,
    max_title_words: int,
    negatives: str,
    shown_history: int,
    shown_words: int,
    keep: StudyPaths | None = None,
    progress: Progress | None = None,
) -> UserLists:
    """The lists that `load_amazon` builds of the same settings.

    shown_history: most recent earlier items of a list, at least 1. shown_words: words kept of a
        title that a list shows, at least 1; which items a list has does not depend on either.
    keep, progress: as for `load_amazon`.

    Raises ConfigError for a setting out of range, DataError for files that cannot be used.
    """
    shape = ListShape(candidates, min_items, max_history, max_title_words)
    pair = RawPair.of(folder, keep)
    meter = pair.meter(progress, 0)
    reviews, metas = pair.reviews.columns(meter), pair.meta.columns(meter)
    bought, shown = (
        join(reviews, metas, min_items=min_items, max_title_words=words)
        for words in (max_title_words, shown_words)
    )
    if not bought.users:
        raise DataError(f"{folder}: no user has {min_items} distinct titled items; lower min_items")
    return UserLists(
        {name: getattr(sizes, name) for name in SPLITS},
        shown_history,
        bought,
        shown.titles,
        pool_of(negatives, bought.pool, bought.popularity),
        Shares.of(bought.users, sizes, seed).members,
        shape,
        seed,
    )


def read_grades(path: Path) -> dict[tuple[str, str], int]:
    """Grades of a rubric file by (user, item); the lower where a pair comes twice.

    Raises:
        DataError: it is missing, damaged or of another form, or no line of it can be used.
    """
    if not path.is_file():
        raise DataError(f"rubric {path} does not exist: name a JSONL file")
    grades: dict[tuple[str, str], int] = {}
    for row in grade_rows(path, RowLog("rubric"), ReadProgress(path.stat().st_size, None)):
        pair = (row.user, row.item)
        grades[pair] = min(row.grade, grades.get(pair, row.grade))
    return grades
