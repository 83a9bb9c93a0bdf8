"""The rubric file of a judge, with a manifest beside it that says what it is and that it is whole.

The manifest, which holds the digest of the file, is written before it, and the file appears at
once: a file without a manifest of its settings is not one of ours, and is never written over.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from opdcliff.data import UserList
from opdcliff.errors import DataError
from opdcliff.grading.agreement import Grades
from opdcliff.grading.cost import Prices, Tokens
from opdcliff.grading.rounds import Rounds
from opdcliff.grading.rubric import RUBRIC
from opdcliff.settings import RunConfig
from opdcliff.storage import (
    code_state,
    encode_floats,
    package_version,
    write_bytes_atomic,
    write_json_atomic,
)

FORMAT = 1
_JUDGE_SETTINGS = (
    *("base_url", "model", "temperature", "answer_format", "answer_tokens", "extra"),
    *("candidates", "history", "title_words", "seed"),
)
# What decides which lists there are.
_LIST_SETTINGS = (
    *("name", "candidates", "train", "calibration", "test", "min_items", "max_history"),
    *("max_title_words", "negatives", "seed"),
)


def manifest_path(rubric: Path) -> Path:
    """Where the manifest of a rubric file lies."""
    return rubric.with_name(f"{rubric.stem}.manifest.json")


def refuse_foreign(rubric: Path, identity: str) -> None:
    """Refuse to write over a file that these settings did not write.

    Raises:
        DataError: there is one.
    """
    if rubric.exists() and read_manifest(rubric).get("identity") != identity:
        raise DataError(
            f"{rubric} is there and is not of these lists, this judge and these settings; set "
            "grade.out=FILE to another one, or move it away"
        )


def read_manifest(rubric: Path) -> dict[str, Any]:
    """The manifest of a rubric file; empty where there is none that can be read."""
    try:
        found = json.loads(manifest_path(rubric).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_rubric(
    rubric: Path, lists: Sequence[UserList], grades: Grades, manifest: Mapping[str, Any]
) -> None:
    """Write manifest and file: a line for each candidate of each list that is graded whole.

    Raises:
        RecordError: the disk refuses.
    """
    rows = (
        {"user_id": one.user, "parent_asin": item, "grade": grades[one.user, item]}
        for one in lists
        if (one.user, one.items[0]) in grades
        for item in one.items
    )
    data = "".join(json.dumps(row, ensure_ascii=True) + "\n" for row in rows).encode("ascii")
    sealed = {**manifest, "format": FORMAT, "sha256": hashlib.sha256(data).hexdigest()}
    write_json_atomic(manifest_path(rubric), encode_floats(sealed))
    if not rubric.is_file() or rubric.read_bytes() != data:
        write_bytes_atomic(rubric, data)


def add_to_manifest(rubric: Path, more: Mapping[str, Any]) -> None:
    """Put what is reckoned from the grades into the manifest."""
    write_json_atomic(manifest_path(rubric), encode_floats({**read_manifest(rubric), **more}))


def manifest_of(config: RunConfig, rounds: Rounds, grades: Grades, again: Grades) -> dict[str, Any]:
    """What a rubric file is of: judge, rubric, lists, replies by reason, tokens and cost."""
    settings, replies = config.grade, rounds.replies()
    spent, gaps = rounds.spent(), rounds.ungraded()
    prices = Prices(settings.price_in, settings.price_out)
    lost = Tokens(sum(e.lost_in for e in replies), sum(e.lost_out for e in replies))
    return {
        "judge": {name: getattr(settings, name) for name in _JUDGE_SETTINGS},
        "rubric": {
            "own": rounds.rubric != RUBRIC,
            "sha256": hashlib.sha256(rounds.rubric.encode()).hexdigest(),
        },
        "data": {name: getattr(config.data, name) for name in _LIST_SETTINGS},
        "lists": {
            "graded": len(rounds.all_lists()) - len(gaps),
            "ungraded": len(gaps),
            "ungraded_requests_by_reason": dict(rounds.reasons(gaps)),
            "per_split": {split: len(chosen) for split, chosen in rounds.chosen.items()},
            "graded_again": len({user for user, _ in again}),
        },
        "grades": {str(grade): n for grade, n in sorted(Counter(grades.values()).items())},
        "requests": {
            "answered_or_given_up": len(replies),
            "by_reason": dict(Counter(e.reason or "graded" for e in replies)),
            "without_a_token_count": sum(e.assumed for e in replies),
        },
        "tokens": asdict(spent),
        "tokens_of_lost_answers_at_most": asdict(lost),
        "prices_of_a_million": {"in": settings.price_in, "out": settings.price_out},
        "cost": prices.cost(spent),
        "code": {"version": package_version(), "commit": code_state()[0]},
    }
