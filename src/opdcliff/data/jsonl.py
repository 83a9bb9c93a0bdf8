"""Prompts of one's own: a JSONL file with one ranking problem per line.

Schema of a line: {"prompt": text, "candidates": [ids], "grades": [whole numbers >= 0]}; grades
may be left out (all zero then, and NDCG is 1 by definition), which is enough for calibration.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from opdcliff.canonical import digest
from opdcliff.data.example import Example, Splits
from opdcliff.data.mini import SplitSizes
from opdcliff.errors import DataError


def load_prompts(file: Path, sizes: SplitSizes) -> Splits:
    """Splits in the order of the prompts' hashes, whatever the order of the lines.

    Raises:
        DataError: no such file, a line that breaks the schema, or too few prompts.
    """
    if not file.is_file():
        raise DataError(f"{file} is no file; give a JSONL file of prompts as data.path")
    with file.open(encoding="utf-8") as lines:
        examples = [
            _example(line, f"{file} line {number}")
            for number, line in enumerate(lines, start=1)
            if line.strip()
        ]
    wanted = (sizes.train, sizes.calibration, sizes.test)
    distinct = sorted({example.key: example for example in examples}.values(), key=lambda e: e.key)
    if len(distinct) < sum(wanted):
        raise DataError(
            f"{file} has {len(distinct)} distinct prompts and data.train + calibration + test is "
            f"{sum(wanted)}; lower them or add prompts"
        )
    first, second = wanted[0], wanted[0] + wanted[1]
    return Splits(distinct[:first], distinct[first:second], distinct[second : sum(wanted)])


def _example(line: str, where: str) -> Example:
    try:
        row: Any = json.loads(line)
        prompt, candidates = row["prompt"], row["candidates"]
        grades = row.get("grades", [0] * len(candidates))
        valid = (
            isinstance(prompt, str)
            and all(isinstance(item, str) for item in candidates)
            and all(isinstance(grade, int) and grade >= 0 for grade in grades)
            and len(grades) == len(candidates) >= 2
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{where}: {error!r}; {_SCHEMA}") from error
    if not valid:
        raise DataError(f"{where}: wrong types or lengths; {_SCHEMA}")
    key = digest([prompt, list(candidates)], "prompt")
    return Example(prompt, tuple(candidates), tuple(grades), key)


_SCHEMA = 'each line is {"prompt": text, "candidates": [2 or more ids], "grades": [numbers >= 0]}'
