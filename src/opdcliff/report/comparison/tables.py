"""The tables that `study` writes, read back as printed and as numbers, with a key for each row."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from opdcliff.errors import InadmissibleError
from opdcliff.report.comparison.tolerance import rank_lams
from opdcliff.storage import in_words
from opdcliff.terminal import ARM_KEYS

CELLS, ONSETS, CALIBRATION, REFERENCES = "cells", "onsets", "calibration", "references"
FILES = (f"{CELLS}.csv", f"{ONSETS}.csv", f"{CALIBRATION}.csv", f"{REFERENCES}.json")
# What a row is found by. lambda follows lambda* and is found by its number on the grid of its arm.
KEYS = {
    CELLS: [*ARM_KEYS, "rank", "seed"],
    ONSETS: ARM_KEYS,
    CALIBRATION: ["class", "offsets"],
    REFERENCES: ["model"],
}


@dataclass(frozen=True)
class Tables:
    """The tables of a study as printed (`text`), as numbers (`typed`), and the key of each row."""

    text: dict[str, pd.DataFrame]
    typed: dict[str, pd.DataFrame]
    keys: dict[str, list[tuple[Any, ...]]]


def read_tables(folder: Path, hint: str) -> Tables:
    """The tables that `study` wrote; `hint` says what to do where one is missing.

    Raises:
        InadmissibleError: a table is missing or is none.
    """
    text: dict[str, pd.DataFrame] = {}
    for file in FILES:
        path = folder / file
        try:
            if path.suffix == ".json":
                text[path.stem] = _flat(json.loads(path.read_text(encoding="utf-8")))
            else:
                text[path.stem] = pd.read_csv(path, dtype=str, keep_default_na=False)
        except FileNotFoundError as error:
            raise InadmissibleError(f"{path} is missing: {hint}") from error
        except (OSError, ValueError, AttributeError) as error:
            raise InadmissibleError(
                f"{path} is no table of a study ({in_words(error)}); make it anew"
            ) from error
    try:
        text[ONSETS] = _with_points(text[ONSETS])
        typed = {name: _typed(table) for name, table in text.items()}
        typed[CELLS] = rank_lams(typed[CELLS])
        keys = {
            name: [tuple(row) for row in typed[name][by].to_numpy()] for name, by in KEYS.items()
        }
    except (LookupError, AttributeError, ValueError, TypeError) as error:
        raise InadmissibleError(
            f"{folder} does not hold the tables of a study ({in_words(error)}); make them anew"
        ) from error
    return Tables(text, typed, keys)


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    """Columns of numbers as numbers, true and false as such, the rest as text."""
    typed = table.copy()
    for column in table:
        values = table[column].replace({"": "nan", "NaN": "nan"})
        if set(values) <= {"True", "False"}:
            typed[column] = values == "True"
            continue
        numbers = pd.to_numeric(values, errors="coerce")
        if (numbers.notna() | (values == "nan")).all():
            typed[column] = numbers
    return typed


def _with_points(onsets: pd.DataFrame) -> pd.DataFrame:
    """onsets.csv with a column for the point of each seed."""
    if onsets.empty:
        return onsets
    points = onsets["points"].str.split(expand=True).fillna("")
    names = {name: f"point {number}" for number, name in enumerate(points, 1)}
    return onsets.drop(columns="points").join(points.rename(columns=names))


def _flat(references: dict[str, dict[str, Any]]) -> pd.DataFrame:
    rows = [{"model": m} | {k: str(v) for k, v in found.items()} for m, found in references.items()]
    return pd.DataFrame(rows).fillna("")
