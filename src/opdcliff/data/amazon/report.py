"""What loading the Amazon rows found, kept and rejected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

from opdcliff.data.amazon.columns import ReadFacts
from opdcliff.data.amazon.histories import Counts

GradeSource = Literal["rubric", "stars (stand-in)"]
# A row of the table of filters: its name, and reviews and users that it leaves, in all and per
# split; None where there is no such number.
Filter = Mapping[str, str | int | None]
SPLITS = ("train", "calibration", "test")


@dataclass(frozen=True)
class LoadReport:
    """Counts of one load; every line and every user is either used or counted in `rejected`.

    rows, meta_rows, rubric_rows: lines read of each file, unusable ones included.
    users: distinct users with a usable review.
    interactions: distinct user-item pairs whose item has a title.
    repeated_pairs: distinct user-item pairs that come more than once.
    pool_items: titled items that negatives are drawn from.
    lists, splits: ranking problems built, in all and per split.
    unnamed: candidates of these lists that the rubric does not name, and whose grade is then 0.
    rejected: count per reason, "reviews|meta|rubric: ..." in lines and "users: ..." in users, so
        rows = interactions + sum(reviews: ...) and users = lists + sum(users: ...).
    grade_source: a rubric file, or star ratings standing in for one.
    negatives: how they were drawn; widened: lists for which items about as popular as the positive
        were too few (`PopularPool`).
    filters: reviews and users that each filter leaves, see `filter_table`.
    files: size and sha256 of each raw file (`sums_for_people`); no part of what was found in them.
    """

    rows: int
    meta_rows: int
    rubric_rows: int
    users: int
    interactions: int
    repeated_pairs: int
    pool_items: int
    lists: int
    splits: Mapping[str, int]
    unnamed: int
    rejected: Mapping[str, int]
    grade_source: GradeSource
    negatives: str
    widened: int
    filters: Sequence[Filter]
    files: Mapping[str, Mapping[str, object]] = field(compare=False)

    def as_dict(self) -> dict[str, object]:
        """The same counts as plain JSON values."""
        plain = asdict(self)
        plain["filters"] = [dict(row) for row in self.filters]
        return plain | {name: dict(plain[name]) for name in ("splits", "rejected", "files")}

    def lines(self) -> list[str]:
        """A table for people, one line per count."""
        warning = "" if self.grade_source == "rubric" else ": star ratings, not relevance"
        table = [
            ("review rows read", self.rows),
            ("meta rows read", self.meta_rows),
            ("rubric rows read", self.rubric_rows),
            ("users", self.users),
            ("user-item pairs with a title", self.interactions),
            ("user-item pairs that repeat", self.repeated_pairs),
            ("items in the negative pool", self.pool_items),
            ("lists built", self.lists),
            *((f"  {name}", count) for name, count in self.splits.items()),
            *(
                [("candidates that the rubric does not name, taken as 0", self.unnamed)]
                if self.unnamed
                else []
            ),
            *((f"not used, {reason}", count) for reason, count in sorted(self.rejected.items())),
        ]
        width = max(len(label) for label, _ in table)
        return [
            f"{'grades from':<{width}}  {self.grade_source}{warning}",
            *(f"{label:<{width}}  {count:>9,}" for label, count in table),
        ]


def filter_table(
    reviews: ReadFacts,
    counts: Counts,
    min_items: int,
    enough: Mapping[str, int],
    later: Mapping[str, Mapping[str, int]],
) -> list[Filter]:
    """Reviews and users after each filter, in the order in which the filters come.

    Reviews: all rows; those with user, item and time; those with a rating too; the first of each
    user-item pair; those whose item has a title; those of users with `min_items` such items.
    enough: users with `min_items` titled items per split; later: those of further steps.
    """
    reasons = ("reviews: rating missing", "reviews: rating not usable")
    rated = reviews.usable
    unrated = sum(reviews.rejected.get(reason, 0) for reason in reasons)
    steps: list[tuple[str, int | None, int | None, Mapping[str, int | None]]] = [
        ("rows read", reviews.rows, None, _NOWHERE),
        ("user, item and time", rated + unrated, None, _NOWHERE),
        ("a rating", rated, counts.users, _NOWHERE),
        ("first of its pair", counts.pairs, counts.users, _NOWHERE),
        ("item with a title", counts.interactions, counts.titled_users, _NOWHERE),
        (f"{min_items} such items", counts.kept, sum(enough.values()), enough),
        *((name, None, sum(users.values()), users) for name, users in later.items()),
    ]
    return [
        {"filter": name, "reviews": left, "users": users, **per_split}
        for name, left, users, per_split in steps
    ]


_NOWHERE: Mapping[str, int | None] = dict.fromkeys(SPLITS)
