"""Prompts of one's own: a JSONL file with one problem per line.

Of a ranking: {"prompt": text, "candidates": [distinct ids], "grades": [whole numbers >= 0]};
grades may be left out (all zero then, and NDCG is 1 by definition), which is enough for
calibration. Of another contract: {"prompt": text}, and where no setting gives one for all lines,
what the contract is made of, under its name: {"prompt": text, "schema": {...}}. Instead of a prompt
there may be "messages": [{"role": text, "content": text}, ...], which a chat template puts
together; the last one is the user's.
"""

from __future__ import annotations

import codecs
import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from opdcliff.contract import Contract
from opdcliff.data.example import Example, Splits
from opdcliff.data.mini import SplitSizes
from opdcliff.errors import DataError
from opdcliff.storage import digest, foreign_encoding, in_words, kind_of


def load_prompts(file: Path, sizes: SplitSizes, contract: Contract, form: str = "") -> Splits:
    """Splits in the order of the prompts' hashes, whatever the order of the lines.

    A line that repeats another one counts once. form: of all lines (`read_form`); empty where each
    has its own, or needs none.

    Raises:
        DataError: no such file, a line that breaks the schema, a prompt with two different
            contents, or too few prompts.
    """
    if not file.is_file():
        raise DataError(f"{file} is no file; give a JSONL file of prompts as data.path")
    found: dict[str, Example] = {}
    for number, line in read_lines(file):
        where = f"{file} line {number}"
        example = _example(line, where, contract, form)
        if found.setdefault(example.key, example) != example:
            raise DataError(
                f"{where}: an earlier line has this prompt with "
                f"{_OTHERS if contract.ranks else f'another {contract.form_key}'}; keep one of them"
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
        DataError: the file cannot be read, or a line is no JSON.
    """
    for number, line in read_lines(file):
        row = read_json(line, f"{file} line {number}", _PROMPT)
        if isinstance(row, dict) and not prompt_problem(row) and read_prompt(row)[0] == prompt:
            return number
    return None


def read_lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, with their numbers from 1; a mark of UTF-8 is taken off.

    A file that gzip has packed, whatever its name, is unpacked.

    Raises:
        DataError: the file cannot be read, or is of another encoding than UTF-8.
    """
    try:
        with file.open("rb") as packed:
            is_gzip = packed.read(2) == _GZIP
        with gzip.open(file) if is_gzip else file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if number == 1:
                    if foreign := foreign_encoding(line[:4]):
                        raise DataError(f"{file} {foreign}")
                    line = line.removeprefix(codecs.BOM_UTF8)  # noqa: PLW2901
                if line.strip():
                    yield number, line
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"cannot read {file}: {in_words(error)}; give a file that can be read"
        ) from error


def read_json(line: bytes, where: str, schema: str) -> Any:
    """What a line says; `where` names it and `schema` says what it should be, for the error."""
    try:
        return json.loads(line.decode("utf-8"))
    except json.JSONDecodeError as error:
        # The line of the file is in `where`.
        raise DataError(f"{where} is not JSON from character {error.colno} on; {schema}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} {in_words(error)}; {schema}") from error


def text_problem(name: str, value: object) -> str | None:
    """Why a value is no text that a tokenizer takes, or None."""
    if not isinstance(value, str):
        return f"{name} is {kind_of(value)}, not a text"
    try:
        # An escape can spell half a character, which no tokenizer takes.
        value.encode("utf-8")
    except UnicodeEncodeError:
        return f"{name} holds half of a character (a lone surrogate)"
    return None


def _example(line: bytes, where: str, contract: Contract, form: str) -> Example:
    schema = _RANKING if contract.ranks else _shape_of(contract, form)
    row = read_json(line, where, schema)
    problem = _line_problem(row) or (_ranking_problem(row) if contract.ranks else None)
    if problem is not None:
        raise DataError(f"{where}: {problem}; {schema}")
    prompt, messages = read_prompt(row)
    # By prompt alone, so that no two splits share one.
    key = digest(messages or prompt, "prompt")
    if contract.ranks:
        candidates = row["candidates"]
        grades = row.get("grades", [0] * len(candidates))
        return Example(prompt, tuple(candidates), tuple(grades), key, messages)
    own = _form(row, where, contract, form)
    return Example(prompt, (), (), key, messages, own)


def _form(row: dict[str, Any], where: str, contract: Contract, given: str) -> str:
    """What the contract is made of for a line: its own, or that of all lines."""
    name = contract.form_key
    if name is None or name not in row:
        if not given:
            raise DataError(f"{where}: {name} is missing; {_shape_of(contract, given)}")
        return given
    if given:
        raise DataError(
            f"{where}: {name} is there, and data.form gives one for all lines; leave one out"
        )
    if isinstance(row[name], str) and (problem := text_problem(name, row[name])):
        raise DataError(f"{where}: {problem}; mend it")
    try:
        return contract.read_form(row[name])
    except DataError as error:
        raise DataError(f"{where}: {name} {error}") from error


def _shape_of(contract: Contract, form: str) -> str:
    """What a line of another contract than a ranking is."""
    if form:
        return _PROMPT
    return (
        f'each line is {{"prompt": text (or "messages": [...]), "{contract.form_key}": ...}}, or '
        "data.form gives one for all lines"
    )


def transcript(messages: Sequence[tuple[str, str]]) -> str:
    """Messages as one text, for lists and errors; a model reads them through its template."""
    return "\n".join(f"{role}: {content}" for role, content in messages)


def read_prompt(row: dict[str, Any]) -> tuple[str, tuple[tuple[str, str], ...]]:
    """`Example.prompt` and `.messages` of a line that has no `prompt_problem`."""
    messages = tuple((m["role"], m["content"]) for m in row.get("messages", ()))
    return row.get("prompt") or transcript(messages), messages


def prompt_problem(row: dict[str, Any]) -> str | None:
    """What is wrong with the prompt or the messages of a line, or None."""
    if "messages" not in row:
        if "prompt" not in row:
            return "prompt is missing"
        return text_problem("prompt", row["prompt"]) or (
            None if row["prompt"] else "prompt is empty"
        )
    messages = row["messages"]
    if "prompt" in row:
        return "prompt and messages are both there; give one of them"
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


def _line_problem(row: Any) -> str | None:
    """The first way in which a line is no prompt, or None."""
    if not isinstance(row, dict):
        return f"the line is {kind_of(row)}, not an object"
    return prompt_problem(row)


def _ranking_problem(row: dict[str, Any]) -> str | None:
    """The first way in which a line is no ranking problem, or None."""
    if "candidates" not in row:
        return "candidates is missing"
    candidates = row["candidates"]
    if not isinstance(candidates, list):
        return f"candidates is {kind_of(candidates)}, not a list"
    texts = (text_problem(f"candidates[{i}]", c) for i, c in enumerate(candidates))
    return (
        next(filter(None, texts), None)
        or _candidates_problem(candidates)
        or _grades_problem(row.get("grades", [0] * len(candidates)), len(candidates))
    )


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


# How every such file begins.
_GZIP = b"\x1f\x8b"
# What a chat template may be given; tools and pictures are not supported.
ROLES = ("system", "user", "assistant")
_OTHERS = "other candidates or grades"
_PROMPT = 'each line is {"prompt": text (or "messages": [...])}'
_RANKING = (
    'each line is {"prompt": text (or "messages": [...]), "candidates": [2 or more distinct ids], '
    '"grades": [whole numbers >= 0]}'
)
