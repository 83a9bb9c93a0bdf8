"""Prompts on disk: one JSON line per example, with the split it belongs to; titles beside them."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from opdcliff.data.example import Example, Splits
from opdcliff.errors import RecordError
from opdcliff.storage import digest, in_words, write_json_atomic, write_text_atomic

SPLITS_FILE = "splits.jsonl"
# Only where reasons are titles.
TITLES_FILE = "titles.json"


def write_splits(folder: Path, splits: Splits) -> str:
    """Write examples as JSON lines; returns the digest of their content."""
    rows = [
        {"split": name, **_row(example)}
        for name in ("train", "calibration", "test")
        for example in getattr(splits, name)
    ]
    lines = [json.dumps(row, ensure_ascii=True) + "\n" for row in rows]
    write_text_atomic(folder / SPLITS_FILE, "".join(lines))
    if not splits.titles:
        return digest(rows, "examples")
    write_json_atomic(folder / TITLES_FILE, list(splits.titles))
    return digest([*rows, {"titles": list(splits.titles)}], "examples")


def read_splits(folder: Path) -> Splits:
    """Read what `write_splits` wrote.

    Raises:
        RecordError: it cannot be read.
    """
    parts: dict[str, list[Example]] = {"train": [], "calibration": [], "test": []}
    try:
        with (folder / SPLITS_FILE).open() as lines:
            for line in lines:
                row = json.loads(line)
                candidates, grades = tuple(row["candidates"]), tuple(row["grades"])
                messages = tuple((role, content) for role, content in row.get("messages", ()))
                parts[row["split"]].append(
                    Example(
                        row["prompt"],
                        candidates,
                        grades,
                        row["key"],
                        messages,
                        # Most files have one for all of their prompts.
                        sys.intern(row.get("form", "")),
                    )
                )
        file = folder / TITLES_FILE
        titles = json.loads(file.read_text()) if file.exists() else []
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise RecordError(
            f"{folder / SPLITS_FILE} cannot be read ({in_words(error)}); delete its folder to "
            "build it anew"
        ) from error
    return Splits(parts["train"], parts["calibration"], parts["test"], tuple(titles))


def _row(example: Example) -> dict[str, object]:
    row = asdict(example)
    # Most prompts have none, and digests from before there were any are to stay.
    for name in ("messages", "form"):
        if not row[name]:
            del row[name]
    return row
