"""Ranking quality of answers: NDCG of one list and its aggregates over a prompt set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from opdcliff.errors import ConfigError, DataError

Gain = Literal["exp", "linear"]
# Powers of two above this one, and sums of some, would overflow.
_LARGE = 1000


def ranked_grades(
    ranking: Sequence[str], candidates: Sequence[str], grades: Sequence[int]
) -> tuple[int, ...]:
    """Grades in the order of `ranking`, a permutation of `candidates` (aligned with `grades`)."""
    grade_of = dict(zip(candidates, grades, strict=True))
    return tuple(grade_of[candidate] for candidate in ranking)


def ndcg_at_k(ranking_grades: Sequence[int], k: int, gain: Gain = "exp") -> float:
    """NDCG@k of one full list, in [0, 1].

    DCG@k = sum_{i=1..min(k, K)} g(rel_i) / log2(i + 1), NDCG@k = DCG@k / DCG@k of sorted grades,
    g(rel) = 2^rel - 1 (`exp`) or rel (`linear`).

    ranking_grades: the K relevance grades, integers >= 0, in the order the answer ranks them.
    A list of zeros has no wrong order, so it scores 1.0 (scikit-learn says 0.0); no list is left
    out, and every prompt set keeps its size. ConfigError for k < 1 or an unknown gain, DataError
    for a negative grade. Source: docs/theory.md, point 11 (the metric); the gain is a choice [D].
    """
    if k < 1:
        raise ConfigError(f"k={k}: NDCG needs a cut-off of at least 1; use k=1 for NDCG@1")
    if gain not in ("exp", "linear"):
        raise ConfigError(f"gain={gain}: unknown; choose exp or linear")
    if min(ranking_grades, default=0) < 0:
        raise DataError(f"grade {min(ranking_grades)}: grades must be >= 0; shift them before")
    gains = _gains(ranking_grades, gain)
    ideal = _dcg(sorted(gains, reverse=True)[:k])
    return _dcg(gains[:k]) / ideal if ideal > 0 else 1.0


def ranking_metrics(
    answers: Sequence[Sequence[int] | None], ks: Sequence[int] = (1,), gain: Gain = "exp"
) -> dict[str, float]:
    """Mean NDCG@k over answers, for every k: `ndcg{k}_parsed` and `ndcg{k}_all`.

    answers: one entry per prompt, `ranked_grades(...)` of an answer that parsed, else None.
    `parsed` averages over the answers that parsed and is NaN when none did; `all` counts every
    other answer as 0. DataError for an empty set.
    """
    if not answers:
        raise DataError("answers=[]: a mean NDCG needs at least one answer; check the prompt set")
    metrics = {}
    for k in ks:
        scores = [ndcg_at_k(grades, k, gain) for grades in answers if grades is not None]
        total = math.fsum(scores)
        metrics[f"ndcg{k}_parsed"] = total / len(scores) if scores else math.nan
        metrics[f"ndcg{k}_all"] = total / len(answers)
    return metrics


def _gains(grades: Sequence[int], gain: Gain) -> list[float]:
    """Gains, all divided by the same where the largest is no number of double precision."""
    top = max(grades, default=0)
    if gain == "linear":
        return [grade / top if top >= 2**_LARGE else float(grade) for grade in grades]
    shift = max(0, top - _LARGE)
    return [math.ldexp(1.0, grade - shift) - math.ldexp(1.0, -shift) for grade in grades]


def _dcg(gains: Sequence[float]) -> float:
    return math.fsum(gain / math.log2(place + 1) for place, gain in enumerate(gains, start=1))
