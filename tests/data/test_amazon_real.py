"""The loader on the real rows in the folder that AMAZON_FASHION_DIR names (see conftest.py).

The numbers are facts about a public sample of 5,000 reviews, counted once by a separate script.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from opdcliff.data.amazon.files import REVIEWS_NAME, ReadProgress, verify_full_set
from opdcliff.data.amazon.loading import load_amazon
from opdcliff.data.amazon.report import LoadReport
from opdcliff.data.amazon.rows import RowLog, meta_rows
from opdcliff.data.amazon.shares import SplitPlan
from opdcliff.data.example import Splits
from opdcliff.data.splits_file import write_splits
from opdcliff.errors import DataError

pytestmark = pytest.mark.real_rows


def _folder() -> Path:
    return Path(os.environ["AMAZON_FASHION_DIR"])


@pytest.fixture(scope="module")
def loaded() -> tuple[Splits, LoadReport]:
    return load_amazon(_folder(), candidates=8, seed=0, sizes=SplitPlan())


def test_counts(loaded: tuple[Splits, LoadReport]) -> None:
    _, report = loaded
    assert report.rows == 5000
    assert report.meta_rows == 4128
    assert report.users == 1873
    assert report.repeated_pairs == 153
    assert report.interactions == 4315
    assert report.rejected == {
        "reviews: user-item pair repeated": 259,
        "reviews: item without a title": 426,
        "users: fewer than 3 titled items": 1873 - 673,
        "users: positive's title repeats one in the history": 5,
    }
    assert report.lists == 668
    assert report.grade_source == "stars (stand-in)"


def test_lists(loaded: tuple[Splits, LoadReport]) -> None:
    splits, _ = loaded
    examples = [*splits.train, *splits.calibration, *splits.test]
    assert len({example.key for example in examples}) == len(examples) == 668
    for example in examples:
        lines = example.prompt.splitlines()
        titles = [line for line in lines if line[1:3] == ": "]
        assert len({title[3:] for title in titles}) == len(example.candidates) == 8
        assert sum(grade > 0 for grade in example.grades) == 1
        assert len(example.prompt.split()) <= 3 * 9 + 8 * 9 + 5
        example.prompt.encode()


def test_the_lists_of_the_committed_study_are_those_that_it_was_made_from(tmp_path: Path) -> None:
    """Its settings are those of data=amazon_fashion; the digests are of before rows were kept."""
    sizes = SplitPlan(380, 80, 120, (380 / 580, 80 / 580, 120 / 580))
    options: dict[str, Any] = {"candidates": 8, "seed": 0, "sizes": sizes, "max_history": 1}
    for words, expected in ((3, "7c119a71fdc22d32"), (12, "22d5787a9b7b48aa")):
        splits, _ = load_amazon(_folder(), max_title_words=words, **options)
        assert write_splits(tmp_path, splits)[:16] == expected


def test_users_at_each_filter(loaded: tuple[Splits, LoadReport]) -> None:
    _, report = loaded
    assert [(row["filter"], row["reviews"], row["users"]) for row in report.filters] == [
        ("rows read", 5000, None),
        ("user, item and time", 5000, None),
        ("a rating", 5000, 1873),
        ("first of its pair", 4741, 1873),
        ("item with a title", 4315, 1811),
        ("3 such items", 2537, 673),
        ("list tried", None, 673),
        ("list built", None, 668),
    ]


def test_popular_negatives_come_from_the_bin_of_the_positive(
    loaded: tuple[Splits, LoadReport],
) -> None:
    splits, report = load_amazon(
        _folder(), candidates=8, seed=0, sizes=SplitPlan(), negatives="popularity"
    )
    assert [len(part) for part in (splits.train, splits.calibration, splits.test)] == [
        *loaded[1].splits.values()
    ]
    assert report.widened == 2
    assert {e.key for e in splits.train} == {e.key for e in loaded[0].train}
    assert splits.train != loaded[0].train


def test_two_loads_agree(loaded: tuple[Splits, LoadReport]) -> None:
    assert load_amazon(_folder(), candidates=8, seed=0, sizes=SplitPlan()) == loaded


def test_the_fourteen_field_meta_rows_are_all_read() -> None:
    log = RowLog("meta")
    rows = list(meta_rows(_folder() / "meta_full_schema_sample.jsonl", log, ReadProgress(0, None)))
    assert (len(rows), log.rows, log.rejected) == (200, 200, {})


def test_reviews_are_told_from_meta(tmp_path: Path) -> None:
    (tmp_path / REVIEWS_NAME).symlink_to(_folder() / "meta_Amazon_Fashion.jsonl")
    (tmp_path / "meta_Amazon_Fashion.jsonl").symlink_to(_folder() / REVIEWS_NAME)
    with pytest.raises(DataError, match=r"none of the first 1000 rows.*user_id missing"):
        load_amazon(tmp_path, candidates=8, seed=0, sizes=SplitPlan())


def test_the_sample_is_not_the_full_set() -> None:
    problems = verify_full_set(_folder())
    assert [problem.split(", ")[-1] for problem in problems] == [
        "the full set has 1051324731",
        "the full set has 1422365805",
    ]
