"""The Amazon loader on small files with every trap inside; all rows and titles are made up."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest

from amazon_world import Row, encode, meta, review, world, write
from opdcliff.data.amazon import files
from opdcliff.data.amazon.files import META_NAME, REVIEWS_NAME, verify_full_set
from opdcliff.data.amazon.lists import (
    MAX_TITLE_CHARS,
    ListShape,
    NoListError,
    as_example,
    draw_list,
    render_prompt,
    shorten,
    split_position,
)
from opdcliff.data.amazon.loading import load_amazon
from opdcliff.data.amazon.negatives import UniformPool
from opdcliff.data.amazon.report import LoadReport
from opdcliff.data.amazon.rows import MAX_LINE_BYTES
from opdcliff.data.amazon.shares import SplitPlan
from opdcliff.data.example import Example, Splits
from opdcliff.errors import ConfigError, DataError

# Users are few in these tests: equal shares keep every split filled.
THIRDS = SplitPlan(fractions=(0.4, 0.3, 0.3))


def load(folder: Path, **changes: Any) -> tuple[Splits, LoadReport]:
    settings: dict[str, Any] = {"candidates": 4, "seed": 1, "sizes": THIRDS} | changes
    return load_amazon(folder, **settings)


def everyone(splits: Splits) -> list[Example]:
    return [*splits.train, *splits.calibration, *splits.test]


def shown(example: Example) -> tuple[list[str], list[str]]:
    lines = example.prompt.splitlines()
    history = [line[2:] for line in lines if line.startswith("- ")]
    return history, [line[3:] for line in lines if line[1:3] == ": "]


def build_list(
    user: str,
    items: list[str],
    titles: dict[str, str],
    pool: list[str],
    grade: Callable[[str], int],
    *,
    seed: int,
    shape: ListShape,
) -> Example:
    return as_example(draw_list(user, items, titles, pool, seed=seed, shape=shape), titles, grade)


def of(splits: Splits, user: str) -> Example:
    key = "amazon_fashion:" + hashlib.sha256(user.encode()).hexdigest()[:16]
    return next(example for example in everyone(splits) if example.key == key)


def only_user(report: LoadReport, kind: str) -> dict[str, int]:
    return {key: n for key, n in report.rejected.items() if key.startswith(kind)}


# What one list holds


def test_last_item_is_the_positive_and_history_is_in_time_order(tmp_path: Path) -> None:
    reviews, metas = world()
    # "mid" and "nid" share a time: the item id decides, whatever the order of rows.
    mine = [
        ("last", 50, 3.0),
        ("nid", 20, 5.0),
        ("first", 10, 5.0),
        ("mid", 20, 5.0),
        ("e", 5, 1.0),
    ]
    reviews += [review("ME", item, time, stars) for item, time, stars in mine]
    metas += [meta(item, f"thing {item}") for item, _, _ in mine]
    splits, _ = load(write(tmp_path, reviews, metas))
    example = of(splits, "ME")
    history, titles = shown(example)
    assert history == ["thing first", "thing mid", "thing nid"]
    assert [titles[i] for i, grade in enumerate(example.grades) if grade] == ["thing last"]
    assert sorted(example.grades) == [0, 0, 0, 2]


def test_prompt_text() -> None:
    assert render_prompt(["old hat", "red shoe"], ["x", "y: z"], ("A", "B")) == (
        "Bought:\n- old hat\n- red shoe\nCandidates:\nA: x\nB: y: z\nRank as JSON:\n"
    )


@pytest.mark.parametrize(
    ("stars", "grade"), [(1.0, 1), (2, 1), (2.5, 2), (3.0, 2), (4.0, 3), (4.4, 3), (5.0, 4)]
)
def test_star_grades(tmp_path: Path, stars: float, grade: int) -> None:
    reviews, metas = world()
    reviews += [review("ME", f"I{i:03d}", 9000 + i, stars) for i in range(3)]
    splits, report = load(write(tmp_path, reviews, metas))
    assert sorted(of(splits, "ME").grades) == [0, 0, 0, grade]
    assert report.grade_source == "stars (stand-in)"
    assert "stars (stand-in)" in report.lines()[0]


def test_negatives_are_never_the_users_and_never_repeat(tmp_path: Path) -> None:
    reviews, metas = world(users=60)
    # Twin titles: ten other items show the title of an item half of the users have.
    metas += [meta(f"T{i}", "plain gadget I000") for i in range(10)]
    reviews += [review(f"TWIN{i}", f"T{(i + j) % 10}", j) for i in range(10) for j in range(3)]
    splits, _ = load(write(tmp_path, reviews, metas), candidates=8, max_history=6)
    owned: dict[str, set[str]] = {}
    for row in reviews:
        assert isinstance(row, dict)
        item = str(row["parent_asin"])
        title = "plain gadget I000" if item.startswith("T") else f"plain gadget {item}"
        owned.setdefault(str(row["user_id"]), set()).add(title)
    for user, titles in owned.items():
        if user.startswith("TWIN"):
            continue
        example = of(splits, user)
        listed = shown(example)[1]
        assert len(set(listed)) == 8
        assert len(set(listed) & titles) == 1
        assert example.candidates == tuple("ABCDEFGH")


def test_every_other_item_can_be_a_negative_and_every_place_the_positives() -> None:
    titles = {f"i{n}": f"t{n}" for n in range(12)}
    shape = ListShape(candidates=4, min_items=2, max_history=1, max_title_words=8)
    negatives: Counter[str] = Counter()
    places: Counter[int] = Counter()
    for n in range(2000):
        example = build_list(
            f"user {n}",
            ["i0", "i1"],
            titles,
            UniformPool(sorted(titles)),
            lambda item: int(item == "i1"),
            seed=0,
            shape=shape,
        )
        places[example.grades.index(1)] += 1
        negatives.update(title for title in shown(example)[1] if title != "t1")
    # 2000 * 3 / 10 = 600 each and 500 per place; 5 standard deviations are about 105 and 97.
    assert set(negatives) == {f"t{n}" for n in range(2, 12)}
    assert all(abs(count - 600) < 105 for count in negatives.values())
    assert all(abs(places[place] - 500) < 97 for place in range(4))


def test_a_pool_of_just_enough_items_is_used_up() -> None:
    titles = {f"i{n}": f"t{n}" for n in range(9)}
    shape = ListShape(candidates=8, min_items=2, max_history=1, max_title_words=8)
    for n in range(50):
        pool = sorted(titles)
        example = build_list(
            f"user {n}", ["i0", "i1"], titles, UniformPool(pool), lambda _: 1, seed=0, shape=shape
        )
        assert sorted(shown(example)[1]) == [f"t{n}" for n in range(1, 9)]


def test_titles_are_cleaned_and_cut(tmp_path: Path) -> None:
    reviews, metas = world()
    strange = {
        "A1": ("Quoted \"best\" 'one' \\ slash", "Quoted \"best\" 'one' \\ slash"),
        "A2": ("two\tlines\r\nof\u00a0text\u2028here\x00\ud800!", "two lines of text here !"),
        "A3": (
            "Gr\u00f6\u00dfe \u8863\u670d \U0001f457",
            "Gr\u00f6\u00dfe \u8863\u670d \U0001f457",
        ),
        "A4": ("w " * 158 + "w", "w w w w w w w w"),
    }
    reviews += [review("ME", item, i) for i, item in enumerate([*strange, "I000"])]
    metas += [meta(item, title) for item, (title, _) in strange.items()]
    splits, report = load(write(tmp_path, reviews, metas), max_history=9)
    example = of(splits, "ME")
    assert shown(example)[0] == [expected for _, expected in strange.values()]
    example.prompt.encode()
    assert only_user(report, "meta") == {}


def test_shorten_bounds_words_and_characters() -> None:
    assert shorten("a b c d", 2) == "a b"
    assert shorten("a b", 2) == "a b"
    assert shorten("x" * 317, 8) == "x" * MAX_TITLE_CHARS
    assert shorten("x" * (MAX_TITLE_CHARS - 1) + " tail", 8) == "x" * (MAX_TITLE_CHARS - 1)


def test_no_item_leaves_no_list() -> None:
    titles = {"a": "hat", "b": "shoe", "c": "hat", "d": "sock", "e": "sock", "f": "tie"}
    shape = ListShape(candidates=3, min_items=2, max_history=1, max_title_words=8)

    def build(items: list[str], pool: list[str], grade: int = 1) -> Example:
        return build_list(
            "u", items, titles, UniformPool(pool), lambda _: grade, seed=0, shape=shape
        )

    with pytest.raises(NoListError, match="repeats one in the history"):
        build(["a", "c"], list(titles))
    assert build(["a", "b", "c"], list(titles)).candidates == ("A", "B", "C")
    with pytest.raises(NoListError, match="too few other items"):
        build(["a", "b"], ["a", "c", "d", "e"])
    with pytest.raises(NoListError, match="no candidate graded above 0"):
        build(["a", "b"], list(titles), grade=0)


# Determinism and splits


def test_gzip_and_the_hubs_folders_give_the_same_result(tmp_path: Path) -> None:
    reviews, metas = world()
    plain = load(write(tmp_path / "plain", reviews, metas))
    assert load(write(tmp_path / "gz", reviews, metas, packed=True)) == plain
    hub = write(tmp_path / "flat", reviews, metas)
    for name, place in ((REVIEWS_NAME, "review_categories"), (META_NAME, "meta_categories")):
        (tmp_path / "hub/raw" / place).mkdir(parents=True)
        (hub / name).rename(tmp_path / "hub/raw" / place / name)
    assert load(tmp_path / "hub") == plain


@pytest.mark.parametrize("order", range(3))
def test_row_order_does_not_matter(tmp_path: Path, order: int) -> None:
    reviews, metas = world()
    # Pairs that repeat at one time with other stars, and an item with two titles.
    reviews += [review("U000", "I001", 7, 1.0), review("U000", "I001", 7, 5.0)]
    metas += [meta("I001", "another name")]
    expected = load(write(tmp_path / "a", reviews, metas))
    random.Random(order).shuffle(reviews)
    random.Random(order).shuffle(metas)
    assert load(write(tmp_path / "b", reviews, metas)) == expected


def test_result_does_not_depend_on_string_hashing(tmp_path: Path) -> None:
    folder = write(tmp_path, *world())
    code = (
        "import sys; from pathlib import Path\n"
        "from opdcliff.data.amazon.loading import load_amazon\n"
        "from opdcliff.data.amazon.shares import SplitPlan\n"
        "sizes = SplitPlan(fractions=(0.4, 0.3, 0.3))\n"
        "print(load_amazon(Path(sys.argv[1]), candidates=4, seed=1, sizes=sizes))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code, str(folder)],
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert outputs == {f"{load(folder)}\n"}


def test_the_seed_changes_splits_negatives_and_order(tmp_path: Path) -> None:
    folder = write(tmp_path, *world())
    one, two = (load(folder, seed=seed)[0] for seed in (1, 2))
    assert {e.key for e in one.train} != {e.key for e in two.train}
    assert [of(one, f"U{u:03d}").grades for u in range(40)] != [
        of(two, f"U{u:03d}").grades for u in range(40)
    ]


def test_splits_are_disjoint_and_stable_under_more_rows(tmp_path: Path) -> None:
    few, _ = load(write(tmp_path / "few", *world(users=40)))
    many, report = load(write(tmp_path / "many", *world(users=400)))
    for splits in (few, many):
        keys = [example.key for example in everyone(splits)]
        assert len(set(keys)) == len(keys)
    for name in ("train", "calibration", "test"):
        inside = {example.key for example in getattr(many, name)}
        assert {example.key for example in getattr(few, name)} <= inside
    # 400 users: 160, 120, 120 expected; 5 standard deviations are below 50.
    assert all(
        abs(report.splits[name] - share) < 50
        for name, share in (("train", 160), ("calibration", 120), ("test", 120))
    )
    assert report.splits == {
        "train": len(many.train),
        "calibration": len(many.calibration),
        "test": len(many.test),
    }


def test_sizes_take_the_first_of_each_split(tmp_path: Path) -> None:
    folder = write(tmp_path, *world())
    whole, report = load(folder)
    sizes = SplitPlan(train=5, calibration=2, test=None, fractions=THIRDS.fractions)
    part, cut = load(folder, sizes=sizes)
    assert part.train == whole.train[:5]
    assert part.calibration == whole.calibration[:2]
    assert part.test == whole.test
    beyond = len(whole.train) + len(whole.calibration) - 7
    assert cut.rejected == {"users: beyond the size of their split": beyond}
    assert report.rejected == {}


def test_split_position_is_uniform_and_below_one() -> None:
    positions = [split_position(3, f"u{n}") for n in range(4000)]
    assert 0 <= min(positions) < 0.01
    assert 0.99 < max(positions) < 1
    assert abs(sum(positions) / 4000 - 0.5) < 0.025


# Bad rows


def test_every_reason_is_counted_exactly(tmp_path: Path) -> None:
    reviews, metas = world()
    good = review("BAD", "I000", 1)
    bad_reviews: list[tuple[str, Row]] = [
        ("blank line", ""),
        ("blank line", " \t "),
        ("not JSON", '{"user_id": "U'),
        ("not JSON", "[" * 100_000),
        ("not JSON", '{"timestamp": ' + "9" * 5000 + "}"),
        ("not UTF-8", b'{"user_id": "\xff"}'),
        ("not an object", "[1, 2]"),
        ("not an object", '"text"'),
        ("line too long", good | {"text": "x" * MAX_LINE_BYTES}),
        ("line too long", good | {"text": "x" * (2 * MAX_LINE_BYTES + 10)}),
        ("user_id missing", good | {"user_id": None}),
        ("user_id missing", {k: v for k, v in good.items() if k != "user_id"}),
        ("user_id not usable", good | {"user_id": 7}),
        ("user_id not usable", good | {"user_id": ""}),
        ("user_id not usable", good | {"user_id": " "}),
        ("user_id not usable", good | {"user_id": "a\ud800"}),
        ("parent_asin missing", {k: v for k, v in good.items() if k != "parent_asin"}),
        ("parent_asin not usable", good | {"parent_asin": ["I000"]}),
        ("timestamp missing", good | {"timestamp": None}),
        ("timestamp not usable", good | {"timestamp": "1500000000000"}),
        ("timestamp not usable", good | {"timestamp": 1.5}),
        ("timestamp not usable", good | {"timestamp": True}),
        ("timestamp not usable", good | {"timestamp": -1}),
        ("rating missing", good | {"rating": None}),
        ("rating not usable", good | {"rating": "5.0"}),
        ("rating not usable", good | {"rating": True}),
        ("rating not usable", good | {"rating": 0.0}),
        ("rating not usable", good | {"rating": 5.5}),
        ("rating not usable", good | {"rating": float("nan")}),
    ]
    bad_metas: list[tuple[str, Row]] = [
        ("blank line", ""),
        ("not JSON", "{'title': 'single'}"),
        ("parent_asin missing", {"title": "orphan"}),
        ("parent_asin not usable", meta("", "nobody")),
        ("title missing", meta("M1", None)),
        ("title missing", {"parent_asin": "M2"}),
        ("title missing", meta("M3", " \n ")),
        ("title missing", meta("M4", "\x00\x1f")),
        ("title not usable", meta("M5", 12.5)),
        ("title not usable", meta("M6", ["a", "b"])),
        ("item repeated", meta("I000", "plain gadget I000")),
        ("item repeated", meta("UNUSED", "second")),
    ]
    fine = [
        meta("UNUSED", "first"),
        meta("P1", "priced", price=9.99),
        meta("P2", "priced", price="None"),
        meta("P3", "priced", price={"odd": True}) | {"details": "free text"},
    ]
    # A user whose rows lose one item to a repeat and one to a missing title keeps two.
    lost = [review("LOST", item, t) for t, item in enumerate(["I000", "I001", "I001", "M1"])]
    lost += [review("LOST", "NOMETA", 9)]
    mixed = [*reviews, *lost, *(row for _, row in bad_reviews)]
    random.Random(5).shuffle(mixed)
    folder = write(tmp_path, mixed, [*fine, *metas, *(row for _, row in bad_metas)])
    marked = (folder / REVIEWS_NAME).read_bytes()
    (folder / REVIEWS_NAME).write_bytes(b"\xef\xbb\xbf" + marked.replace(b"\n", b"\r\n"))

    splits, report = load(folder)
    expected = Counter(f"reviews: {reason}" for reason, _ in bad_reviews)
    expected += Counter(f"meta: {reason}" for reason, _ in bad_metas)
    expected["reviews: user-item pair repeated"] = 1
    expected["reviews: item without a title"] = 2
    expected["users: fewer than 3 titled items"] = 1
    assert report.rejected == expected
    assert report.repeated_pairs == 1
    assert report.rows == len(mixed)
    assert report.meta_rows == len(fine) + len(metas) + len(bad_metas)
    assert report.users == 41
    assert report.lists == len(everyone(splits)) == 40
    assert report.interactions == len(reviews) + 2
    assert report.rows == report.interactions + sum(only_user(report, "reviews:").values())
    assert report.users == report.lists + sum(only_user(report, "users:").values())
    # The bad rows changed nothing but the counts.
    assert splits == load(write(tmp_path / "clean", reviews, metas))[0]


def test_of_a_repeated_pair_the_first_review_counts(tmp_path: Path) -> None:
    reviews, metas = world()
    rows = [
        ("I000", 1, 5.0),
        ("I001", 2, 5.0),
        ("I002", 3, 2.0),
        ("I002", 8, 5.0),
        ("I000", 9, 4.0),
        ("I000", 9, 4.0),
    ]
    reviews += [review("ME", item, time, stars) for item, time, stars in rows]
    splits, report = load(write(tmp_path, reviews, metas))
    history, titles = shown(of(splits, "ME"))
    assert history == ["plain gadget I000", "plain gadget I001"]
    assert "plain gadget I002" in titles
    assert max(of(splits, "ME").grades) == 1
    assert report.repeated_pairs == 2
    assert report.rejected == {"reviews: user-item pair repeated": 3}


def test_copying_from_the_history_is_no_list(tmp_path: Path) -> None:
    reviews, metas = world()
    reviews += [review("ME", item, i) for i, item in enumerate(["I000", "I001", "SAME"])]
    splits, report = load(write(tmp_path, reviews, [*metas, meta("SAME", "plain  gadget I001")]))
    assert report.rejected == {"users: positive's title repeats one in the history": 1}
    assert report.lists == len(everyone(splits)) == 40


# Rubric grades


def last_items(reviews: Iterable[Row]) -> dict[str, str]:
    # world() writes a user's rows in time order.
    return {
        str(row["user_id"]): str(row["parent_asin"]) for row in reviews if isinstance(row, dict)
    }


def test_rubric_grades(tmp_path: Path) -> None:
    reviews, metas = world()
    folder = write(tmp_path, reviews, metas)
    last = last_items(reviews)
    everything: list[Row] = [
        {"user_id": user, "parent_asin": f"I{i:03d}", "grade": i % 4 + (last[user] == f"I{i:03d}")}
        for user in last
        for i in range(60)
    ]
    path = tmp_path / "rubric.jsonl"
    path.write_bytes(encode(everything))
    splits, report = load(folder, rubric=path, candidates=8)
    stars, _ = load(folder, candidates=8)
    assert report.grade_source == "rubric"
    assert "stars" not in "".join(report.lines())
    assert report.rubric_rows == 40 * 60
    for user, item in last.items():
        example = of(splits, user)
        titles = shown(example)[1]
        assert example.prompt == of(stars, user).prompt
        assert example.grades == tuple(
            int(title[-2:]) % 4 + (title.endswith(item)) for title in titles
        )


def test_a_rubric_with_holes_and_bad_rows(tmp_path: Path) -> None:
    reviews, metas = world()
    folder = write(tmp_path, reviews, metas)
    last = last_items(reviews)
    _ungraded, worthless, *graded = last
    pair = {"user_id": graded[0], "parent_asin": last[graded[0]]}
    bad: list[tuple[str, Row]] = [
        ("grade missing", pair),
        ("grade not usable", pair | {"grade": 5}),
        ("grade not usable", pair | {"grade": -1}),
        ("grade not usable", pair | {"grade": 2.0}),
        ("grade not usable", pair | {"grade": True}),
        ("grade not usable", pair | {"grade": "3"}),
        ("user_id missing", {"parent_asin": "I000", "grade": 1}),
        ("blank line", ""),
        ("user-item pair repeated", pair | {"grade": 1}),
        ("user-item pair repeated", pair | {"grade": 2}),
        ("user has too few items", {"user_id": "NOBODY", "parent_asin": "I000", "grade": 3}),
    ]
    rows: list[Row] = [{"user_id": u, "parent_asin": last[u], "grade": 3} for u in graded]
    rows += [{"user_id": worthless, "parent_asin": last[worthless], "grade": 0}]
    path = tmp_path / "rubric.jsonl"
    path.write_bytes(encode([*rows, *(row for _, row in bad)]))
    splits, report = load(folder, rubric=path)
    expected = Counter(f"rubric: {reason}" for reason, _ in bad)
    expected["users: positive not in the rubric"] = 1
    expected["users: no candidate graded above 0"] = 1
    assert report.rejected == expected
    assert report.lists == 38
    # Of a pair graded more than once the lower grade counts; unknown negatives are 0.
    assert sorted(of(splits, graded[0]).grades) == [0, 0, 0, 1]
    assert sorted(of(splits, graded[1]).grades) == [0, 0, 0, 3]


# Report and progress


def test_report_as_dict_and_lines(tmp_path: Path) -> None:
    _, report = load(write(tmp_path, *world()))
    assert json.loads(json.dumps(report.as_dict())) == report.as_dict()
    assert report.as_dict()["users"] == 40
    lines = report.lines()
    assert any(line.split() == ["lists", "built", "40"] for line in lines)
    assert len({len(line) for line in lines[1:]}) == 1
    with pytest.raises(FrozenInstanceError):
        report.rows = 1  # type: ignore[misc]


@pytest.mark.parametrize("packed", [False, True])
def test_progress_rises_to_the_total(tmp_path: Path, packed: bool) -> None:
    folder = write(tmp_path, *world(users=1500), packed=packed)
    calls: list[tuple[int, int]] = []
    load(folder, progress=lambda done, total: calls.append((done, total)))
    sizes = {path.name.split(".")[0]: path.stat().st_size for path in folder.iterdir()}
    total = sizes["Amazon_Fashion"] + sizes["meta_Amazon_Fashion"]
    assert {total for _, total in calls} == {total}
    done = [done for done, _ in calls]
    assert done == sorted(done)
    assert done[-1] == total
    assert len(done) > 8


# Errors: one line each


def fails(folder: Path, *words: str, **changes: Any) -> None:
    with pytest.raises(DataError) as caught:
        load(folder, **changes)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_missing_folder_and_files(tmp_path: Path) -> None:
    fails(tmp_path / "none", str(tmp_path / "none"), REVIEWS_NAME, META_NAME, ".gz")
    fails(
        tmp_path,
        REVIEWS_NAME,
        f"{REVIEWS_NAME}.gz",
        f"raw/review_categories/{REVIEWS_NAME}",
        f"raw/review_categories/{REVIEWS_NAME}.gz",
    )
    write(tmp_path, *world())
    (tmp_path / META_NAME).unlink()
    (tmp_path / META_NAME).mkdir()
    fails(tmp_path, f"{META_NAME} is not in", f"raw/meta_categories/{META_NAME}.gz")
    write(tmp_path / "r", *world())
    fails(tmp_path / "r", "no.jsonl does not exist", rubric=tmp_path / "no.jsonl")


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-le"])
def test_a_rubric_in_utf16_is_called_by_its_name(tmp_path: Path, codec: str) -> None:
    rubric = tmp_path / "rubric.jsonl"
    line = json.dumps({"user_id": "U1", "parent_asin": "A1", "grade": 3}) + "\n"
    rubric.write_bytes((line * 20).encode(codec))
    fails(write(tmp_path / "r", *world()), f"{rubric} is UTF-16; save it as UTF-8", rubric=rubric)


def test_wrong_schema(tmp_path: Path) -> None:
    reviews, metas = world()
    named: list[Row] = [{"reviewerID": f"U{i}", "overall": 5.0} for i in range(1000)]
    fails(
        write(tmp_path / "a", [*named, *reviews], metas),
        "none of the first 1000 rows",
        "reviews: user_id missing",
        "user_id, parent_asin, timestamp",
    )
    assert load(write(tmp_path / "b", [*named[:999], *reviews], metas))[1].lists == 40
    assert load(write(tmp_path / "c", [*reviews, *named, *named], metas))[1].lists == 40
    fails(write(tmp_path / "d", metas, reviews), "none of the first 60 rows", "user_id missing")
    fails(
        write(tmp_path / "e", reviews, [{"asin": "I000"}]),
        "none of the first 1 rows",
        "meta: parent_asin missing",
    )
    fails(write(tmp_path / "f", [], metas), f"{REVIEWS_NAME} is empty")
    (tmp_path / "b" / "rubric.jsonl").write_bytes(encode([{"score": 3}]))
    fails(tmp_path / "b", "rubric: user_id missing", rubric=tmp_path / "b" / "rubric.jsonl")


def test_damaged_gzip(tmp_path: Path) -> None:
    folder = write(tmp_path, *world(), packed=True)
    packed = folder / f"{REVIEWS_NAME}.gz"
    whole = packed.read_bytes()
    packed.write_bytes(whole[: len(whole) // 2])
    fails(folder, f"{packed} is damaged")
    packed.write_bytes(b"plain text, not gzip\n")
    fails(folder, f"{packed} is damaged")
    packed.write_bytes(whole[:200] + bytes(50) + whole[250:])
    fails(folder, f"{packed} is damaged")


def test_nothing_to_build(tmp_path: Path) -> None:
    reviews, metas = world()
    fails(
        write(tmp_path / "a", reviews, [meta("X", "y")]), "none of 40 users has 3", "have no title"
    )
    fails(tmp_path / "a", "none of 40 users has 7", min_items=7)
    fails(write(tmp_path / "b", reviews[:3], metas), "too few other items for negatives (1)")


def test_too_few_lists_in_a_split(tmp_path: Path) -> None:
    folder = write(tmp_path, *world())
    sizes = SplitPlan(test=30, fractions=THIRDS.fractions)
    have = load(folder)[1].splits["test"]
    fails(folder, f"split test has {have} lists, 30 asked", sizes=sizes)
    sizes = SplitPlan(fractions=(0.999998, 0.000001, 0.000001))
    fails(folder, "split calibration has 0 lists, 1 asked", sizes=sizes)


@pytest.mark.parametrize(
    "changes",
    [
        {"candidates": 1},
        {"candidates": 27},
        {"min_items": 1},
        {"max_history": 0},
        {"max_title_words": 0},
    ],
)
def test_settings_out_of_range(tmp_path: Path, changes: dict[str, int]) -> None:
    (name, value), *_ = changes.items()
    with pytest.raises(ConfigError, match=f"^{name}={value}: set a number"):
        load(tmp_path, **changes)


@pytest.mark.parametrize(
    "fractions", [(0.5, 0.5, 0.1), (1.0, 0.0, 0.0), (1.2, -0.1, -0.1), (0.2, 0.2, 0.2)]
)
def test_fractions_out_of_range(fractions: tuple[float, float, float]) -> None:
    with pytest.raises(ConfigError, match="sum to 1"):
        SplitPlan(fractions=fractions)


def test_sizes_out_of_range() -> None:
    with pytest.raises(ConfigError, match="calibration=0"):
        SplitPlan(calibration=0)


def test_verify_full_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "p", *world())
    write(tmp_path / "z", *world(), packed=True)
    sums = {
        name: (len(data), hashlib.sha256(data).hexdigest())
        for name in (REVIEWS_NAME, META_NAME)
        for data in [(folder / name).read_bytes()]
    }
    (published,) = [problem for problem in verify_full_set(folder) if META_NAME in problem]
    assert published.endswith("the full set has 1422365805")
    monkeypatch.setattr(files, "FULL_SET", sums)
    assert verify_full_set(folder) == verify_full_set(tmp_path / "z") == []
    changed = (folder / META_NAME).read_bytes().replace(b"plain", b"plane", 1)
    (folder / META_NAME).write_bytes(changed)
    (problem,) = verify_full_set(folder)
    assert "sha256" in problem
    assert sums[META_NAME][1] in problem
