"""The contract of any JSON Schema: an answer is one value that is valid by it, as it stands.

Draft 2020-12 unless `$schema` says otherwise, formats checked, no schema fetched from anywhere.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jsonschema import ValidationError
from jsonschema.protocols import Validator
from referencing import Registry

from opdcliff.contract.forms.schema_check import checked_class
from opdcliff.contract.json_text import Oddity, read_only_value
from opdcliff.contract.verdict import ACCEPTED, Asked, FailureCode, ParseResult, refused

# Objects and arrays inside each other; validation takes some ten calls of the interpreter a level.
MAX_DEPTH = 32

DUPLICATE_KEY, NOT_FINITE, NEVER = "duplicate_key", "not_finite", "false"
# What no grammar of a schema sees: keys that the schema does not name, and the size of a number.
BEYOND_GRAMMARS = (DUPLICATE_KEY, NOT_FINITE)
_TEXT_CODES = (
    FailureCode.TRUNCATED.value,
    FailureCode.NOT_JSON.value,
    FailureCode.EXTRA_TEXT.value,
    DUPLICATE_KEY,
    NOT_FINITE,
)
# The order in which keywords give their name to a failure, wherever in the value each one fails.
# `false` is the schema that takes nothing. Keywords that only hold schemas never fail themselves.
# One that is not here comes last.
KEYWORDS = (
    *(NEVER, "type", "enum", "const"),
    *("required", "additionalProperties", "unevaluatedProperties"),
    *("minProperties", "maxProperties", "dependentRequired", "dependencies"),
    *("minItems", "maxItems", "items", "additionalItems", "unevaluatedItems"),
    *("contains", "minContains", "maxContains", "uniqueItems"),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "divisibleBy"),
    *("minLength", "maxLength", "pattern", "format"),
    *("anyOf", "oneOf", "not", "disallow"),
)
_PLACE = {keyword: place for place, keyword in enumerate(KEYWORDS)}
# Validators kept at a time: a file of prompts may bring a schema with every line.
_KEPT = 4096


@dataclass(frozen=True)
class SchemaContract:
    """One JSON value, valid by the schema of its prompt; see `schema_failure` for the codes."""

    name: str = "schema"
    ranks: bool = False
    # Of most schemas; calibrations then make a text go on.
    has_text: bool = True
    form_key: str = "schema"

    @property
    def codes(self) -> Sequence[str]:
        """Those of the text; keywords are counted where one failed."""
        return _TEXT_CODES

    def read_form(self, value: object) -> str:
        """The schema as JSON text, its keys in the order given. Raises DataError: `checked_class`.

        The order has no meaning for the judge.
        """
        checked_class(value)
        return json.dumps(value, separators=(",", ":"))

    def judge(self, text: str, asked: Asked, *, ended: bool) -> ParseResult:
        """Accept or refuse one answer; never raises for a schema that `read_form` took."""
        if not ended:
            return refused(FailureCode.TRUNCATED)
        failure = schema_failure(text, asked.form)
        return ACCEPTED if failure is None else refused(failure)


def schema_failure(text: str, form: str) -> str | None:
    """Why a text is no valid value of a schema, or None. The first that holds:

    not_json, extra_text: as for rankings (`FailureCode`), nested deeper than MAX_DEPTH.
    duplicate_key: an object anywhere repeats a key.
    not_finite: NaN, Infinity, -Infinity, or a number beyond the range of double precision.
    Then the keyword that fails, in the order of KEYWORDS.
    """
    read = read_only_value(text, max_depth=MAX_DEPTH, numbers=True)
    if isinstance(read, FailureCode):
        return read.value
    if Oddity.REPEATED_KEY in read.oddities:
        return DUPLICATE_KEY
    if Oddity.NOT_FINITE in read.oddities:
        return NOT_FINITE
    errors = validator_of(form).iter_errors(read.value)
    return min(map(_keyword, errors), key=_precedence, default=None)


@functools.lru_cache(_KEPT)
def validator_of(form: str) -> Validator:
    """The validator of a schema that `SchemaContract.read_form` gave."""
    schema: Any = json.loads(form)
    kind = checked_class(schema)
    # An empty registry: no reference is ever looked up outside of the schema.
    return kind(schema, format_checker=kind.FORMAT_CHECKER, registry=Registry())


def _keyword(error: ValidationError) -> str:
    # Of a schema that is `false` an error has no keyword.
    return error.validator if isinstance(error.validator, str) else NEVER


def _precedence(keyword: str) -> tuple[int, str]:
    return _PLACE.get(keyword, len(KEYWORDS)), keyword
