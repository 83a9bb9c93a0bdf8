"""Prompts of one's own: a JSONL file with one ranking problem per line.

Schema of a line: {"prompt": text, "candidates": [distinct ids], "grades": [whole numbers >= 0]};
grades may be left out (all zero then, and NDCG is 1 by definition), which is enough for
calibration. Instead of a prompt there may be "messages": [{"role": text, "content": text}, ...],
which a chat template puts together; the last one is the user's.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from opdcliff.data.example import Example, Splits
from opdcliff.data.mini import SplitSizes
from opdcliff.errors import DataError
from opdcliff.storage import digest, foreign_encoding, in_words, kind_of


def load_prompts(file: Path, sizes: SplitSizes) -> Splits:
    """Splits in the order of the prompts' hashes, whatever the order of the lines.

    A line that repeats another one counts once.

    Raises:
        DataError: no such file, a line that breaks the schema, a prompt with two different
            contents, or too few prompts.
    """
    if not file.is_file():
        raise DataError(f"{file} is no file; give a JSONL file of prompts as data.path")
    found: dict[str, Example] = {}
    for number, line in numbered_lines(file):
        where = f"{file} line {number}"
        example = _example(line, where)
        if found.setdefault(example.key, example) != example:
            raise DataError(
                f"{where}: an earlier line has this prompt with other candidates or "
                "grades; keep one of them"
            )
    wanted = (sizes.train, sizes.calibration, sizes.test)
    distinct = sorted(found.values(), key=lambda e: e.key)
    if len(distinct) < sum(wanted):
        raise DataError(
            f"{file} has {len(distinct)} distinct prompts and data.train + calibration + test is "
            f"{sum(wanted)}; lower them or add prompts"
        )
    first, second = wanted[0], wanted[0] + wanted[1]
    return Splits(distinct[:first], distinct[first:second], distinct[second : sum(wanted)])


def line_of(file: Path, prompt: str) -> int | None:
    """The number of the first line with that prompt, from 1; None where there is none any more.

    Raises:
        DataError: see `load_prompts`.
    """
    for number, line in numbered_lines(file):
        if _example(line, f"{file} line {number}").prompt == prompt:
            return number
    return None


def numbered_lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, with their numbers from 1; a mark of UTF-8 is taken off."""
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if number == 1:
                    if foreign := foreign_encoding(line[:4]):
                        raise DataError(f"{file} {foreign}")
                    line = line.removeprefix(codecs.BOM_UTF8)  # noqa: PLW2901
                if line.strip():
                    yield number, line
    except OSError as error:
        raise DataError(
            f"cannot read {file}: {in_words(error)}; give a file that can be read"
        ) from error


def _example(line: bytes, where: str) -> Example:
    try:
        row: Any = json.loads(line.decode("utf-8"))
    except json.JSONDecodeError as error:
        # The line of the file is in `where`.
        raise DataError(
            f"{where} is not JSON from character {error.colno} on; {_SCHEMA}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} {in_words(error)}; {_SCHEMA}") from error
    problem = _problem(row)
    if problem is not None:
        raise DataError(f"{where}: {problem}; {_SCHEMA}")
    messages = tuple((m["role"], m["content"]) for m in row.get("messages", ()))
    prompt, candidates = row.get("prompt") or transcript(messages), row["candidates"]
    grades = row.get("grades", [0] * len(candidates))
    # By prompt alone, so that no two splits share one.
    key = digest(messages or prompt, "prompt")
    return Example(prompt, tuple(candidates), tuple(grades), key, messages)


def transcript(messages: Sequence[tuple[str, str]]) -> str:
    """Messages as one text, for lists and errors; a model reads them through its template."""
    return "\n".join(f"{role}: {content}" for role, content in messages)


def _problem(row: Any) -> str | None:
    """The first way in which a line breaks the schema, or None."""
    if not isinstance(row, dict):
        return f"the line is {kind_of(row)}, not an object"
    if "prompt" in row and "messages" in row:
        return "prompt and messages are both there; give one of them"
    for name in ("candidates", *(() if "messages" in row else ("prompt",))):
        if name not in row:
            return f"{name} is missing"
    candidates = row["candidates"]
    if not isinstance(candidates, list):
        return f"candidates is {kind_of(candidates)}, not a list"
    texts = {f"candidates[{i}]": c for i, c in enumerate(candidates)}
    if "prompt" in row:
        texts = {"prompt": row["prompt"]} | texts
    return (
        messages_problem(row.get("messages"))
        or next(filter(None, (text_problem(name, value) for name, value in texts.items())), None)
        or ("prompt is empty" if row.get("prompt") == "" else None)
        or _candidates_problem(candidates)
        or _grades_problem(row.get("grades", [0] * len(candidates)), len(candidates))
    )


def messages_problem(messages: object) -> str | None:
    """The first way in which messages break the schema, or None; there may be none at all."""
    if messages is None:
        return None
    if not isinstance(messages, list):
        return f"messages is {kind_of(messages)}, not a list"
    if not messages:
        return "messages is empty"
    for i, message in enumerate(messages):
        if not isinstance(message, dict) or message.keys() != {"role", "content"}:
            return f"messages[{i}] is no object of role and content"
        for name, value in message.items():
            if problem := text_problem(f"messages[{i}].{name}", value):
                return problem
        if message["role"] not in ROLES:
            return f"messages[{i}].role is not one of {', '.join(ROLES)}"
    if messages[-1]["role"] != "user":
        return "the last of messages is not the user's, whom the answer is for"
    return None


def text_problem(name: str, value: object) -> str | None:
    """What keeps a value from being a text, or None."""
    if not isinstance(value, str):
        return f"{name} is {kind_of(value)}, not a text"
    try:
        # An escape can spell half a character, which no tokenizer takes.
        value.encode("utf-8")
    except UnicodeEncodeError:
        return f"{name} holds half of a character (a lone surrogate)"
    return None


def _candidates_problem(candidates: list[str]) -> str | None:
    if len(candidates) < 2:
        return f"candidates has {len(candidates)} of them"
    first: dict[str, int] = {}
    for i, candidate in enumerate(candidates):
        if not candidate:
            return f"candidates[{i}] is empty"
        if first.setdefault(candidate, i) != i:
            return f"candidates[{i}] repeats candidates[{first[candidate]}]"
    return None


def _grades_problem(grades: object, count: int) -> str | None:
    if not isinstance(grades, list):
        return f"grades is {kind_of(grades)}, not a list"
    if len(grades) != count:
        return f"grades has {len(grades)} of them for {count} candidates"
    for i, grade in enumerate(grades):
        # A bool is an int to Python, and no grade; a fraction is short, a whole number may not be.
        if isinstance(grade, float):
            return f"grades[{i}] is {grade}, not a whole number"
        if type(grade) is not int:
            return f"grades[{i}] is {kind_of(grade)}, not a whole number"
        if grade < 0:
            return f"grades[{i}] is below 0"
    return None


# What a chat template may be given; tools and pictures are not supported.
ROLES = ("system", "user", "assistant")
_SCHEMA = (
    'each line is {"prompt": text (or "messages": [...]), "candidates": [2 or more distinct ids], '
    '"grades": [whole numbers >= 0]}'
)
