"""The lists that a judge grades are those that a run will read, in the same order."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest

from amazon_world import Row, encode, meta, review, world, write
from opdcliff.data.amazon.lists import user_key
from opdcliff.data.amazon.loading import load_amazon
from opdcliff.data.amazon.negatives import POPULARITY, UNIFORM
from opdcliff.data.amazon.report import SPLITS
from opdcliff.data.amazon.shares import SplitPlan
from opdcliff.data.amazon.user_lists import UserLists, load_user_lists, read_grades
from opdcliff.errors import DataError

THIRDS = SplitPlan(fractions=(0.4, 0.3, 0.3))


def lists_of(folder: Path, negatives: str = UNIFORM, **changes: int) -> UserLists:
    settings = {"candidates": 4, "min_items": 3, "max_history": 3, "max_title_words": 8}
    shown = {"shown_history": 2, "shown_words": 20}
    own = settings | shown | changes
    return load_user_lists(folder, seed=1, sizes=THIRDS, negatives=negatives, **own)


def graded(lists: UserLists, grade_of: dict[str, int]) -> list[Row]:
    return [
        {"user_id": each.user, "parent_asin": item, "grade": grade_of.get(item, 0)}
        for split in SPLITS
        for each in lists.of(split)
        for item in each.items
    ]


@pytest.mark.parametrize("negatives", [UNIFORM, POPULARITY])
def test_a_rubric_over_the_lists_names_every_candidate_of_a_run(
    tmp_path: Path, negatives: str
) -> None:
    folder = write(tmp_path, *world())
    grade_of = {f"I{i:03d}": 1 + i % 4 for i in range(60)}
    rubric = tmp_path / "rubric.jsonl"
    rubric.write_bytes(encode(graded(lists_of(folder, negatives), grade_of)))
    splits, report = load_amazon(
        folder, candidates=4, seed=1, sizes=THIRDS, rubric=rubric, negatives=negatives
    )
    assert report.unnamed == 0
    for split in SPLITS:
        drawn = list(lists_of(folder, negatives).of(split))
        examples = getattr(splits, split)
        assert [example.key for example in examples] == [user_key(each.user) for each in drawn]
        for example, each in zip(examples, drawn, strict=True):
            assert example.grades == tuple(grade_of[item] for item in each.items)


def test_candidates_that_a_rubric_does_not_name_are_counted(tmp_path: Path) -> None:
    """Those of a rubric that was made for lists of other settings would be zeros without a word."""
    folder = write(tmp_path, *world())
    rubric = tmp_path / "rubric.jsonl"
    rubric.write_bytes(encode(graded(lists_of(folder), {f"I{i:03d}": 3 for i in range(60)})))
    _, report = load_amazon(folder, candidates=8, seed=1, sizes=THIRDS, rubric=rubric)
    assert report.lists == 40
    assert 40 < report.unnamed <= 40 * 7
    assert any("does not name" in line and str(report.unnamed) in line for line in report.lines())


def test_a_judge_sees_longer_titles_and_the_stars_of_what_was_bought_before(tmp_path: Path) -> None:
    reviews, metas = world()
    title = "a " * 15 + "z"
    reviews += [review("ME", f"M{n}", n, stars) for n, stars in enumerate((5, 2, 4, 1))]
    metas += [meta(f"M{n}", f"{n} {title}") for n in range(4)]
    folder = write(tmp_path, reviews, metas)
    (mine,) = [e for s in SPLITS for e in lists_of(folder).of(s) if e.user == "ME"]
    assert mine.history == ((f"1 {title}", 2), (f"2 {title}", 4))
    assert (mine.positive, mine.stars) == ("M3", 1)
    assert mine.titles[mine.items.index("M3")] == f"3 {title}"
    (cut,) = [e for s in SPLITS for e in lists_of(folder, shown_words=2).of(s) if e.user == "ME"]
    assert cut.items == mine.items
    assert cut.history[0][0] == "1 a"


def test_lists_are_drawn_one_by_one(tmp_path: Path) -> None:
    lists = lists_of(write(tmp_path, *world()))
    first = list(islice(lists.of("train"), 2))
    assert first == list(lists.of("train"))[:2]


def test_grades_are_read_by_pair_and_the_lower_counts(tmp_path: Path) -> None:
    file = tmp_path / "rubric.jsonl"
    row = {"user_id": "u", "parent_asin": "i", "grade": 3}
    file.write_text("\n".join(json.dumps(row | {"grade": grade}) for grade in (3, 1, 2, 9)) + "\n")
    assert read_grades(file) == {("u", "i"): 1}
    with pytest.raises(DataError, match="does not exist"):
        read_grades(tmp_path / "none.jsonl")
