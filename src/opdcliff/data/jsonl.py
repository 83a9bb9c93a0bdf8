"""Prompts of one's own: a JSONL file with one ranking problem per line.

Schema of a line: {"prompt": text, "candidates": [distinct ids], "grades": [whole numbers >= 0]};
grades may be left out (all zero then, and NDCG is 1 by definition), which is enough for
calibration.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from opdcliff.data.example import Example, Splits
from opdcliff.data.mini import SplitSizes
from opdcliff.errors import DataError
from opdcliff.storage import digest


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
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
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


def _example(line: bytes, where: str) -> Example:
    try:
        row: Any = json.loads(line.decode("utf-8"))
        prompt, candidates = row["prompt"], row["candidates"]
        grades = row.get("grades", [0] * len(candidates))
        # An escape can spell half a character, which no tokenizer takes.
        "".join([prompt, *candidates]).encode("utf-8")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{where}: {error!r}; {_SCHEMA}") from error
    valid = (
        prompt != ""
        and isinstance(candidates, list)
        and isinstance(grades, list)
        and len(grades) == len(candidates) == len(set(candidates)) >= 2
        # A bool is an int to Python, and no grade.
        and all(type(grade) is int and grade >= 0 for grade in grades)
    )
    if not valid:
        raise DataError(f"{where}: wrong types or lengths; {_SCHEMA}")
    # By prompt alone, so that no two splits share one.
    return Example(prompt, tuple(candidates), tuple(grades), digest(prompt, "prompt"))


_SCHEMA = (
    'each line is {"prompt": text, "candidates": [2 or more distinct ids], '
    '"grades": [whole numbers >= 0]}'
)
