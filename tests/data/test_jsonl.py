"""Prompts from a file: one schema, refused line by line, in an order that lines do not decide."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opdcliff.contract.parse import RANKING_WITH_REASON
from opdcliff.data import jsonl
from opdcliff.data.example import Example, Splits
from opdcliff.data.jsonl import line_of
from opdcliff.data.mini import SplitSizes
from opdcliff.data.splits_file import read_splits, write_splits
from opdcliff.errors import DataError

SIZES = SplitSizes(train=2, calibration=3, test=1)


def load_prompts(file: Path, sizes: SplitSizes) -> Splits:
    return jsonl.load_prompts(file, sizes, RANKING_WITH_REASON)


def _row(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "prompt": f"rank \u4e2d {number}",
        "candidates": ["x", "y", "caf\u00e9"],
        "grades": [0, 2, number],
    } | changes


def _file(folder: Path, rows: list[Any]) -> Path:
    path = folder / "prompts.jsonl"
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _all(splits: Splits) -> list[Example]:
    return [*splits.train, *splits.calibration, *splits.test]


def test_lines_become_examples_in_disjoint_splits(tmp_path: Path) -> None:
    splits = load_prompts(_file(tmp_path, [_row(i) for i in range(6)]), SIZES)
    assert [len(part) for part in (splits.train, splits.calibration, splits.test)] == [2, 3, 1]
    found = {e.prompt: e for e in _all(splits)}
    assert len(found) == len({e.key for e in _all(splits)}) == 6
    for i in range(6):
        example = found[f"rank \u4e2d {i}"]
        assert example.candidates == ("x", "y", "caf\u00e9")
        assert example.grades == (0, 2, i)


def test_neither_order_nor_repeats_nor_blank_lines_change_the_splits(tmp_path: Path) -> None:
    rows = [_row(i) for i in range(8)]
    splits = load_prompts(_file(tmp_path, rows), SIZES)
    shuffled = [rows[i] for i in (5, 3, 0, 7, 1, 6, 4, 2)]
    assert load_prompts(_file(tmp_path, ["", *shuffled, "  ", rows[4]]), SIZES) == splits


def test_the_splits_are_not_the_order_of_the_lines(tmp_path: Path) -> None:
    rows = [_row(i) for i in range(20)]
    splits = load_prompts(_file(tmp_path, rows), SplitSizes(10, 5, 5))
    assert [e.prompt for e in _all(splits)] != [row["prompt"] for row in rows]


def test_grades_may_be_left_out(tmp_path: Path) -> None:
    row = _row(0)
    del row["grades"]
    splits = load_prompts(_file(tmp_path, [row, *(_row(i) for i in range(1, 6))]), SIZES)
    assert next(e for e in _all(splits) if e.prompt == row["prompt"]).grades == (0, 0, 0)


def test_windows_line_ends_are_read(tmp_path: Path) -> None:
    path = _file(tmp_path, [_row(i) for i in range(6)])
    splits = load_prompts(path, SIZES)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert load_prompts(path, SIZES) == splits


def test_too_few_distinct_prompts_are_refused(tmp_path: Path) -> None:
    rows = [_row(i) for i in (0, 1, 2, 3, 4, 4, 4)]
    with pytest.raises(DataError, match=r"has 5 distinct prompts .* is 6"):
        load_prompts(_file(tmp_path, rows), SIZES)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no file"):
        load_prompts(tmp_path / "absent.jsonl", SIZES)
    with pytest.raises(DataError, match="is no file"):
        load_prompts(tmp_path, SIZES)


@pytest.mark.parametrize("change", [{"grades": [0, 2, 9]}, {"candidates": ["x", "y", "z"]}])
def test_one_prompt_with_two_contents_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    """Which of them counted would be up to the order of the lines."""
    rows = [_row(0), _row(1), _row(0, **change), *(_row(i) for i in range(2, 6))]
    with pytest.raises(DataError, match=r"line 3: an earlier line has this prompt"):
        load_prompts(_file(tmp_path, rows), SIZES)


USER = {"role": "user", "content": "hi"}


def test_messages_are_kept_apart_from_a_prompt_of_the_same_text(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "s"}, *([USER, {**USER, "role": "assistant"}] * 2), USER]
    rows = [{"messages": turns, "candidates": ["x", "y"]}]
    rows += [{"prompt": "system: s", "candidates": ["x", "y"]}] * 2
    path = _file(tmp_path, [*rows, {"messages": turns[:2], "candidates": ["x", "y"]}])
    splits = load_prompts(path, SplitSizes(1, 1, 1))
    found = {e.key: e for part in (splits.train, splits.calibration, splits.test) for e in part}
    assert len(found) == 3
    (longest,) = (e for e in found.values() if len(e.messages) == 6)
    assert longest.messages[0] == ("system", "s")
    assert longest.messages[-1] == ("user", "hi")
    assert longest.prompt.startswith("system: s\nuser: hi\nassistant: hi")
    assert line_of(path, longest.prompt) == 1
    write_splits(tmp_path, splits)
    parts = (list(part) for part in (splits.train, splits.calibration, splits.test))
    assert read_splits(tmp_path) == Splits(*parts)


BAD_LINES: dict[str, Any] = {
    "no JSON": "{",
    "two values": json.dumps(_row(9)) + "{}",
    "a list": ["prompt"],
    "a text": '"prompt"',
    "no prompt": {"candidates": ["x", "y"]},
    "no candidates": {"prompt": "p"},
    "prompt a number": _row(9, prompt=3),
    "prompt null": _row(9, prompt=None),
    "prompt empty": _row(9, prompt=""),
    "half a character in the prompt": '{"prompt": "\\ud800", "candidates": ["x", "y"]}',
    "half a character in an id": '{"prompt": "p", "candidates": ["x", "\\ud800"]}',
    "candidates a text": _row(9, candidates="xyz"),
    "candidates an object": _row(9, candidates={"x": 1, "y": 2, "z": 3}),
    "candidates null": _row(9, candidates=None),
    "candidates numbers": _row(9, candidates=[1, 2, 3]),
    "one candidate": _row(9, candidates=["x"], grades=[1]),
    "no candidate": _row(9, candidates=[], grades=[]),
    "a repeated candidate": _row(9, candidates=["x", "y", "x"]),
    "an empty candidate": _row(9, candidates=["x", "", "y"]),
    "prompt and messages": _row(9, messages=[USER]),
    "messages empty": {"candidates": ["x", "y"], "messages": []},
    "messages a text": {"candidates": ["x", "y"], "messages": "hi"},
    "a message without a role": {"candidates": ["x", "y"], "messages": [{"content": "hi"}]},
    "a message of parts": {"candidates": ["x", "y"], "messages": [{**USER, "content": [USER]}]},
    "a strange role": {"candidates": ["x", "y"], "messages": [{**USER, "role": "tool"}]},
    "an answer last": {"candidates": ["x", "y"], "messages": [USER, {**USER, "role": "assistant"}]},
    "too few grades": _row(9, grades=[1, 2]),
    "too many grades": _row(9, grades=[1, 2, 3, 4]),
    "a negative grade": _row(9, grades=[1, 2, -1]),
    "a fractional grade": _row(9, grades=[1, 2, 0.5]),
    "a whole float": _row(9, grades=[1, 2, 1.0]),
    "a grade true": _row(9, grades=[1, 2, True]),
    "a grade in quotes": _row(9, grades=[1, 2, "3"]),
    "a grade NaN": _row(9, grades=[1, 2, float("nan")]),
    "grades null": _row(9, grades=None),
    "grades an object": _row(9, grades={"x": 1, "y": 2, "z": 3}),
    "deep nesting": "[" * 100_000,
    "a huge number": '{"prompt": "p", "candidates": ["x", "y"], "grades": [1, ' + "9" * 5000 + "]}",
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_line_that_breaks_the_schema_is_named(tmp_path: Path, name: str) -> None:
    rows = [*(_row(i) for i in range(6)), BAD_LINES[name]]
    with pytest.raises(DataError, match=r"prompts\.jsonl line 7:? .*each line is") as caught:
        load_prompts(_file(tmp_path, rows), SIZES)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_utf8_are_named(tmp_path: Path) -> None:
    path = _file(tmp_path, [_row(i) for i in range(6)])
    path.write_bytes(path.read_bytes() + b'{"prompt": "caf\xe9", "candidates": ["x", "y"]}\n')
    with pytest.raises(DataError, match=r"line 7 is not UTF-8 text; save it as UTF-8"):
        load_prompts(path, SIZES)


# What each line of `BAD_LINES` is told, so that a user need not guess.
TOLD = {
    "no JSON": "is not JSON from character",
    "two values": "is not JSON from character",
    "a list": "the line is a list, not an object",
    "a text": "the line is a text, not an object",
    "no prompt": "prompt is missing",
    "no candidates": "candidates is missing",
    "prompt a number": "prompt is a number, not a text",
    "prompt null": "prompt is null, not a text",
    "prompt empty": "prompt is empty",
    "half a character in the prompt": "prompt holds half of a character",
    "half a character in an id": r"candidates\[1\] holds half of a character",
    "candidates a text": "candidates is a text, not a list",
    "candidates an object": "candidates is an object, not a list",
    "candidates numbers": r"candidates\[0\] is a number, not a text",
    "one candidate": "candidates has 1 of them",
    "a repeated candidate": r"candidates\[2\] repeats candidates\[0\]",
    "an empty candidate": r"candidates\[1\] is empty",
    "prompt and messages": "prompt and messages are both there",
    "messages empty": "messages is empty",
    "messages a text": "messages is a text, not a list",
    "a message without a role": r"messages\[0\] is no object of role and content",
    "a message of parts": r"messages\[0\].content is a list, not a text",
    "a strange role": r"messages\[0\].role is not one of system, user, assistant",
    "an answer last": "the last of messages is not the user's",
    "too few grades": "grades has 2 of them for 3 candidates",
    "a negative grade": r"grades\[2\] is below 0",
    "a fractional grade": r"grades\[2\] is 0.5, not a whole number",
    "a whole float": r"grades\[2\] is 1.0, not a whole number",
    "a grade true": r"grades\[2\] is true, not a whole number",
    "a grade in quotes": r"grades\[2\] is a text, not a whole number",
    "grades null": "grades is null, not a list",
    "deep nesting": "is nested too deeply",
}


@pytest.mark.parametrize("name", TOLD)
def test_a_line_that_breaks_the_schema_is_told_how(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=rf"prompts\.jsonl line 1:? {TOLD[name]}"):
        load_prompts(_file(tmp_path, [BAD_LINES[name]]), SIZES)


def test_one_number_among_the_candidates_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"candidates\[1\] is a number, not a text"):
        load_prompts(_file(tmp_path, [_row(0, candidates=["x", 5, "y"])]), SIZES)


def test_the_mark_that_windows_puts_before_utf8_is_read(tmp_path: Path) -> None:
    path = _file(tmp_path, [_row(i) for i in range(6)])
    splits = load_prompts(path, SIZES)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load_prompts(path, SIZES) == splits
    assert line_of(path, _row(0)["prompt"]) == 1


@pytest.mark.parametrize("name", ["prompts.jsonl.gz", "prompts.jsonl"])
def test_a_packed_file_is_read_as_what_is_in_it(tmp_path: Path, name: str) -> None:
    path = _file(tmp_path, [_row(i) for i in range(6)])
    splits, data = load_prompts(path, SIZES), gzip.compress(b"\xef\xbb\xbf" + path.read_bytes())
    packed = tmp_path / name
    packed.write_bytes(data)
    assert load_prompts(packed, SIZES) == splits
    assert line_of(packed, _row(3)["prompt"]) == 4
    for broken in (data[:40], data[:40] + b"?" + data[41:], data[:3]):
        _one_line(packed, broken)


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf16_is_called_by_its_name(tmp_path: Path, codec: str) -> None:
    path = _file(tmp_path, [_row(i) for i in range(6)])
    path.write_bytes(path.read_text(encoding="utf-8").encode(codec))
    with pytest.raises(DataError, match=r"prompts\.jsonl is UTF-16; save it as UTF-8$"):
        load_prompts(path, SIZES)


def test_a_prompt_is_found_again_by_its_line(tmp_path: Path) -> None:
    path = _file(tmp_path, ["", *(_row(i) for i in range(6)), _row(2)])
    assert [line_of(path, _row(i)["prompt"]) for i in range(6)] == [2, 3, 4, 5, 6, 7]
    assert line_of(path, "another") is None


def _one_line(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        load_prompts(path, SIZES)
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 400
    assert "Error(" not in line
    assert "\\x" not in line


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
_FIELDS = st.sampled_from(["prompt", "candidates", "grades"])
_ROWS = _VALUES | st.dictionaries(_FIELDS, _VALUES, max_size=3)
_IN_TMP_PATH = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@_IN_TMP_PATH
@given(content=st.binary(max_size=60))
def test_any_bytes_are_one_line(tmp_path: Path, content: bytes) -> None:
    _one_line(tmp_path / "p.jsonl", content)


@_IN_TMP_PATH
@given(rows=st.lists(_ROWS, max_size=3), codec=st.sampled_from(["utf-8", "utf-16", "utf-8-sig"]))
def test_any_json_is_one_line(tmp_path: Path, rows: list[Any], codec: str) -> None:
    _one_line(tmp_path / "p.jsonl", "\n".join(map(json.dumps, rows)).encode(codec))
