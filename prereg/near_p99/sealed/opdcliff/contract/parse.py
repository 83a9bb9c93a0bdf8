"""The strict JSON contract of a ranking, and why an answer breaks it.

An answer is exactly one JSON object that ranks all K candidates, followed at once by EOS. Nothing
is repaired: an answer is accepted as it stands or gets one failure code, the first that applies.
The strict parse rate of [P] is the share accepted (docs/theory.md, point 11). The wording of the
published contract was not readable, so the codes and their order are this project's own [D].
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jsonschema import Draft202012Validator

from opdcliff.contract.json_text import read_only_value
from opdcliff.contract.verdict import Asked, FailureCode, ParseResult, refused
from opdcliff.errors import DataError

RANKING = "ranking"
REASON = "reason"

# The contract itself nests two deep. A fixed bound, because the interpreter's own recursion limit
# would make the failure code depend on the caller's stack and on the Python version.
MAX_DEPTH = 16


@dataclass(frozen=True)
class RankingContract:
    """One variant of the contract: the object has exactly the keys `keys`, in any order."""

    name: str
    keys: tuple[str, ...]
    ranks: bool = True
    form_key: None = None

    @property
    def codes(self) -> Sequence[str]:
        """All there are, see FailureCode."""
        return tuple(code.value for code in FailureCode)

    @property
    def has_text(self) -> bool:
        """Whether there is a reason, whose text goes on."""
        return REASON in self.keys

    def schema(self, candidates: Sequence[str]) -> dict[str, Any]:
        """JSON Schema (draft 2020-12) of an accepted value for these K candidate ids."""
        schema = _shape_schema(self.keys)
        schema["properties"][RANKING] = {
            "type": "array",
            "items": {"enum": list(candidates)},
            "minItems": len(candidates),
            "maxItems": len(candidates),
            "uniqueItems": True,
        }
        return schema

    def read_form(self, value: object) -> str:
        """Refuse a form: the candidates say all there is to say."""
        raise DataError("the ranking contracts are made of the candidates alone; leave it out")

    def judge(self, text: str, asked: Asked, *, ended: bool) -> ParseResult:
        """`parse` with the candidates of a prompt."""
        return self.parse(text, asked.candidates, ended=ended)

    def parse(self, text: str, candidates: Sequence[str], *, ended: bool) -> ParseResult:
        """Accept or refuse one answer; see FailureCode for the rules.

        text: the decoded answer without its EOS. candidates: the K distinct ids of the prompt.
        ended: whether generation emitted EOS. Never raises for any text; time is linear in it.
        """
        if not ended:
            return refused(FailureCode.TRUNCATED)
        # No ranking holds a number, so none is converted.
        read = read_only_value(text, max_depth=MAX_DEPTH, numbers=False)
        if isinstance(read, FailureCode):
            return refused(read)
        if read.oddities:
            return refused(FailureCode.SCHEMA)
        error = next(_shape_validator(self.keys).iter_errors(read.value), None)
        if error is not None:
            return refused(FailureCode.TYPE if error.absolute_path else FailureCode.SCHEMA)
        ranking = tuple(read.value[RANKING])
        failure = _ranking_failure(ranking, candidates)
        return ParseResult(True, ranking, None) if failure is None else refused(failure)


RANKING_WITH_REASON = RankingContract("ranking_with_reason", (RANKING, REASON))
RANKING_ONLY = RankingContract("ranking_only", (RANKING,))


def _shape_schema(keys: tuple[str, ...]) -> dict[str, Any]:
    """The part of the schema that holds for any candidates: the keys and the types of values."""
    types: dict[str, dict[str, Any]] = {
        RANKING: {"type": "array", "items": {"type": "string"}},
        REASON: {"type": "string"},
    }
    # Errors arrive in the order of these entries: those of the object before those of its values.
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "required": list(keys),
        "additionalProperties": False,
        "properties": {key: types[key] for key in keys},
    }


@functools.cache
def _shape_validator(keys: tuple[str, ...]) -> Draft202012Validator:
    return Draft202012Validator(_shape_schema(keys))


def _ranking_failure(ranking: tuple[str, ...], candidates: Sequence[str]) -> FailureCode | None:
    if len(ranking) > len(candidates):
        return FailureCode.COUNT
    if len(set(ranking)) < len(ranking):
        return FailureCode.DUPLICATE
    if not set(ranking) <= set(candidates):
        return FailureCode.UNKNOWN_ID
    if len(ranking) < len(candidates):
        return FailureCode.MISSING
    return None
