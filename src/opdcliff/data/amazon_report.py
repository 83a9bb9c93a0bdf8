"""What loading the Amazon rows found, kept and rejected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

GradeSource = Literal["rubric", "stars (stand-in)"]


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

    def as_dict(self) -> dict[str, object]:
        """The same counts as plain JSON values."""
        return asdict(self) | {"splits": dict(self.splits), "rejected": dict(self.rejected)}

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
