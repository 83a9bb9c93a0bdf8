"""`opdcliff grade`: from the lists of users to a rubric file, and what is known of its grades."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from opdcliff.data import SplitPlan, UserList, UserLists, load_user_lists, read_grades
from opdcliff.errors import (
    ConfigError,
    LimitReachedError,
    OpdcliffError,
    PreemptedError,
    StudyIncompleteError,
)
from opdcliff.grading.agreement import Grades
from opdcliff.grading.asking import Halt, ask_all
from opdcliff.grading.cache import AnswerCache, open_cache
from opdcliff.grading.client import key_of
from opdcliff.grading.cost import Budget, Prices, estimate
from opdcliff.grading.questions import Question
from opdcliff.grading.rounds import Rounds, in_words, lists_in_rubric
from opdcliff.grading.rubric import read_rubric
from opdcliff.grading.rubric_file import manifest_of, refuse_foreign, write_rubric
from opdcliff.paths import StudyPaths
from opdcliff.processes import deferred
from opdcliff.settings import RunConfig
from opdcliff.storage import digest
from opdcliff.terminal import Stage

_OF_USERS = ("amazon_fashion", "amazon_titles")
Say = Callable[[str], None]


@dataclass(frozen=True)
class Grading:
    """What is known after a call.

    file: the rubric file. lists: those it grades, or would. grades: theirs. again: of the lists
    that were graded twice, the second time. questions: of the first round, of a dry run.
    """

    file: Path
    lists: list[UserList]
    grades: Grades
    again: Grades = field(default_factory=dict)
    questions: Sequence[Question] = ()


def grade_lists(config: RunConfig, paths: StudyPaths, say: Say, *, dry_run: bool) -> Grading:
    """Grade the lists of `config` by its judge, and write the rubric file once all are graded.

    dry_run: say what it would cost, and ask nothing.

    Raises:
        ConfigError: a setting is missing, or the endpoint refuses one.
        DataError: data that cannot be used, or a file in the way.
        LimitReachedError: the next request could pass `grade.limit`. PreemptedError: SIGTERM.
        StudyIncompleteError: lists are left without grades. What was graded is kept in each case.
    """
    settings = config.grade
    for name in ("base_url", "model"):
        if getattr(settings, name) is None:
            raise ConfigError(f"grade.{name} is missing; set it, see `opdcliff grade --help`")
    key = None if dry_run else key_of(settings)
    rubric = read_rubric(None if settings.rubric is None else Path(settings.rubric).expanduser())
    if settings.other is not None:
        # It is needed at the end, when all is paid for.
        read_grades(Path(settings.other).expanduser())
    lists = user_lists(config)
    judge = {"base_url": settings.base_url, "model": settings.model}
    folder = paths.assets_dir("judge", digest(judge, "grade-judge"))
    if dry_run:
        return _planned(config, paths, lists, rubric, say)
    with open_cache(folder) as cache, deferred():
        if cache.damaged:
            say(f"{cache.damaged} damaged lines of {folder} are left out: they are asked anew")
        return _Run(config, paths, Rounds(lists, rubric, settings, cache), cache, key, say).all()


def graded_before(config: RunConfig) -> Grading:
    """The grades of the file `data.rubric`, whoever made it, for the lists of `config`.

    Raises:
        ConfigError: `data.rubric` is missing. DataError: a file cannot be used.
    """
    if config.data.rubric is None:
        raise ConfigError("data.rubric is missing; source=table needs it, data.rubric=FILE")
    file = Path(config.data.rubric).expanduser()
    grades = read_grades(file)
    found = lists_in_rubric(user_lists(config), grades)
    return Grading(file, [one for lists in found.values() for one in lists], grades)


def user_lists(config: RunConfig) -> UserLists:
    """The lists of users of the data of `config`.

    Raises:
        ConfigError: other data. DataError: files that cannot be used.
    """
    data = config.data
    if data.name not in _OF_USERS:
        raise ConfigError(
            f"data={data.name} has no lists of users; a judge grades {' and '.join(_OF_USERS)}"
        )
    folder = Path(data.path or "").expanduser()
    files = folder.iterdir() if folder.is_dir() else ()
    total = sum(path.stat().st_size for path in files if path.is_file())
    with Stage("reading reviews and items (bytes)", total) as stage:
        return load_user_lists(
            folder,
            candidates=data.candidates,
            seed=data.seed,
            sizes=SplitPlan.of_sizes(data.train, data.calibration, data.test),
            min_items=data.min_items,
            max_history=data.max_history,
            max_title_words=data.max_title_words,
            shown_history=config.grade.history,
            shown_words=config.grade.title_words,
            progress=lambda done, _: stage.update("bytes", done),
        )


def _planned(
    config: RunConfig, paths: StudyPaths, lists: UserLists, rubric: str, say: Say
) -> Grading:
    rounds = Rounds(lists, rubric, config.grade, None)
    first = rounds.choose()
    questions = rounds.questions(first)
    say(_estimated(first, questions, config))
    return Grading(_out(config, paths, questions), first, {}, questions=questions)


class _Run:
    """One call that asks."""

    def __init__(
        self,
        config: RunConfig,
        paths: StudyPaths,
        rounds: Rounds,
        cache: AnswerCache,
        key: str | None,
        say: Say,
    ) -> None:
        self._config, self._settings = config, config.grade
        self._rounds, self._cache, self._key, self._say = rounds, cache, key, say
        self._prices = Prices(self._settings.price_in, self._settings.price_out)
        self._first = rounds.choose()
        questions = rounds.questions(self._first)
        self._identity = _identity(questions)
        self._file = _out(config, paths, questions)
        refuse_foreign(self._file, self._identity)
        open_ones = rounds.open(questions)
        if open_ones:
            say(_estimated(self._first, open_ones, config))

    def all(self) -> Grading:
        fresh = self._first
        while fresh:
            self._ask(fresh)
            self._refuse_gaps()
            fresh = self._rounds.choose()
        grades = self._rounds.grades()
        self._write(grades, {})
        twice = self._rounds.to_repeat(self._settings.repeats)
        self._ask(twice, repeat=1)
        again = self._rounds.grades(repeat=1) if twice else {}
        self._write(grades, again)
        self._say_shortage()
        return Grading(self._file, self._rounds.all_lists(), grades, again)

    def _ask(self, lists: Sequence[UserList], *, repeat: int = 0) -> None:
        questions = self._rounds.open(self._rounds.questions(lists, repeat=repeat))
        if not questions:
            return
        budget = Budget(self._prices, self._settings.limit, self._rounds.spent())
        title = "grading again (requests)" if repeat else "grading lists (requests)"
        with Stage(title, len(questions)) as stage:

            def done(count: int) -> None:
                stage.note(self._prices.words(budget.spent))
                stage.update("requests", count)

            halt = ask_all(questions, self._settings, self._key, self._cache, budget, done)
        if halt is not None:
            raise self._halted(halt, lists, repeat)

    def _halted(self, halt: Halt, lists: Sequence[UserList], repeat: int) -> OpdcliffError:
        done = sum(self._rounds.graded(one, repeat=repeat) is not None for one in lists)
        kept = f"{done} of {len(lists)} lists are graded{' again' * repeat} and kept"
        spent = self._prices.words(self._rounds.spent())
        if halt is Halt.LIMIT:
            return LimitReachedError(
                f"grade.limit={self._settings.limit}: the next request could pass it ({spent}); "
                f"{kept}; raise grade.limit and run the command again to go on"
            )
        if halt is Halt.ASKED_TO_STOP:
            return PreemptedError(
                f"asked to stop (SIGTERM); {kept} ({spent}); run the command again to go on"
            )
        reasons = in_words(self._rounds.reasons(lists, repeat=repeat))
        if (
            any(f"status {n}" in reasons for n in (400, 422))
            and self._settings.answer_format != "text"
        ):
            kept += "; if it knows no JSON schema, set grade.answer_format=text"
        return StudyIncompleteError(
            f"grade.base_url={self._settings.base_url} does not answer (requests without grades: "
            f"{reasons}); {kept}; look at the endpoint and run the command again to go on"
        )

    def _refuse_gaps(self) -> None:
        gaps, all_lists = self._rounds.ungraded(), self._rounds.all_lists()
        if len(gaps) <= self._settings.ungraded * len(all_lists):
            return
        share = len(gaps) / len(all_lists)
        raise StudyIncompleteError(
            f"{len(gaps)} of {len(all_lists)} lists have no grades (requests: "
            f"{in_words(self._rounds.reasons(gaps))}), and no rubric was written; run the command "
            "again to ask again, or leave such lists out with "
            f"grade.ungraded={min(0.99, share + 0.005):.2f}"
        )

    def _write(self, grades: Grades, again: Grades) -> None:
        manifest = manifest_of(self._config, self._rounds, grades, again)
        lists = self._rounds.all_lists()
        write_rubric(self._file, lists, grades, {**manifest, "identity": self._identity})

    def _say_shortage(self) -> None:
        for split, chosen in self._rounds.chosen.items():
            usable = sum(any((self._rounds.graded(one) or {}).values()) for one in chosen)
            wanted = getattr(self._config.data, split)
            if usable < wanted:
                self._say(
                    f"data.{split}={wanted}: only {usable} lists have a grade above 0, and there "
                    f"are no more users; a run on this rubric needs data.{split}={usable} or less"
                )


def _identity(questions: Sequence[Question]) -> str:
    return digest([question.key for question in questions], "grade-rubric-file")


def _out(config: RunConfig, paths: StudyPaths, questions: Sequence[Question]) -> Path:
    if config.grade.out is not None:
        return Path(config.grade.out).expanduser().absolute()
    return paths.assets_dir("rubric", _identity(questions)) / "rubric.jsonl"


def _estimated(lists: Sequence[UserList], questions: Sequence[Question], config: RunConfig) -> str:
    guess, settings = estimate(questions), config.grade
    prices = Prices(settings.price_in, settings.price_out)
    limit = "" if settings.limit is None else f", limit {settings.limit:g}"
    return (
        f"{len(lists)} lists; about {guess.sent:,} tokens to send in {len(questions)} requests and "
        f"{guess.answered:,} in answers: {prices.words(guess)}{limit} (a guess, without thoughts "
        "of the judge, lists graded again, and those that replace lists of zeros)"
    )
