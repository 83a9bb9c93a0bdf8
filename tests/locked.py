"""A made-up lock and its cells, for the tests of verdicts and of the verifier."""

from __future__ import annotations

from typing import Any

from opdcliff.prereg import LockedTest
from opdcliff.verdicts import CellValue

LAMS = [1.70, 1.75, 1.80, 1.85, 1.90]
SEEDS = [11, 12, 13, 14, 15, 16]


def onset_test(**changes: Any) -> LockedTest:
    """A test of the onset on the grid `LAMS`: window [1.74, 1.84]."""
    plain: dict[str, Any] = {
        "id": "T1",
        "claim": "the student stops parsing at lambda*",
        "source": "here [D]",
        "hypothesis": "the onset lies in the window",
        "metric": {"name": "eval/parse_rate", "version": 1},
        "design": {
            "arm": "fine_grid",
            "clip": "c5",
            "strength": 5.0,
            "lams": LAMS,
            "updates": 200,
            "warmup_updates": 100,
            "seeds": len(SEEDS),
        },
        "estimator": {"kind": "onset", "level": 0.5, "confidence": 0.95},
        "window": {"lo": 1.74, "hi": 1.84, "derivation": "made up"},
        "refutes": "wholly outside",
        "minimum_seeds": 6,
        "exclusions": "none",
        "stopping": "all once",
        "correction": "holm",
        "provenance": {"window": "[D]"},
    }
    return LockedTest.model_validate(plain | changes)


def contrast_test(**changes: Any) -> LockedTest:
    """Fine grid at 1.70 less the warm start: parse rate, at least 0.3 more."""
    plain = onset_test().model_dump() | {
        "id": "lift",
        "estimator": {
            "kind": "contrast",
            "of": {"arm": "fine_grid", "lam": 1.70},
            "minus": {"arm": "warm_start", "lam": None},
            "confidence": 0.9,
            "least_parse_rate": 0.0,
        },
        "window": {"lo": 0.3, "hi": None, "derivation": "made up"},
        "correction": "none",
    }
    return LockedTest.model_validate(plain | changes)


def value(parse_rate: float, status: str = "finished", **metrics: float) -> CellValue:
    """A cell that ended with that parse rate."""
    return CellValue(status, {"eval/parse_rate": parse_rate, **metrics})


def cliff_cells(falls_after: list[float]) -> dict[tuple[str, float, int], CellValue]:
    """For each seed 95% up to and with its lambda of `falls_after`, and 5% above it."""
    return {
        ("fine_grid", lam, seed): value(0.95 if lam <= last else 0.05)
        for seed, last in zip(SEEDS, falls_after, strict=True)
        for lam in LAMS
    }
