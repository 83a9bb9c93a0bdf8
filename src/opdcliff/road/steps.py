"""The steps of the road, each one command, and how one stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

DONE, TO_DO, BEGUN, LEFT_OUT, WAITS = "done", "to do", "begun", "left out", "waits"


@dataclass(frozen=True)
class Step:
    """One command of the road.

    verb: its words before the settings. leaves: what it makes. lock_alone: it takes protocol=NAME
    of the lock and no settings.
    """

    name: str
    verb: str
    leaves: str
    lock_alone: bool = False


STEPS = (
    Step("lists", "prepare what=lists", "lists of candidates from the raw rows"),
    Step("grades", "grade", "a judge's grade of every candidate"),
    Step("models", "prepare what=models", "teacher and warm start"),
    Step("calibration", "calibrate", "p, b and lambda*"),
    Step("prediction", "predict", "a pilot, and where the onset will lie"),
    Step("lock", "lock", "windows, sealed before the runs"),
    Step("runs", "confirm", "the locked cells"),
    Step("verdicts", "verify", "whether the predictions held", lock_alone=True),
    Step("report", "report", "all of it as one page", lock_alone=True),
)
NAMES = tuple(step.name for step in STEPS)


@dataclass(frozen=True)
class Standing:
    """How a step stands: one of the five states, and details in words."""

    step: Step
    state: str
    detail: str = ""

    @property
    def passed(self) -> bool:
        """Whether the step after it may begin."""
        return self.state in (DONE, LEFT_OUT)


@dataclass(frozen=True)
class Road:
    """All steps of a protocol. words: the settings that its commands are given."""

    protocol: str
    words: Sequence[str]
    standings: Sequence[Standing]

    @property
    def next(self) -> Standing | None:
        """The first step that is not passed; None at the end of the road."""
        return next((each for each in self.standings if not each.passed), None)

    def before(self, name: str) -> Standing | None:
        """The first step before `name` that is not passed."""
        ahead = self.standings[: NAMES.index(name)]
        return next((each for each in ahead if not each.passed), None)

    @property
    def upcoming(self) -> str:
        """What to do next, in a line."""
        first = self.next
        if first is None:
            return "all steps are done"
        # A lock that is there is not made again: it is to be committed, or restored.
        by_hand = first.step.name == "lock" and first.state == BEGUN
        return f"next: {first.detail if by_hand else self.command(first.step)}"

    def command(self, step: Step) -> str:
        """The command line of a step."""
        words = [f"protocol={self.protocol}"] if step.lock_alone else self.words
        return " ".join(["opdcliff", step.verb, *words])
