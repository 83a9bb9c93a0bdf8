"""Any JSON Schema as a contract: one code per broken answer, and rankings as a case of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opdcliff.contract.forms.schema import KEYWORDS, MAX_DEPTH, SchemaContract, validator_of
from opdcliff.contract.json_text import MAX_CHARS
from opdcliff.contract.parse import RANKING_ONLY, RANKING_WITH_REASON, FailureCode
from opdcliff.errors import DataError

CONTRACT = SchemaContract()
IDS = ("A", "B", "C")


@dataclass(frozen=True)
class Ask:
    """What a prompt asks, without the prompt."""

    candidates: tuple[str, ...] = ()
    form: str = ""


def failure(text: str, schema: Any, *, ended: bool = True) -> str | None:
    asked = Ask(form=CONTRACT.read_form(schema))
    verdict = CONTRACT.judge(text, asked, ended=ended)
    assert verdict.ok == (verdict.failure is None)
    assert verdict.ranking is None
    return verdict.failure


CALL = {
    "type": "object",
    "properties": {
        "name": {"const": "book"},
        "seats": {"type": "integer", "minimum": 1},
        "when": {"type": "string", "format": "date"},
        "tags": {"type": "array", "items": {"enum": ["window", "aisle"]}, "uniqueItems": True},
    },
    "required": ["name", "seats"],
    "additionalProperties": False,
}
VALID = '{"name":"book","seats":2,"when":"2026-11-29","tags":["aisle"]}'

# For every keyword a schema and an answer that breaks it alone.
CASES: dict[str, tuple[Any, str]] = {
    "false": ({"properties": {"a": False}}, '{"a":1}'),
    "type": ({"type": "integer"}, "1.5"),
    "enum": ({"enum": [1, "a"]}, '"b"'),
    "const": ({"const": {"a": 1}}, '{"a":2}'),
    "required": ({"required": ["a"]}, "{}"),
    "additionalProperties": ({"additionalProperties": False}, '{"a":1}'),
    "unevaluatedProperties": ({"unevaluatedProperties": False}, '{"a":1}'),
    "minProperties": ({"minProperties": 1}, "{}"),
    "maxProperties": ({"maxProperties": 0}, '{"a":1}'),
    "dependentRequired": ({"dependentRequired": {"a": ["b"]}}, '{"a":1}'),
    "minItems": ({"minItems": 1}, "[]"),
    "maxItems": ({"maxItems": 0}, "[1]"),
    "items": ({"prefixItems": [True], "items": False}, "[1,2]"),
    "unevaluatedItems": ({"prefixItems": [True], "unevaluatedItems": False}, "[1,2]"),
    "contains": ({"contains": {"const": 1}}, "[2]"),
    "minContains": ({"contains": {"const": 1}, "minContains": 2}, "[1]"),
    "maxContains": ({"contains": {"const": 1}, "maxContains": 1}, "[1,1]"),
    "uniqueItems": ({"uniqueItems": True}, "[1,1.0]"),
    "minimum": ({"minimum": 1}, "0"),
    "maximum": ({"maximum": 1}, "2"),
    "exclusiveMinimum": ({"exclusiveMinimum": 1}, "1"),
    "exclusiveMaximum": ({"exclusiveMaximum": 1}, "1"),
    "multipleOf": ({"multipleOf": 2}, "3"),
    "minLength": ({"minLength": 2}, '"\\ud83d\\ude00"'),
    "maxLength": ({"maxLength": 1}, '"ab"'),
    "pattern": ({"pattern": "^a"}, '"b"'),
    "format": ({"format": "date"}, '"2026-02-30"'),
    "anyOf": ({"anyOf": [{"type": "null"}, {"type": "array"}]}, "1"),
    "oneOf": ({"oneOf": [True, True]}, "1"),
    "not": ({"not": {}}, "1"),
    # Of older drafts, by name alone.
    "dependencies": (
        {"$schema": "http://json-schema.org/draft-07/schema#", "dependencies": {"a": ["b"]}},
        '{"a":1}',
    ),
    "additionalItems": (
        {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "items": [True],
            "additionalItems": False,
        },
        "[1,2]",
    ),
    "divisibleBy": ({"$schema": "http://json-schema.org/draft-03/schema#", "divisibleBy": 2}, "3"),
    "disallow": (
        {"$schema": "http://json-schema.org/draft-03/schema#", "disallow": "number"},
        "3",
    ),
}


@pytest.mark.parametrize("keyword", CASES)
def test_a_failure_is_called_by_its_keyword(keyword: str) -> None:
    schema, text = CASES[keyword]
    assert failure(text, schema) == keyword
    assert failure(text, schema, ended=False) == "truncated"


def test_every_keyword_has_a_case() -> None:
    assert set(CASES) == set(KEYWORDS)


def test_an_earlier_keyword_hides_later_ones_wherever_they_stand() -> None:
    """Neither the order of the schema nor that of the answer decides."""
    parts = [CASES[name] for name in ("maxItems", "type", "pattern")]
    texts = ("[1]", "1.5", '"b"')
    named = dict(zip("abc", [schema for schema, _ in parts], strict=True))
    for order in permutations("abc"):
        schema = {"properties": {key: named[key] for key in order}}
        answer = "{" + ",".join(f'"{key}":{texts["abc".index(key)]}' for key in order[::-1]) + "}"
        assert failure(answer, schema) == "type"
    keywords = {"type": "string", "enum": ["x"], "minimum": 3}
    for order in permutations(keywords):
        assert failure("1", {key: keywords[key] for key in order}) == "type"


def test_a_valid_answer_is_accepted_in_any_spelling() -> None:
    assert failure(VALID, CALL) is None
    spaced = json.dumps(dict(reversed(json.loads(VALID).items())), indent=2)
    assert failure(spaced, CALL) is None
    assert failure('{"n\\u0061me":"book","seats":2.0}', CALL) is None
    assert failure("3", True) is None


TEXTS = {
    "not_json": ["", "book", VALID[:-1], VALID + "\ud800", '{"seats":2,}', '"' + "x" * MAX_CHARS],
    "extra_text": [" " + VALID, VALID + "\n", VALID * 2, f"```json\n{VALID}\n```", "{} {}"],
    "duplicate_key": ['{"name":"book","seats":2,"seats":2}', '{"x":[{"a":1,"\\u0061":NaN}]}'],
    "not_finite": ["NaN", "[-Infinity]", "1e999", "-1" + "0" * 400, "9" * 5000, '{"a":1e400}'],
}


@pytest.mark.parametrize(("code", "text"), [(c, t) for c, ts in TEXTS.items() for t in ts])
def test_nothing_is_repaired(code: str, text: str) -> None:
    assert failure(text, CALL) == code
    assert code in CONTRACT.codes


def test_values_may_nest_as_deep_as_said() -> None:
    """Also where every level goes through a reference, a list of schemas and a condition."""
    node = {
        "$ref": "#/$defs/node",
        "$defs": {
            "node": {
                "allOf": [{"if": True, "then": {"anyOf": [{"$ref": "#/$defs/array"}]}}],
            },
            "array": {"type": "array", "items": {"$ref": "#/$defs/node"}},
        },
    }
    assert failure("[" * MAX_DEPTH + "]" * MAX_DEPTH, node) is None
    assert failure("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), node) == "not_json"


@settings(deadline=None)
@given(st.text(max_size=30) | st.text(alphabet='{}[]":,\\ \nabseatsNaN0123e+-.', max_size=60))
def test_any_text_gets_a_verdict(text: str) -> None:
    assert failure(text, CALL) in {*CONTRACT.codes, *KEYWORDS}


# ---- schemas that are refused -----------------------------------------------------------------

REFUSED: list[tuple[Any, str]] = [
    (3, "is no JSON Schema"),
    ({"type": "str"}, "is not valid at type: 'str' is not valid"),
    ({"properties": {"a": {"minLength": -1}}}, "is not valid at properties/a/minLength"),
    ({"items": {"pattern": "("}}, r"is not valid at items/pattern"),
    ({"$schema": "https://example.org/mine"}, "names \\$schema https://example.org/mine"),
    ({"$schema": 7}, "names \\$schema 7"),
    ({"$ref": "#/$defs/a"}, r"refers to #/\$defs/a, which is not in it"),
    ({"$ref": "https://example.org/a"}, "refers to https://example.org/a, which is not in it"),
    ({"$ref": "#"}, "refers to itself without going into the value"),
    (
        {"$defs": {"a": {"allOf": [{"not": {"$ref": "#/$defs/a"}}]}}},
        "refers to itself without going into the value",
    ),
    ({"items": {"format": "int32"}}, "has the format int32, which nothing checks"),
]


@pytest.mark.parametrize(("schema", "part"), REFUSED)
def test_a_schema_that_cannot_be_judged_by_is_refused_in_one_line(schema: Any, part: str) -> None:
    with pytest.raises(DataError, match=part) as caught:
        CONTRACT.read_form(schema)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_format_is_checked_or_refused() -> None:
    """Formats whose checks come with an extra package are no comments where it is not there."""
    known = validator_of("true").format_checker.checkers
    for form in ("date", "email", "ipv4", "uuid", "regex", "date-time", "uri", "hostname"):
        if form in known:
            assert failure('"("', {"format": form}) == "format"
        else:
            with pytest.raises(DataError, match=rf"format {form}, .*opd-cliff\[formats\]"):
                CONTRACT.read_form({"format": form})


def test_names_of_properties_and_constants_are_no_keywords() -> None:
    for schema in (
        {"properties": {"$ref": {"type": "string"}, "format": {"type": "string"}}},
        {"const": {"$ref": "#/nowhere", "format": "int32"}},
        {"enum": [{"format": "int32"}]},
    ):
        CONTRACT.read_form(schema)


def test_the_order_of_keys_is_kept() -> None:
    """It means nothing to the judge, and is the order that grammar engines write keys in."""
    schema = {"properties": {"z": {}, "a": {}}, "required": ["a"]}
    assert list(json.loads(CONTRACT.read_form(schema))["properties"]) == ["z", "a"]


# ---- rankings as schemas ----------------------------------------------------------------------

# What a code of a ranking is called where the ranking is a schema. All that the contract asks is
# expressible, `uniqueItems` and the ids too. What differs is the names, of which a schema has more,
# and that a schema reads its numbers: one too large is not_finite before it is of a wrong type.
NAMES: dict[str | None, set[str | None]] = {
    None: {None},
    FailureCode.NOT_JSON: {"not_json", "type"},
    FailureCode.EXTRA_TEXT: {"extra_text"},
    FailureCode.SCHEMA: {
        *("duplicate_key", "not_finite", "type", "required", "additionalProperties"),
        # The keys are wrong as well; the order of keywords decides.
        "enum",
    },
    FailureCode.TYPE: {"type", "enum", "not_finite"},
    FailureCode.COUNT: {"maxItems", "enum"},
    FailureCode.DUPLICATE: {"uniqueItems", "minItems", "enum"},
    FailureCode.UNKNOWN_ID: {"enum"},
    FailureCode.MISSING: {"minItems"},
}
_keys = st.sampled_from(["ranking", "reason", "score"])
_entries = st.lists(st.sampled_from([*IDS, *IDS, "D", None, 1]), max_size=4)
_rankings = st.permutations(IDS) | _entries
_right = st.fixed_dictionaries({"ranking": _rankings}, optional={"reason": st.text(max_size=4)})
_values = st.dictionaries(_keys, _rankings | st.text(max_size=3) | st.floats(), max_size=3)


@st.composite
def _texts(draw: st.DrawFn) -> str:
    """Answers, most of them nearly right: cut, doubled, with a character more or less."""
    text = json.dumps(draw(_right | _values), ensure_ascii=draw(st.booleans()))
    match draw(st.integers(0, 5)):
        case 0:
            at = draw(st.integers(0, len(text)))
            return text[:at] + draw(st.sampled_from([*' "{}[],:\\x1', "\ud800", "NaN"])) + text[at:]
        case 1:
            at = draw(st.integers(0, len(text)))
            return text[:at] + text[at + 1 :]
        case 2:
            return text.replace('"score"', '"ranking"')
        case 3:
            return "[" * draw(st.integers(0, 40)) + text
    return text


@settings(deadline=None, max_examples=600)
@given(_texts() | st.text(alphabet='{}[]":,\\ ABCrankiges', max_size=40))
def test_a_ranking_written_as_a_schema_has_the_verdicts_of_the_ranking(text: str) -> None:
    for ranking in (RANKING_WITH_REASON, RANKING_ONLY):
        asked = Ask(IDS, CONTRACT.read_form(ranking.schema(IDS)))
        for ended in (True, False):
            mine = CONTRACT.judge(text, asked, ended=ended)
            theirs = ranking.judge(text, asked, ended=ended)
            assert mine.ok == theirs.ok
            if ended:
                assert mine.failure in NAMES[theirs.failure]
            else:
                assert mine.failure == theirs.failure == "truncated"
