"""The lists of users as a judge grades them: who, what they had, which items, drawn as for a run.

These are the lists that `load_amazon` builds of the same settings, in the same order, but with ids
and stars, and with longer titles where a judge is shown more than the models are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from opdcliff.data.amazon import SPLITS, SplitPlan, share_out
from opdcliff.data.amazon_files import Progress, ReadProgress
from opdcliff.data.amazon_lists import ListShape, NoListError, draw_list
from opdcliff.data.amazon_rows import RowLog, grade_rows
from opdcliff.data.users.rows import UserRows, fill_titles, pass_files, read_users
from opdcliff.errors import DataError


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


class UserLists:
    """The lists of each split, drawn one by one in the order in which a run takes them.

    splits: names. sizes: how many lists a run takes of each, None for all.
    """

    def __init__(
        self,
        rows: UserRows,
        shown: dict[str, str],
        shape: ListShape,
        seed: int,
        sizes: SplitPlan,
        history: int,
    ) -> None:
        self._rows, self._shown, self._shape = rows, shown, shape
        self._seed, self._history = seed, history
        self._members = share_out(rows.names, seed, sizes)
        self.sizes: dict[str, int | None] = {name: getattr(sizes, name) for name in SPLITS}

    def of(self, split: str) -> Iterator[UserList]:
        """The lists of a split; users that get none are passed over, as `load_amazon` does."""
        rows = self._rows
        for user in self._members[split]:
            stars = rows.stars_in_time(user)
            bought = list(stars)
            try:
                drawn = draw_list(
                    user, bought, rows.titles, rows.pool, seed=self._seed, shape=self._shape
                )
            except NoListError:
                continue
            earlier = bought[:-1][-self._history :]
            yield UserList(
                user,
                tuple((self._shown[item], stars[item]) for item in earlier),
                drawn.items,
                tuple(self._shown[item] for item in drawn.items),
                bought[-1],
                stars[bought[-1]],
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
    shown_history: int,
    shown_words: int,
    progress: Progress | None = None,
) -> UserLists:
    """The lists that `load_amazon` builds of the same settings.

    shown_history: most recent earlier items of a list, at least 1. shown_words: words kept of a
        title that a list shows, at least 1; which items a list has does not depend on either.
    progress: called with (bytes done, bytes in all passes).

    Raises ConfigError for a setting out of range, DataError for files that cannot be used.
    """
    shape = ListShape(candidates, min_items, max_history, max_title_words)
    files = pass_files(folder)
    meter = ReadProgress(sum(path.stat().st_size for path in (*files, files[-1])), progress)
    rows = read_users(folder, shape, meter)
    shown = dict.fromkeys(rows.titles, "")
    fill_titles(shown, files[-1], RowLog("meta"), meter, shown_words)
    return UserLists(rows, shown, shape, seed, sizes, shown_history)


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
