"""Masses by place of answers to a schema, on chains whose next-token masses are known."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
import pytest
import torch

import markov
from markov import EOS, PAD, PROMPT
from opdcliff.calibration.class_masses import STEPS, Calibration, calibrate_trio
from opdcliff.contract.forms.schema import SchemaContract
from opdcliff.data.example import Example
from opdcliff.models.trio import assemble
from opdcliff.settings.schema import CalibrationConfig
from opdcliff.theory.threshold import lambda_star

pytest.importorskip("llguidance")

CONTRACT = SchemaContract()


def measured(
    schema: Any,
    texts: list[str],
    p: Mapping[str, Any],
    b: Mapping[str, Any],
    advance: Callable[[int], None] = lambda steps: None,
) -> Calibration:
    """Calibration of two chains with masses p and b after each token."""
    whole = [PAD, EOS, PROMPT, *texts]
    models = []
    for masses in (p, b):
        after = {PROMPT: {texts[0]: 1.0}, PAD: {EOS: 1.0}, EOS: {EOS: 1.0}, **masses}
        models.append(markov.model_of(whole, after, torch.float64))
    teacher, student = models
    tokenizer = markov.word_tokenizer(whole)
    form = CONTRACT.read_form(schema)
    return calibrate_trio(
        assemble(student, teacher, markov.codec_of(tokenizer)),
        [Example(PROMPT, (), (), str(i), form=form) for i in range(40)],
        CONTRACT,
        CalibrationConfig(
            prompts=40, forced_words=8, offset_bin=8, bootstrap=10, strengths=[5.0], seed=0
        ),
        dataclasses.replace(markov.config().rollout, max_new_tokens=24, temperature=1.0),
        chunk_tokens=256,
        advance=advance,
    )


def test_a_measurement_tells_its_steps_up_to_the_last() -> None:
    told: list[int] = []
    masses = {'{"note":"': {"so": 1.0}, "so": {"so": 0.5, '"}': 0.5}, '"}': {EOS: 1.0}}
    schema = {"type": "object", "properties": {"note": {"type": "string"}}}
    measured(schema, ['{"note":"', "so", '"}'], masses, masses, told.append)
    assert told == sorted(set(told))
    assert told == list(range(1, STEPS + 1))


def row(found: Calibration, name: str, offsets: str = "all", *, needed: bool = True) -> pd.Series:
    table = found.table
    here = (table["class"] == name) & (table.offsets == offsets) & (table.tail_needed == needed)
    (only,) = [line for _, line in table[here].iterrows()]
    return only


def test_a_text_and_a_list_have_the_masses_of_going_on() -> None:
    schema = {
        "type": "object",
        "properties": {
            "flags": {"type": "array", "items": {"type": "boolean"}},
            "note": {"type": "string"},
        },
        "required": ["flags", "note"],
        "additionalProperties": False,
    }
    texts = ['{"flags":[', "true", ",", '],"note":"', "so", '"}']

    def chain(items: float, words: float) -> dict[str, dict[str, float]]:
        return {
            texts[0]: {"true": 1.0},
            "true": {",": items, '],"note":"': 1.0 - items},
            ",": {"true": 1.0},
            '],"note":"': {"so": words, '"}': 1.0 - words},
            "so": {"so": words, '"}': 1.0 - words},
            '"}': {EOS: 1.0},
        }

    found = measured(schema, texts, chain(0.8, 0.9), chain(0.6, 0.5))
    items, text = row(found, "separator $.flags[*]"), row(found, "string_text $.note")
    assert (items.p, items.b) == (pytest.approx(0.8), pytest.approx(0.6))
    assert (text.p, text.b) == (pytest.approx(0.9), pytest.approx(0.5))
    assert items.lambda_star_c5 == pytest.approx(lambda_star(0.8, 0.6, 5.0), abs=1e-4)
    # The text is met first, and named by its path.
    assert found.binding is not None
    assert found.binding.token_class == "string_text $.note"
    assert found.binding.lambda_star(5.0) == pytest.approx(lambda_star(0.9, 0.5, 5.0), abs=1e-4)
    assert set(found.positions["class"]) == {"separator $.flags[*]", "string_text $.note"}
    # Offsets count the rounds of each.
    assert (found.positions.groupby("class").offset.max() > 3).all()
    assert found.unfollowed == 0.0


def test_a_bound_text_has_its_exit_alone_at_the_bound() -> None:
    schema = {"type": "string", "maxLength": 3}
    texts = ['"', "a", '" ', 'b"']
    go = {"a": 0.7, 'b"': 0.3}
    found = measured(
        schema,
        texts,
        {'"': go, "a": {"a": 0.7, 'b"': 0.3}, 'b"': {EOS: 1.0}, '" ': {EOS: 1.0}},
        {'"': {"a": 0.5, 'b"': 0.5}, "a": {"a": 0.5, 'b"': 0.5}, 'b"': {EOS: 1.0}},
    )
    inside = row(found, "string_text $")
    assert (inside.p, inside.b) == (pytest.approx(0.7), pytest.approx(0.5))
    # Two letters are there: `a` fills the text, `b"` ends it; with three there is no way on.
    assert row(found, "string_text $", "0-7").p == pytest.approx(0.7)
    (full,) = [
        line
        for _, line in found.table[~found.table.tail_needed].iterrows()
        if "text" in line["class"]
    ]
    assert full.p == pytest.approx(0.0, abs=1e-9)


def test_accepted_answers_that_no_grammar_writes_are_counted() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"const": 1}, "b": {"const": 2}},
        "required": ["a", "b"],
        "additionalProperties": False,
    }
    texts = ["{", '"b":2,"a":1}', '"a":1,"b":2}']
    both = {"{": {texts[1]: 0.5, texts[2]: 0.5}, texts[1]: {EOS: 1.0}, texts[2]: {EOS: 1.0}}
    found = measured(schema, texts, both, both)
    assert 0.2 < found.unfollowed < 0.8
    assert found.binding is None
