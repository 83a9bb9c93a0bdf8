"""The generated extraction task: seeded, disjoint, clean answers by its schema, broken ones not."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from opdcliff.contract.forms.schema import SchemaContract
from opdcliff.data import orders
from opdcliff.data.answer_style import REASON_WORDS, AnswerStyle
from opdcliff.data.answers import draw_answer
from opdcliff.data.example import Example, Splits
from opdcliff.data.mini import SplitSizes
from opdcliff.data.orders import fields_of, generate_orders
from opdcliff.errors import DataError

CONTRACT = SchemaContract()
CLEAN = AnswerStyle(
    continue_mass=0.8, corrupt_rate=0.0, swap_rate=0.0, long_share=0.3, long_words=9
)
CODES = {
    "without_one": "required",
    "unknown_value": "enum",
    "count_as_text": "type",
    "no_brace": "extra_text",
    "extra_text": "extra_text",
}


def _all(splits: Splits) -> list[Example]:
    return [*splits.train, *splits.calibration, *splits.test]


def _texts(example: Example, style: AnswerStyle, count: int) -> Iterator[str]:
    rng = np.random.default_rng(count)
    return ("".join(p.text for p in draw_answer(example, style, rng)) for _ in range(count))


def test_the_same_seed_gives_the_same_orders_and_another_seed_others() -> None:
    sizes = SplitSizes(60, 20, 30)
    first = generate_orders(3, sizes, CONTRACT)
    assert generate_orders(3, sizes, CONTRACT) == first
    assert [len(part) for part in (first.train, first.calibration, first.test)] == [60, 20, 30]
    assert generate_orders(4, sizes, CONTRACT).train != first.train


def test_no_order_occurs_twice_and_no_more_are_given_than_there_are() -> None:
    every = _all(generate_orders(0, SplitSizes(orders._DISTINCT - 2, 1, 1), CONTRACT))
    assert len({e.prompt for e in every}) == len(every) == 27_648
    with pytest.raises(DataError, match="27648 distinct orders"):
        generate_orders(0, SplitSizes(orders._DISTINCT, 1, 1), CONTRACT)


def test_clean_answers_say_what_the_prompt_says_and_keep_to_the_schema() -> None:
    for example in _all(generate_orders(1, SplitSizes(40, 1, 1), CONTRACT)):
        for text in _texts(example, CLEAN, 5):
            assert CONTRACT.judge(text, example, ended=True).ok, text
            said = json.loads(text)
            assert all(
                f" {word} " in f" {' '.join(REASON_WORDS)} " for word in said.pop("note").split()
            )
            assert said == fields_of(example)


def test_each_corruption_breaks_the_answer_in_its_own_way_and_leaves_the_close_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert CODES.keys() == set(orders._CORRUPTIONS)
    example = generate_orders(1, SplitSizes(1, 1, 1), CONTRACT).train[0]
    for name, code in CODES.items():
        monkeypatch.setattr(orders, "_CORRUPTIONS", (name,))
        for text in _texts(example, replace(CLEAN, corrupt_rate=0.999999), 20):
            assert CONTRACT.judge(text, example, ended=True).failure == code, text
            assert text.count('"}') == 1


def test_answers_are_broken_as_often_as_asked_for() -> None:
    example = generate_orders(1, SplitSizes(1, 1, 1), CONTRACT).train[0]
    texts = list(_texts(example, replace(CLEAN, corrupt_rate=0.5), 2000))
    seen = Counter(CONTRACT.judge(text, example, ended=True).failure for text in texts)
    assert 900 < seen[None] < 1100
    assert seen.keys() - {None} == set(CODES.values())
