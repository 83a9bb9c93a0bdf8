"""Answers of one's own: both kinds of line, repeats, and one clear line for each that is wrong."""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Any

import pytest

from opdcliff.data.answer_lines import load_answers
from opdcliff.errors import DataError

GOOD = {"prompt": "p", "answer": "a"}
CHAT = {"messages": [{"role": "user", "content": "p"}], "answer": "a"}


def write(file: Path, *rows: Any) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_prompts_and_messages_are_read_in_their_order(tmp_path: Path) -> None:
    prompt, chat = load_answers(write(tmp_path / "a.jsonl", GOOD, CHAT))
    assert (prompt.prompt, prompt.answer, prompt.number) == ("p", "a", 1)
    assert chat.messages == (("user", "p"),)
    assert chat.number == 2
    # A conversation is not the text that it holds.
    assert prompt.key != chat.key


def test_a_mark_carriage_returns_and_blank_lines_change_nothing(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    text = f"\n{json.dumps(GOOD)}\r\n  \r\n{json.dumps(GOOD | {'answer': 'b'})}"
    file.write_bytes(codecs.BOM_UTF8 + text.encode())
    assert [(line.answer, line.number) for line in load_answers(file)] == [("a", 2), ("b", 4)]


def test_a_line_that_repeats_another_counts_once(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", GOOD, CHAT, GOOD, GOOD | {"answer": "b"}, CHAT)
    lines = load_answers(file)
    assert [line.number for line in lines] == [1, 2, 4]
    assert lines[0].key == lines[2].key


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ([], "the line is a list, not an object"),
        ({"answer": "a"}, "prompt is missing"),
        ({"prompt": "p"}, "answer is missing"),
        (GOOD | CHAT, "prompt and messages are both there"),
        (GOOD | {"prompt": 3}, "prompt is a number, not a text"),
        (GOOD | {"prompt": ""}, "prompt is empty"),
        (GOOD | {"answer": ""}, "answer is empty"),
        (GOOD | {"answer": None}, "answer is null, not a text"),
        (GOOD | {"answer": "\ud800"}, "answer holds half of a character"),
        (CHAT | {"messages": {}}, "messages is an object, not a list"),
        (CHAT | {"messages": []}, "messages is empty"),
        (CHAT | {"messages": ["hi"]}, r"messages\[0\] is no object of role and content"),
        (CHAT | {"messages": [{"role": "user"}]}, r"messages\[0\] is no object of role"),
        (CHAT | {"messages": [{"role": 1, "content": "x"}]}, r"messages\[0\]\.role is a number"),
        (
            CHAT | {"messages": [{"role": "assistant", "content": "x"}]},
            "the last of messages is not the user",
        ),
    ],
)
def test_a_line_that_breaks_the_schema_is_named(row: Any, text: str, tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", GOOD, row)
    with pytest.raises(DataError, match=f"a.jsonl line 2: .*{text}.*each line is"):
        load_answers(file)


def test_what_is_no_file_of_lines_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    with pytest.raises(DataError, match="is no file; give a JSONL file of prompts and answers"):
        load_answers(file)
    file.write_text("\n \n")
    with pytest.raises(DataError, match="has no line"):
        load_answers(file)
    file.write_text('{"prompt": "p"\n')
    with pytest.raises(DataError, match="line 1 is not JSON from character"):
        load_answers(file)
    file.write_text(json.dumps(GOOD), encoding="utf-16")
    with pytest.raises(DataError, match="is UTF-16; save it as UTF-8"):
        load_answers(file)
