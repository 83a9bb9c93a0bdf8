"""What an answer is worth: judged strictly, ranked, counted; the metrics `eval/...`.

A lock keeps the digest of this file: the meaning of a locked metric is this code.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from opdcliff.contract import (
    Contract,
    FailureCode,
    Gain,
    ParseResult,
    ranked_grades,
    ranking_metrics,
)
from opdcliff.data import Example
from opdcliff.models import Codec
from opdcliff.rollout import Rollout


@dataclass(frozen=True)
class Judged:
    """One answer: its verdict, grades in ranked order if it parsed, and its length in tokens."""

    verdict: ParseResult
    grades: tuple[int, ...] | None
    length: int


def judge(
    rollout: Rollout, examples: Sequence[Example], contract: Contract, codec: Codec
) -> list[Judged]:
    """Judge every answer strictly."""
    judged = []
    for example, ids, ended in zip(
        examples, rollout.answers(), rollout.ended_B.tolist(), strict=True
    ):
        text = codec.answer_text(ids[:-1] if ended else ids)
        verdict = contract.judge(text, example, ended=ended)
        grades = (
            None
            if verdict.ranking is None
            else ranked_grades(verdict.ranking, example.candidates, example.grades)
        )
        judged.append(Judged(verdict, grades, len(ids)))
    return judged


def answer_metrics(
    judged: Sequence[Judged], ndcg_k: int, gain: Gain, contract: Contract
) -> dict[str, float]:
    """Metrics `eval/...` of judged answers: rates over all answers, lengths in tokens.

    NDCG is there for contracts that rank. Failure codes that a contract does not list are there
    where an answer has them.
    """
    failures = Counter(j.verdict.failure for j in judged)
    count = len(judged)
    metrics = {
        "eval/prompts": float(count),
        "eval/parse_rate": sum(j.verdict.ok for j in judged) / count,
        "eval/truncated_rate": failures[FailureCode.TRUNCATED] / count,
        "eval/mean_length": float(np.mean([j.length for j in judged])),
    }
    if contract.ranks:
        ndcg = ranking_metrics([j.grades for j in judged], ks=(ndcg_k,), gain=gain)
        metrics |= {f"eval/{name}": value for name, value in ndcg.items()}
    others = sorted(code for code in failures if code is not None and code not in contract.codes)
    return metrics | {
        f"eval/fail/{code}": failures[code] / count for code in (*contract.codes, *others)
    }
