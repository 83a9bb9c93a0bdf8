"""Where tests call `grade`: a working folder, its words, and what the command said."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fake_judge import KEY, KEY_VARIABLE, FakeJudge

# What a small world has lists for.
SIZES = ["data.train=8", "data.calibration=4", "data.test=4", "data.candidates=4"]
ALL = 16
# A proxy of this machine is none of the judge's.
PROXIES = ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str

    @property
    def last(self) -> str:
        """The line of the error."""
        line = self.err.splitlines()[-1]
        assert line.startswith("opdcliff: ")
        return line


@dataclass(frozen=True)
class Desk:
    """Where `grade` is called. folder: the working folder."""

    folder: Path
    words: list[str]
    call: Callable[..., Said]

    def grade(self, judge: FakeJudge, *words: str, **settings: object) -> Said:
        return self.call("grade", *self.words, *judge.words(**settings), *words)

    def rubric(self) -> Path:
        (found,) = self.folder.glob("runs/assets/rubric-*/rubric.jsonl")
        return found

    def written(self) -> list[Path]:
        """Every file that is there."""
        return [path for path in self.folder.rglob("*") if path.is_file()]

    def in_a_process(
        self, judge: FakeJudge, **settings: object
    ) -> tuple[list[str], dict[str, str]]:
        """Command and environment of the same call in a process of its own."""
        program = [sys.executable, "-m", "opdcliff", "grade"]
        left_out = ("OPDCLIFF_RUNS", *PROXIES)
        environment = {name: v for name, v in os.environ.items() if name not in left_out}
        return [*program, *self.words, *judge.words(**settings)], environment | {KEY_VARIABLE: KEY}
