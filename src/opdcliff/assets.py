"""Prepared inputs shared by the cells of a study: prompts, models, calibration.

Each asset is a folder named by the hash of everything that shaped it. It is built aside and
renamed into place, so a folder that exists is whole; a second call finds it and builds nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from opdcliff.canonical import digest, write_json_atomic
from opdcliff.data.example import Example, Splits
from opdcliff.errors import RecordError
from opdcliff.paths import StudyPaths

MANIFEST = "asset.json"
SPLITS = "splits.jsonl"


def ensure(
    paths: StudyPaths,
    kind: str,
    key: Mapping[str, Any],
    build: Callable[[Path], dict[str, Any]],
) -> Path:
    """The folder of an asset, built if it is not there yet.

    build: fills an empty folder and returns facts about the asset for its manifest.
    Two processes that want the same asset build it once: the second waits.
    """
    identity = digest(dict(key), f"asset-{kind}")
    folder = paths.assets_dir(kind, identity)
    if (folder / MANIFEST).exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_name(f"{folder.name}.lock")):
        if (folder / MANIFEST).exists():
            return folder
        aside = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        facts = build(aside)
        write_json_atomic(
            aside / MANIFEST, {"kind": kind, "identity": identity, "key": key, "facts": facts}
        )
        os.rename(aside, folder)
    return folder


def manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished asset: kind, identity, key, facts.

    Raises:
        RecordError: it cannot be read.
    """
    try:
        content: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise RecordError(
            f"{folder / MANIFEST} cannot be read ({error}); delete the folder to build it anew"
        ) from error
    return content


def write_splits(folder: Path, splits: Splits) -> str:
    """Write examples as JSON lines; returns the digest of their content."""
    rows = [
        {"split": name, **asdict(example)}
        for name in ("train", "calibration", "test")
        for example in getattr(splits, name)
    ]
    lines = [json.dumps(row, ensure_ascii=True) + "\n" for row in rows]
    (folder / SPLITS).write_text("".join(lines))
    return digest(rows, "examples")


def read_splits(folder: Path) -> Splits:
    """Read what `write_splits` wrote."""
    parts: dict[str, list[Example]] = {"train": [], "calibration": [], "test": []}
    with (folder / SPLITS).open() as lines:
        for line in lines:
            row = json.loads(line)
            parts[row["split"]].append(
                Example(row["prompt"], tuple(row["candidates"]), tuple(row["grades"]), row["key"])
            )
    return Splits(parts["train"], parts["calibration"], parts["test"])


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
