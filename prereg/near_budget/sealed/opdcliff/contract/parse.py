"""The strict JSON contract of an answer, and why an answer breaks it.

An answer is exactly one JSON object that ranks all K candidates, followed at once by EOS. Nothing
is repaired: an answer is accepted as it stands or gets one failure code, the first that applies.
The strict parse rate of [P] is the share accepted (docs/theory.md, point 11). The wording of the
published contract was not readable, so the codes and their order are this project's own [D].
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from jsonschema import Draft202012Validator

from opdcliff.errors import ConfigError

RANKING = "ranking"
REASON = "reason"

JSON_WHITESPACE = " \t\n\r"

# Far above any answer that fits a token budget; it keeps the time to refuse a runaway small.
MAX_CHARS = 100_000

# The contract itself nests two deep. A fixed bound, because the interpreter's own recursion limit
# would make the failure code depend on the caller's stack and on the Python version.
MAX_DEPTH = 16

# The string branch is possessive and may end without its quote, so the scan stays linear.
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]', re.DOTALL)
_SURROGATE = re.compile("[\ud800-\udfff]")


class FailureCode(StrEnum):
    """Why an answer is refused. Members are in order of precedence: the first that holds is given.

    truncated   generation ended without EOS, whatever the text looks like.
    not_json    no complete JSON value starts at the first non-blank character, nor at the first
                `{`. Also text that is not read: longer than MAX_CHARS, nested deeper than
                MAX_DEPTH, or holding a raw surrogate (UTF-8 cannot encode it).
    extra_text  such a value is there, with anything before or after it, whitespace included.
    schema      the value is not an object with exactly the contract's keys, or anywhere in it a
                key is repeated or NaN, Infinity or -Infinity stands for a value.
    type        `ranking` is not a list of strings, or `reason` is not a string.
    count       more than K entries.
    duplicate   an entry occurs twice.
    unknown_id  an entry is no candidate id.
    missing     all entries are distinct candidate ids, but fewer than K.
    """

    TRUNCATED = "truncated"
    NOT_JSON = "not_json"
    EXTRA_TEXT = "extra_text"
    SCHEMA = "schema"
    TYPE = "type"
    COUNT = "count"
    DUPLICATE = "duplicate"
    UNKNOWN_ID = "unknown_id"
    MISSING = "missing"


@dataclass(frozen=True)
class ParseResult:
    """Outcome of one parse: `ranking` (K ids, best first) if ok, else `failure`; never both."""

    ok: bool
    ranking: tuple[str, ...] | None
    failure: FailureCode | None


@dataclass(frozen=True)
class Contract:
    """One variant of the contract: the object has exactly the keys `keys`, in any order."""

    name: str
    keys: tuple[str, ...]

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

    def parse(self, text: str, candidates: Sequence[str], *, ended: bool) -> ParseResult:
        """Accept or refuse one answer; see FailureCode for the rules.

        text: the decoded answer without its EOS. candidates: the K distinct ids of the prompt.
        ended: whether generation emitted EOS. Never raises for any text; time is linear in it.
        """
        if not ended:
            return _refuse(FailureCode.TRUNCATED)
        value = _read_only_value(text)
        if isinstance(value, FailureCode):
            return _refuse(value)
        error = next(_shape_validator(self.keys).iter_errors(value), None)
        if error is not None:
            return _refuse(FailureCode.TYPE if error.absolute_path else FailureCode.SCHEMA)
        ranking = tuple(value[RANKING])
        failure = _ranking_failure(ranking, candidates)
        return ParseResult(True, ranking, None) if failure is None else _refuse(failure)


RANKING_WITH_REASON = Contract("ranking_with_reason", (RANKING, REASON))
RANKING_ONLY = Contract("ranking_only", (RANKING,))
_CONTRACTS = {contract.name: contract for contract in (RANKING_WITH_REASON, RANKING_ONLY)}


def get_contract(name: str) -> Contract:
    """The contract of that name; ConfigError for an unknown one."""
    if name not in _CONTRACTS:
        raise ConfigError(f"contract={name}: unknown; choose one of {', '.join(_CONTRACTS)}")
    return _CONTRACTS[name]


@dataclass(frozen=True)
class _Decoded:
    value: Any
    end: int
    strict: bool


def _refuse(failure: FailureCode) -> ParseResult:
    return ParseResult(False, None, failure)


def _read_only_value(text: str) -> Any:
    """The one JSON value that `text` consists of, or the FailureCode that stands in its way."""
    if len(text) > MAX_CHARS or _SURROGATE.search(text):
        return FailureCode.NOT_JSON
    start = len(text) - len(text.lstrip(JSON_WHITESPACE))
    decoded = _decode(text, start)
    if decoded is None:
        brace = text.find("{", start + 1)
        wrapped = brace >= 0 and _decode(text, brace) is not None
        return FailureCode.EXTRA_TEXT if wrapped else FailureCode.NOT_JSON
    if (start, decoded.end) != (0, len(text)):
        return FailureCode.EXTRA_TEXT
    return decoded.value if decoded.strict else FailureCode.SCHEMA


def _decode(text: str, start: int) -> _Decoded | None:
    """The JSON value that begins exactly at `start`, or None if there is no complete one."""
    if _too_deep(text, start):
        return None
    oddities: list[str] = []

    def build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        built = dict(pairs)
        if len(built) < len(pairs):
            oddities.append("repeated key")
        return built

    # Oddities are noted, not raised: text that turns out not to be JSON later on is not_json.
    decoder = json.JSONDecoder(
        object_pairs_hook=build_object,
        parse_constant=oddities.append,
        parse_int=_any_number,
        parse_float=_any_number,
    )
    try:
        value, end = decoder.raw_decode(text, start)
    except json.JSONDecodeError:
        return None
    return _Decoded(value, end, strict=not oddities)


def _any_number(_literal: str) -> int:
    """No contract holds a number, so none is converted (long integers would raise)."""
    return 0


def _too_deep(text: str, start: int) -> bool:
    """Whether the array or object that begins at `start` nests deeper than MAX_DEPTH."""
    if not text.startswith(("[", "{"), start):
        return False
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(text, start):
        if match[0] in ("[", "{"):
            depth += 1
        elif match[0] in ("]", "}"):
            depth -= 1
        if depth > MAX_DEPTH:
            return True
        if depth == 0:
            return False
    return False


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
