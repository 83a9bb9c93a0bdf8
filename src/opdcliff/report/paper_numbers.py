"""What a row of "paper beside ours" is, and how it reads our number from committed results."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from opdcliff.report.drawing.inputs import PROTOCOL, Inputs, LockedStudy, MissingInputError
from opdcliff.theory import lambda_star
from opdcliff.verification import number, span

UNKNOWN = "unknown"
# Settings: the same formula, runs near p = 1 like the paper's, or runs of another kind.
SAME, SAME_REGIME, DIFFERENT = "same formula", "same regime", "different"


@dataclass(frozen=True)
class Row:
    """One published quantity and ours. ours: reads its text from the committed results."""

    what: str
    paper: str
    ours: Callable[[OurNumbers], str]
    files: str
    setting: str
    why: str


@dataclass(frozen=True)
class OurNumbers:
    """What the rows ask of the committed results, as text. Methods raise MissingInputError."""

    inputs: Inputs

    @property
    def locked(self) -> LockedStudy:
        """The study of the lock in prereg/mini."""
        return self.inputs.locked()

    def verdict(self, test: str) -> dict[str, Any]:
        """One entry of results/locked/mini/verdicts.json."""
        found: dict[str, Any] = self.locked.verdicts["tests"][test]
        return found

    def star(self, strength: float) -> float:
        """lambda* of the class that binds, as calibrated before the lock."""
        return lambda_star(*self.locked.binding, strength)

    def onset(self, test: str, strength: float, protocol: str = PROTOCOL) -> str:
        """A locked onset with its interval, and both in percent of lambda*."""
        study = self.inputs.locked(protocol)
        found, design = study.verdicts["tests"][test], study.tests[test].design
        star = lambda_star(*study.binding, strength)
        low, high = (off(bound, star) for bound in found["interval"])
        return (
            f"{number(found['mean'])} {span(*found['interval'])}, {len(found['points'])} seeds, "
            f"{design.updates} updates, warm-up {design.warmup_updates}: "
            f"{off(found['mean'], star)} [{low}, {high}] of lambda* = {number(star)} [M]"
        )

    def onset_and_outcomes(self, test: str, strength: float, protocol: str) -> str:
        """A locked onset, p, and what came of its window and of the closed form to the letter."""
        study = self.inputs.locked(protocol)
        said = [
            f"{name} {study.verdicts['tests'][name]['outcome']}" for name in (test, f"{test}_exact")
        ]
        p, _ = study.binding
        return f"p = {number(p)}: {self.onset(test, strength, protocol)}; {', '.join(said)}"

    def contrast(self, test: str) -> str:
        """A locked difference with its interval."""
        found = self.verdict(test)
        return f"{number(found['mean'])} {span(*found['interval'])} [M]"

    def mean(self, arm: str, metric: str, lam: float | None = None) -> str:
        """Mean and range over the seeds of an arm, at one lambda."""
        runs = self.locked.arm(arm)
        values = runs[metric] if lam is None else runs[metric][runs.lam == lam]
        return f"{100 * values.mean():.1f}% ({100 * values.min():.1f} to {100 * values.max():.1f})"

    def safe_lam(self) -> float:
        """The lambda below the cliff at which lift, flatness and parity are measured."""
        test = self.locked.tests["lift"].estimator
        lam = test.of.lam if test.kind == "contrast" else None
        if lam is None:
            raise MissingInputError("prereg/mini/lift.yaml names no lambda; restore it from git")
        return lam

    def studied(self, data: str, protocol: str, command: str) -> pd.DataFrame:
        """onsets.csv of an exploratory study."""
        return self.inputs.study(data, protocol, command).table("onsets")

    def cells(self, data: str, protocol: str, command: str) -> pd.DataFrame:
        """cells.csv of an exploratory study, or of a grid where `data` is empty."""
        inputs = self.inputs
        study = inputs.study(data, protocol, command) if data else inputs.grid(protocol, command)
        return study.table("cells")


def off(value: float, star: float) -> str:
    """How far a lambda lies from lambda*, in percent of it."""
    return f"{100 * (value / star - 1):+.1f}%"


def onset_of(row: dict[Hashable, Any]) -> str:
    """The mean onset of an arm and how far off it is; without one, where all seeds still parse."""
    if math.isnan(row["onset"]):
        return f"above {number(row['bracket_lo'])} in every seed, in one or more beyond the grid;"
    return f"{number(row['onset'])}, {off(row['onset'], row['lambda_star'])} of"
