"""Which lists are graded, round by round, until each split has as many as a run takes.

A list whose candidates are all graded 0 is no list to a run (`load_amazon` takes the next user),
and neither is one without grades; so the next users' lists are graded too, until there are enough.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice

from opdcliff.data import UserList, UserLists
from opdcliff.grading.agreement import Grades
from opdcliff.grading.answers import Reason
from opdcliff.grading.cache import AnswerCache, Entry
from opdcliff.grading.cost import Tokens, spent_on
from opdcliff.grading.questions import Question, questions_of, rank_for_repeats
from opdcliff.settings import GradeConfig

# Grades of the lists of one grading by (user, item), those of unfinished lists left out.
_Grades = dict[tuple[str, str], int]


class Rounds:
    """The lists chosen so far, their questions, and what the cache knows of them."""

    def __init__(
        self, lists: UserLists, rubric: str, settings: GradeConfig, cache: AnswerCache | None
    ) -> None:
        self.rubric, self._settings, self._cache = rubric, settings, cache
        self._wanted = lists.sizes
        self._next: dict[str, Iterator[UserList]] = {
            split: lists.of(split) for split in lists.sizes
        }
        self.chosen: dict[str, list[UserList]] = {split: [] for split in lists.sizes}
        self._questions: dict[tuple[str, int], list[Question]] = {}

    def choose(self) -> list[UserList]:
        """The lists still needed, as far as there are users; none once there are enough."""
        fresh: list[UserList] = []
        for split, chosen in self.chosen.items():
            wanted = self._wanted[split]
            usable = sum(self._usable(one) for one in chosen)
            lacking = None if wanted is None else max(0, wanted - usable)
            more = list(islice(self._next[split], lacking))
            chosen.extend(more)
            fresh += more
        return fresh

    def questions(self, lists: Sequence[UserList], *, repeat: int = 0) -> list[Question]:
        """The questions of lists."""
        return [question for one in lists for question in self._of(one, repeat)]

    def entry(self, question: Question) -> Entry | None:
        """What the cache has of a question."""
        return None if self._cache is None else self._cache.find(question.key)

    def open(self, questions: Sequence[Question]) -> list[Question]:
        """Those without grades."""
        found = ((question, self.entry(question)) for question in questions)
        return [question for question, e in found if e is None or e.grades is None]

    def graded(self, one: UserList, *, repeat: int = 0) -> dict[str, int] | None:
        """The grades of a list by item; None unless all of them are there."""
        grades: dict[str, int] = {}
        for question in self._of(one, repeat):
            entry = self.entry(question)
            if entry is None or entry.grades is None:
                return None
            grades |= zip(question.items, entry.grades, strict=True)
        return grades

    def grades(self, *, repeat: int = 0) -> _Grades:
        """The grades of all lists that are whole."""
        return {
            (one.user, item): grade
            for one in self.all_lists()
            for item, grade in (self.graded(one, repeat=repeat) or {}).items()
        }

    def all_lists(self) -> list[UserList]:
        """The chosen lists of all splits."""
        return [one for chosen in self.chosen.values() for one in chosen]

    def ungraded(self) -> list[UserList]:
        """The chosen lists without grades."""
        return [one for one in self.all_lists() if self.graded(one) is None]

    def to_repeat(self, count: int) -> list[UserList]:
        """The lists that are graded twice: so many of those with grades, drawn by seed."""
        known = [one for one in self.all_lists() if self.graded(one) is not None]
        return sorted(known, key=lambda one: rank_for_repeats(self._settings.seed, one.user))[
            :count
        ]

    def reasons(self, lists: Sequence[UserList], *, repeat: int = 0) -> Counter[str]:
        """Why questions of these lists have no grades, by reason."""
        return Counter(
            _why(self.entry(question))
            for question in self.open(self.questions(lists, repeat=repeat))
        )

    def spent(self) -> Tokens:
        """Tokens of every reply to a question of these lists, in all calls."""
        return spent_on(self.replies())

    def replies(self) -> list[Entry]:
        """Every reply to a question of these lists, in all calls."""
        if self._cache is None:
            return []
        known = [question for group in self._questions.values() for question in group]
        return [entry for question in known for entry in self._cache.all_of(question.key)]

    def _of(self, one: UserList, repeat: int) -> list[Question]:
        place = (one.user, repeat)
        if place not in self._questions:
            self._questions[place] = questions_of(one, self.rubric, self._settings, repeat=repeat)
        return self._questions[place]

    def _usable(self, one: UserList) -> bool:
        return any((self.graded(one) or {}).values())


def lists_in_rubric(lists: UserLists, grades: Grades) -> dict[str, list[UserList]]:
    """Per split the lists that a run takes of a rubric file, as far as it names them whole."""
    found: dict[str, list[UserList]] = {}
    for split, wanted in lists.sizes.items():
        whole = (
            one
            for one in lists.of(split)
            if all((one.user, item) in grades for item in one.items)
            and any(grades[one.user, item] for item in one.items)
        )
        found[split] = list(islice(whole, wanted))
    return found


def in_words(reasons: Counter[str]) -> str:
    """Counts by reason, the commonest first."""
    return ", ".join(f"{reason} {count}" for reason, count in reasons.most_common()) or "none"


def _why(entry: Entry | None) -> str:
    if entry is None:
        return "not asked"
    if entry.reason == Reason.NO_ANSWER:
        return f"{entry.reason}: {entry.detail}"
    return str(entry.reason)
