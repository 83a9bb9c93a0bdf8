"""The strict contract: one code per broken answer, in fixed precedence, and no repair."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from opdcliff.contract.choice import get_contract
from opdcliff.contract.json_text import MAX_CHARS
from opdcliff.contract.parse import (
    MAX_DEPTH,
    RANKING_ONLY,
    RANKING_WITH_REASON,
    FailureCode,
    ParseResult,
)
from opdcliff.errors import ConfigError

IDS = ("A", "B", "C")
VALID = '{"ranking":["B","A","C"],"reason":"x"}'


def failure(text: str, *, ended: bool = True) -> FailureCode | None:
    verdict = RANKING_WITH_REASON.parse(text, IDS, ended=ended)
    assert verdict.ok == (verdict.failure is None) == (verdict.ranking is not None)
    return verdict.failure


def answer(ranking: Any, reason: Any = "x") -> str:
    return json.dumps({"ranking": ranking, "reason": reason})


def test_accepts_the_ranking_as_written() -> None:
    expected = ParseResult(True, ("B", "A", "C"), None)
    assert RANKING_WITH_REASON.parse(VALID, IDS, ended=True) == expected
    assert RANKING_ONLY.parse('{"ranking":["B","A","C"]}', IDS, ended=True) == expected


@pytest.mark.parametrize(
    "text",
    [
        '{ "reason" : "a\\n\\u00e9\\"b" ,\r\n\t"ranking" : [ "B" , "A" , "C" ] }',
        '{"ranking":["B","A","C"],"reason":""}',
        '{"ranking":["B","A","C"],"reason":"\u00e9\U0001f600\x7f"}',
        '{"ranking":["B","A","C"],"reason":"\\ud800"}',
        '{"ranking":["B","\\u0041","C"],"reason":"[[[[[[[[[[[[[[[[[[[[[[[[{{{{{{{{"}',
    ],
)
def test_accepts_every_json_spelling(text: str) -> None:
    assert RANKING_WITH_REASON.parse(text, IDS, ended=True).ranking == ("B", "A", "C")


CASES = {
    FailureCode.NOT_JSON: [
        "",
        " ",
        "\x00",
        "no answer",
        VALID[:-1],
        "{'ranking':[]}",
        '{"ranking":["A","B","C"],"reason":"line\nbreak"}',
        '{"ranking":["A","B","C"],"reason":"\x00"}',
        '{"ranking":["A","B","C"],"reason":"\\x"}',
        '{"ranking":["A","B","C"],"reason":"\ud800"}',
        '{"ranking":["A","B","C",],"reason":"x"}',
        '{"a":NaN,"a":',
        '{"a":[' + "1" * 5000,
        "[" * 1_000_000,
        "[" * (MAX_CHARS - 1),
        '{"a":' * 150_000,
        '{"a":' * (MAX_CHARS // 6),
        '"' + '\\"' * (MAX_CHARS // 3),
        "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1),
        answer(list(IDS), "x" * MAX_CHARS),
    ],
    FailureCode.EXTRA_TEXT: [
        " " + VALID,
        VALID + "\n",
        VALID + VALID,
        VALID + "[" * 1000,
        "Answer: " + VALID,
        "```json\n" + VALID + "\n```",
        "\ufeff" + VALID,
        "1" + VALID,
        '"a" [[[[[[[[[[[[[[[[[[[[[[[',
        "1 [[[[[[[[[[[[[[[[[[[[[[[[[",
        "\r\t\n [1]",
        "{} {}",
        '{"a":NaN} ',
    ],
    FailureCode.SCHEMA: [
        "{}",
        "[]",
        "null",
        '"ranking"',
        "1" * 5000,
        "NaN",
        "[" * MAX_DEPTH + "]" * MAX_DEPTH,
        '{"ranking":["A","B","C"]}',
        '{"Ranking":["A","B","C"],"reason":"x"}',
        '{"ranking":["A","B","C"],"reason":"x","score":1}',
        '{"ranking":1,"score":1}',
        '{"ranking":["A","B","C"],"reason":"x","reason":"x"}',
        '{"ranking":["A","B","C"],"reason":"x","rea\\u0073on":"x"}',
        '{"ranking":["A","B",{"a":1,"a":2}],"reason":"x"}',
        '{"ranking":["A","B","C"],"reason":NaN}',
        '{"ranking":["A","B","C"],"reason":[-Infinity]}',
    ],
    FailureCode.TYPE: [
        answer("ABC"),
        answer({"A": 1}),
        answer(None),
        answer(["A", "B", 3]),
        answer(["A", "B", "C", "A", None]),
        answer([["A"], "B", "C"]),
        answer(["A"], 1),
        answer(["A"], None),
        '{"ranking":["A","B",' + "1" * 5000 + '],"reason":"x"}',
        '{"ranking":["A","B",1e999],"reason":"x"}',
    ],
    FailureCode.COUNT: [answer(["A", "B", "C", "A"]), answer(["Z"] * 4), answer(["A"] * 9000)],
    FailureCode.DUPLICATE: [answer(["A", "B", "A"]), answer(["Z", "Z"]), answer(["A", "A"])],
    FailureCode.UNKNOWN_ID: [answer(["A", "B", "D"]), answer(["a"]), answer([""]), answer(["A "])],
    FailureCode.MISSING: [answer([]), answer(["A"]), answer(["C", "A"])],
}


@pytest.mark.parametrize(("code", "text"), [(code, t) for code, ts in CASES.items() for t in ts])
def test_one_code_per_broken_answer(code: FailureCode, text: str) -> None:
    assert failure(text) is code
    assert failure(text, ended=False) is FailureCode.TRUNCATED


def test_every_code_has_a_case() -> None:
    assert list(FailureCode) == [FailureCode.TRUNCATED, *CASES]
    assert failure(VALID, ended=False) is FailureCode.TRUNCATED


def test_an_earlier_fault_hides_every_later_one() -> None:
    # Each text has its own fault and the faults of all codes that follow.
    assert failure('x {"ranking":[1', ended=True) is FailureCode.NOT_JSON
    assert failure('{"ranking":[1,"A","A","D"],"a":NaN} ') is FailureCode.EXTRA_TEXT
    assert failure('{"ranking":[1,"A","A","D"],"reason":"x","a":0}') is FailureCode.SCHEMA
    assert failure(answer([1, "A", "A", "D"])) is FailureCode.TYPE
    assert failure(answer(["A", "A", "D", "D"])) is FailureCode.COUNT
    assert failure(answer(["D", "D"])) is FailureCode.DUPLICATE
    assert failure(answer(["D"])) is FailureCode.UNKNOWN_ID


def test_the_bounds_are_inclusive() -> None:
    room = MAX_CHARS - len(answer(list(IDS), ""))
    assert failure(answer(list(IDS), "x" * room)) is None
    assert failure(answer(list(IDS), "x" * (room + 1))) is FailureCode.NOT_JSON


def test_variants_refuse_each_others_answers() -> None:
    short = '{"ranking":["A","B","C"]}'
    assert RANKING_WITH_REASON.parse(short, IDS, ended=True).failure is FailureCode.SCHEMA
    assert RANKING_ONLY.parse(VALID, IDS, ended=True).failure is FailureCode.SCHEMA


def test_get_contract() -> None:
    assert get_contract("ranking_with_reason") is RANKING_WITH_REASON
    assert get_contract("ranking_only") is RANKING_ONLY
    with pytest.raises(ConfigError, match=r"contract=json: .*ranking_with_reason, ranking_only"):
        get_contract("json")


@settings(deadline=None)
@given(st.text(max_size=30) | st.text(alphabet='{}[]":,\\ \nABranking', max_size=60))
def test_any_text_gets_a_verdict(text: str) -> None:
    assert failure(text) in CASES


_keys = st.sampled_from(["ranking", "reason", "score"])
_any_shape = st.dictionaries(_keys, st.text(max_size=3) | st.permutations(IDS), max_size=3)
_any_ranking = st.lists(st.sampled_from([*IDS, *IDS, "D", None, 1]), min_size=1, max_size=4)
_right_shape = st.fixed_dictionaries(
    {"ranking": st.permutations(IDS) | _any_ranking}, optional={"reason": st.text()}
)


@settings(deadline=None, max_examples=500)
@given(_any_shape | _right_shape)
def test_parse_agrees_with_the_published_schema(value: dict[str, Any]) -> None:
    for contract in (RANKING_WITH_REASON, RANKING_ONLY):
        validator = Draft202012Validator(contract.schema(IDS))
        verdict = contract.parse(json.dumps(value), IDS, ended=True)
        assert verdict.ok == validator.is_valid(value)


def test_schema_is_a_draft_2020_12_schema() -> None:
    schema = RANKING_WITH_REASON.schema(IDS)
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"].endswith("2020-12/schema")
    schema["properties"].clear()
    assert RANKING_WITH_REASON.parse(VALID, IDS, ended=True).ok, "schema() hands out its own copy"
