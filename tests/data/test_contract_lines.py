"""Prompts of a contract of one's own: one form for all lines, or one a line, refused by line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from opdcliff.contract.choice import get_contract
from opdcliff.contract.verdict import Contract
from opdcliff.data.contract_form import read_form
from opdcliff.data.example import Example, Splits
from opdcliff.data.jsonl import line_of, load_prompts
from opdcliff.data.mini import SplitSizes
from opdcliff.data.splits_file import read_splits, write_splits
from opdcliff.errors import DataError

SIZES = SplitSizes(1, 1, 1)
SCHEMA, REGEX, PYTHON = (get_contract(name) for name in ("schema", "regex", "python"))
OWN = {"type": "object", "properties": {"z": {"type": "string"}, "a": {"enum": ["\u00e9", 1]}}}


def _file(folder: Path, rows: list[Any]) -> Path:
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _load(folder: Path, rows: list[Any], contract: Contract, form: str = "") -> list[Example]:
    splits = load_prompts(_file(folder, rows), SIZES, contract, form)
    write_splits(folder, splits)
    parts = (splits.train, splits.calibration, splits.test)
    assert read_splits(folder) == Splits(*map(list, parts))
    return [example for part in parts for example in part]


def test_every_line_may_bring_its_own(tmp_path: Path) -> None:
    schemas = [OWN, {"const": 1}, True]
    rows = [{"prompt": f"p{i}", "schema": schema} for i, schema in enumerate(schemas)]
    found = {e.prompt: e for e in _load(tmp_path, rows, SCHEMA)}
    assert [json.loads(found[f"p{i}"].form) for i in range(3)] == schemas
    assert {e.candidates for e in found.values()} == {()}
    assert line_of(tmp_path / "prompts.jsonl", "p1") == 2


def test_one_file_may_hold_it_for_all(tmp_path: Path) -> None:
    own = tmp_path / "own.json"
    own.write_text(json.dumps(OWN, indent=2), encoding="utf-8-sig")
    form = read_form(SCHEMA, str(own))
    rows = [{"messages": [{"role": "user", "content": f"p{i}"}]} for i in range(3)]
    assert {e.form for e in _load(tmp_path, rows, SCHEMA, form)} == {form}
    assert json.loads(form) == OWN
    assert read_form(REGEX, r"\d+") == r"\d+"
    assert read_form(SCHEMA, None) == ""


LINES: list[tuple[Contract, Any, str]] = [
    (SCHEMA, {}, "schema is missing; each line is"),
    (SCHEMA, {"schema": {"type": "str"}}, "schema is not valid at type"),
    (SCHEMA, {"schema": {"$ref": "#"}}, "schema refers to itself"),
    (SCHEMA, {"schema": None}, "schema is no JSON Schema"),
    (REGEX, {"regex": "("}, "regex is no regular expression"),
    (REGEX, {"regex": "\ud800"}, "regex holds half of a character"),
    (REGEX, {"schema": True}, "regex is missing"),
]


@pytest.mark.parametrize(("contract", "more", "part"), LINES)
def test_a_line_without_a_usable_form_is_named(
    tmp_path: Path, contract: Contract, more: dict[str, Any], part: str
) -> None:
    rows = [{"prompt": "first", "schema": OWN, "regex": "a"}, {"prompt": "second", **more}]
    with pytest.raises(DataError, match=rf"prompts\.jsonl line 2: {part}") as caught:
        _load(tmp_path, rows, contract)
    assert "\n" not in str(caught.value)


def test_two_forms_for_one_line_are_refused(tmp_path: Path) -> None:
    row = {"prompt": "p", "regex": "a"}
    with pytest.raises(DataError, match=r"line 1: regex is there, and data\.form gives one"):
        _load(tmp_path, [row], REGEX, "b")
    with pytest.raises(DataError, match="line 2: an earlier line has this prompt with another"):
        _load(tmp_path, [row, {**row, "regex": "b"}], REGEX)


@pytest.mark.parametrize(
    ("contract", "content", "part"),
    [
        (SCHEMA, None, "no such file or directory; give a file with a JSON Schema"),
        (SCHEMA, "{", "is not JSON from line 1"),
        (SCHEMA, '{"type":"str"}', "is not valid at type"),
        (get_contract("lark"), None, "no such file or directory; give a file with a Lark grammar"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(
    tmp_path: Path, contract: Contract, content: str | None, part: str
) -> None:
    file = tmp_path / "form"
    if content is not None:
        file.write_text(content)
    with pytest.raises(DataError, match=rf"data\.form=.*form {part}"):
        read_form(contract, str(file))


def test_a_function_is_for_all_lines(tmp_path: Path) -> None:
    form = read_form(PYTHON, "json:loads")
    rows = [{"prompt": f"p{i}", "python": "ignored"} for i in range(3)]
    assert {e.form for e in _load(tmp_path, rows, PYTHON, form)} == {form}
    with pytest.raises(DataError, match=r"data\.form=json is not MODULE:FUNCTION"):
        read_form(PYTHON, "json")
