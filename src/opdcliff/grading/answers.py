"""What a judge answered: grades of all candidates asked about, or the one reason why not.

Nothing is repaired, guessed or filled in: an answer with one wrong grade grades nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from jsonschema import Draft202012Validator

from opdcliff.grading.questions import Question

# Far above any answer to 26 candidates; keeps the time to refuse a runaway small.
_MOST_CHARS = 100_000


class Reason(StrEnum):
    """Why a request graded nothing."""

    REFUSAL = "refusal"
    TRUNCATED = "truncated"
    MALFORMED = "malformed"
    MISSING = "missing candidate"
    UNKNOWN = "unknown candidate"
    REPEATED = "candidate graded twice"
    OUT_OF_RANGE = "out of range"
    NO_ANSWER = "no answer"


@dataclass(frozen=True)
class Reply:
    """What came back for one request.

    text: the answer, None where there is none. finish, refusal: as the endpoint says.
    tokens_in, tokens_out: as the endpoint counts them, None where it does not.
    lost: attempts that may have been answered, and billed, without our having got it.
    problem: why there is no answer, after all retries; None where there is one.
    """

    text: str | None = None
    finish: str | None = None
    refusal: str | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    lost: int = 0
    problem: str | None = None


@dataclass(frozen=True)
class Graded:
    """The grades of a request in the order of its items, or why there are none."""

    grades: tuple[int, ...] | None
    reason: Reason | None
    detail: str = ""


def read_answer(question: Question, reply: Reply) -> Graded:
    """Judge a reply strictly by the schema of its question."""
    if reply.problem is not None:
        return Graded(None, Reason.NO_ANSWER, reply.problem)
    if reply.refusal or reply.finish == "content_filter":
        return Graded(None, Reason.REFUSAL)
    if reply.finish == "length":
        return Graded(None, Reason.TRUNCATED)
    text = reply.text or ""
    if len(text) > _MOST_CHARS:
        return Graded(None, Reason.MALFORMED, "too long")
    repeated: list[str] = []

    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        built = dict(pairs)
        if len(built) < len(pairs):
            repeated.append("")
        return built

    try:
        value = json.loads(text, object_pairs_hook=build)
    except (ValueError, RecursionError):
        return Graded(None, Reason.MALFORMED, "not JSON" if text.strip() else "empty")
    if repeated:
        return Graded(None, Reason.REPEATED)
    reason = _schema_reason(value, question.schema)
    if reason is not None:
        return Graded(None, reason)
    grades = [value[label] for label in question.labels]
    # To JSON Schema 3.0 is an integer too.
    if not all(type(grade) is int for grade in grades):
        return Graded(None, Reason.OUT_OF_RANGE)
    return Graded(tuple(grades), None)


def _schema_reason(value: Any, schema: dict[str, Any]) -> Reason | None:
    failed = {str(error.validator) for error in Draft202012Validator(schema).iter_errors(value)}
    if not failed:
        return None
    if not isinstance(value, dict):
        return Reason.MALFORMED
    for keyword, reason in (
        ("required", Reason.MISSING),
        ("additionalProperties", Reason.UNKNOWN),
    ):
        if keyword in failed:
            return reason
    return Reason.OUT_OF_RANGE
