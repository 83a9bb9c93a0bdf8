"""Prompts of one's own with their answers, to fine-tune on: a JSONL file with one of them per line.

Schema of a line: {"prompt": text, "answer": text} or {"messages": [{"role": text, "content": text},
...], "answer": text}. The answer is what the model shall write behind the prompt, or as the next
turn of the conversation, without the end token.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opdcliff.data.example import Example
from opdcliff.data.jsonl import prompt_problem, read_json, read_lines, read_prompt, text_problem
from opdcliff.errors import DataError
from opdcliff.storage import canonical_json, kind_of


@dataclass(frozen=True)
class AnswerLine:
    """A prompt with its answer.

    prompt, messages: as of `Example`. number: of its line in the file, from 1; two lines that say
    the same are equal.
    """

    prompt: str
    answer: str
    number: int = field(compare=False)
    messages: tuple[tuple[str, str], ...] = ()

    @property
    def key(self) -> str:
        """The same for all lines with that prompt."""
        return canonical_json(self.messages or self.prompt)

    def as_example(self) -> Example:
        """The prompt as a problem without candidates."""
        return Example(self.prompt, (), (), self.key, self.messages)


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
        prompt, messages = read_prompt(row)
        read = AnswerLine(prompt, row["answer"], number, messages)
        found.setdefault((read.key, read.answer), read)
    if not found:
        raise DataError(f"{file} has no line; {_SCHEMA}")
    return list(found.values())


def _problem(row: Any) -> str | None:
    """The first way in which a line breaks the schema, or None."""
    if not isinstance(row, dict):
        return f"the line is {kind_of(row)}, not an object"
    if problem := prompt_problem(row):
        return problem
    if "answer" not in row:
        return "answer is missing"
    return text_problem("answer", row["answer"]) or (None if row["answer"] else "answer is empty")


_SCHEMA = (
    'each line is {"prompt": text, "answer": text} or {"messages": [{"role": text, "content": '
    'text}, ...], "answer": text}'
)
