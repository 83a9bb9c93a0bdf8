"""Verdicts of a sealed copy as today's values, where today's code would give others, and what a
lock has to run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from types import ModuleType
from typing import Any

from opdcliff.verification.lock import Lock
from opdcliff.verification.locked_test import LockedTest
from opdcliff.verification.verdicts import Cells, Outcome, Verdict, needed


def sealed_verdicts(
    copy: ModuleType, tests: Sequence[LockedTest], cells: Cells, seeds: Sequence[int]
) -> list[Verdict]:
    """What the executed copy says about the tests, in their order.

    copy: has `judge`, `corrected` and `CellValue` as `verdicts` has them.
    """
    theirs = {key: copy.CellValue(cell.status, cell.metrics) for key, cell in cells.items()}
    found = copy.corrected(tests, [copy.judge(test, theirs, seeds) for test in tests])
    return [_as_today(verdict) for verdict in found]


def wanted(tests: Sequence[LockedTest], lock: Lock, done: Cells) -> list[tuple[str, float, int]]:
    """Cells of a lock that have to run, in its order, as far as those that are done tell.

    All of an arm, unless a test bisects it; then what its tests ask for.
    """
    bisected = {
        test.design.arm
        for test in tests
        if test.estimator.kind == "onset" and test.estimator.by == "brackets"
    }
    asked = {key for test in tests for key in needed(test, done, lock.seeds)}
    return [k for k in lock.cells().values() if k[0] not in bisected or k in asked]


def told_apart(sealed: Sequence[Verdict], today: Sequence[Verdict]) -> list[str]:
    """A line on each verdict that today's code would give otherwise."""
    lines = []
    for theirs, ours in zip(sealed, today, strict=True):
        different = [
            field.name
            for field in fields(Verdict)
            if not _alike(getattr(theirs, field.name), getattr(ours, field.name))
        ]
        if different:
            lines.append(
                f"{theirs.id}: today's code would say {ours.outcome.value}, the sealed code says "
                f"{theirs.outcome.value}; different: {', '.join(different)}"
            )
    return lines


def _as_today(verdict: Any) -> Verdict:
    known = {f.name: getattr(verdict, f.name) for f in fields(Verdict) if hasattr(verdict, f.name)}
    return Verdict(**known | {"outcome": Outcome(str(verdict.outcome))})


def _alike(one: Any, other: Any) -> bool:
    """Equal, floats to nine digits; NaN is like NaN."""
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_alike, one, other))
    if isinstance(one, float) and isinstance(other, float):
        near = math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)
        return near or (math.isnan(one) and math.isnan(other))
    return bool(one == other)
