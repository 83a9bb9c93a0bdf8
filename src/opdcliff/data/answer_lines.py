"""Prompts of one's own with their answers, to fine-tune on: a JSONL file with one of them per line.

Schema of a line: {"prompt": text, "answer": text} or {"messages": [{"role": text, "content": text},
...], "answer": text}. The answer is what the model shall write behind the prompt, or as the next
turn of the conversation, without the end token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opdcliff.data.jsonl import read_json, read_lines, text_problem
from opdcliff.errors import DataError
from opdcliff.storage import canonical_json, kind_of


@dataclass(frozen=True)
class AnswerLine:
    """A prompt (text, or messages of a conversation) with its answer.

    number: of its line in the file, from 1; two lines that say the same are equal.
    """

    prompt: str | tuple[Mapping[str, str], ...]
    answer: str
    number: int = field(compare=False)

    @property
    def key(self) -> str:
        """The same for all lines with that prompt."""
        return canonical_json(self.prompt)


def load_answers(file: Path) -> list[AnswerLine]:
    """The lines in their order; one that repeats another counts once.

    A prompt may have several answers.

    Raises:
        DataError: no such file, no line, or a line that breaks the schema; the error names it.
    """
    if not file.is_file():
        raise DataError(f"{file} is no file; give a JSONL file of prompts and answers as data.path")
    found: dict[tuple[str, str], AnswerLine] = {}
    for number, line in read_lines(file):
        where = f"{file} line {number}"
        row = read_json(line, where, _SCHEMA)
        problem = _problem(row)
        if problem is not None:
            raise DataError(f"{where}: {problem}; {_SCHEMA}")
        prompt = row["prompt"] if "prompt" in row else tuple(row["messages"])
        read = AnswerLine(prompt, row["answer"], number)
        found.setdefault((read.key, read.answer), read)
    if not found:
        raise DataError(f"{file} has no line; {_SCHEMA}")
    return list(found.values())


def _problem(row: Any) -> str | None:
    """The first way in which a line breaks the schema, or None."""
    if not isinstance(row, dict):
        return f"the line is {kind_of(row)}, not an object"
    given = [name for name in ("prompt", "messages") if name in row]
    if len(given) != 1:
        return "it has both prompt and messages" if given else "prompt is missing"
    if "answer" not in row:
        return "answer is missing"
    (name,) = given
    own = _empty_or_no_text if name == "prompt" else _messages_problem
    return own(name, row[name]) or _empty_or_no_text("answer", row["answer"])


def _empty_or_no_text(name: str, value: object) -> str | None:
    return text_problem(name, value) or (None if value else f"{name} is empty")


def _messages_problem(name: str, messages: object) -> str | None:
    if not isinstance(messages, list):
        return f"{name} is {kind_of(messages)}, not a list"
    if not messages:
        return f"{name} is empty"
    for i, message in enumerate(messages):
        if not isinstance(message, dict) or set(message) != {"role", "content"}:
            return f"{name}[{i}] is no object of role and content"
        for part in ("role", "content"):
            problem = text_problem(f"{name}[{i}].{part}", message[part])
            if problem is not None:
                return problem
    if messages[-1]["role"] == "assistant":
        return f"{name} ends with a turn of the assistant, which belongs into answer"
    return None


_SCHEMA = (
    'each line is {"prompt": text, "answer": text} or {"messages": [{"role": text, "content": '
    'text}, ...], "answer": text}'
)
