"""An answer grades every candidate once, by a whole number from 0 to 4, or nothing at all."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opdcliff.grading.answers import Reason, Reply, read_answer
from opdcliff.grading.questions import Question
from opdcliff.grading.rubric import answer_schema

LABELS = ("A", "B", "C")
QUESTION = Question("u", 0, ("i", "j", "k"), LABELS, {}, answer_schema(LABELS), "key", 100)


def reason_of(text: str | None, **reply: Any) -> Reason | None:
    graded = read_answer(QUESTION, Reply(text, **({"finish": "stop"} | reply)))
    assert (graded.grades is None) == (graded.reason is not None)
    return graded.reason


def test_a_right_answer_gives_the_grades_in_the_order_of_the_items() -> None:
    text = ' {"C": 4, "A": 0,\n"B": 2}\n'
    assert read_answer(QUESTION, Reply(text, "stop")).grades == (0, 2, 4)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"A":1,"B":2}', Reason.MISSING),
        ("{}", Reason.MISSING),
        ('{"A":1,"B":2,"C":3,"D":4}', Reason.UNKNOWN),
        ('{"A":1,"B":2,"C":3,"c":3}', Reason.UNKNOWN),
        ('{"A":1,"A":1,"B":2,"C":3}', Reason.REPEATED),
        ('{"A":1,"B":2,"C":5}', Reason.OUT_OF_RANGE),
        ('{"A":1,"B":2,"C":-1}', Reason.OUT_OF_RANGE),
        ('{"A":1,"B":2,"C":2.5}', Reason.OUT_OF_RANGE),
        ('{"A":1,"B":2,"C":3.0}', Reason.OUT_OF_RANGE),
        ('{"A":1,"B":2,"C":"3"}', Reason.OUT_OF_RANGE),
        ('{"A":1,"B":2,"C":true}', Reason.OUT_OF_RANGE),
        ('{"A":1,"B":2,"C":null}', Reason.OUT_OF_RANGE),
        ('{"A":1,"B":2,"C":NaN}', Reason.OUT_OF_RANGE),
        ("[1,2,3]", Reason.MALFORMED),
        ("3", Reason.MALFORMED),
        ('{"A":1,"B":2,"C":3', Reason.MALFORMED),
        ('```json\n{"A":1,"B":2,"C":3}\n```', Reason.MALFORMED),
        ('Sure: {"A":1,"B":2,"C":3}', Reason.MALFORMED),
        ('{"A":1,"B":2,"C":3} {}', Reason.MALFORMED),
        ("", Reason.MALFORMED),
        (None, Reason.MALFORMED),
        ("[" * 200_000, Reason.MALFORMED),
        ("[" * 90_000, Reason.MALFORMED),
    ],
)
def test_a_wrong_answer_grades_nothing_and_has_one_reason(text: str | None, reason: Reason) -> None:
    assert reason_of(text) is reason


def test_what_the_endpoint_says_comes_before_the_text() -> None:
    right = '{"A":1,"B":2,"C":3}'
    assert reason_of(right, finish="length") is Reason.TRUNCATED
    assert reason_of(right, finish="content_filter") is Reason.REFUSAL
    assert reason_of(right, refusal="refused") is Reason.REFUSAL
    assert reason_of(None, problem="status 500") is Reason.NO_ANSWER
    assert reason_of(right) is None


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from("ABCD"), st.integers(-1, 5) | st.floats() | st.text("01")))
def test_only_three_grades_in_range_are_taken(found: dict[str, Any]) -> None:
    graded = read_answer(QUESTION, Reply(json.dumps(found), "stop"))
    right = found.keys() == set(LABELS) and all(
        type(grade) is int and 0 <= grade <= 4 for grade in found.values()
    )
    assert (graded.grades is not None) == right
    if graded.grades is not None:
        assert dict(zip(LABELS, graded.grades, strict=True)) == found
