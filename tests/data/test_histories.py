"""Leave-last-out and negatives on any rows, beside slow and obvious versions of both."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from amazon_world import meta, review, world, write
from opdcliff.data.amazon.files import ReadProgress
from opdcliff.data.amazon.histories import Histories, join
from opdcliff.data.amazon.kept import RawPair
from opdcliff.data.amazon.lists import ListShape, as_example, draw_list
from opdcliff.data.amazon.loading import load_amazon
from opdcliff.data.amazon.negatives import PopularPool, UniformPool, popularity_bin
from opdcliff.data.amazon.shares import SplitPlan
from opdcliff.errors import ConfigError

MIN_ITEMS = 2
NO_METER = ReadProgress(0, None)


class Bought(NamedTuple):
    user: str
    item: str
    time: int
    stars: int


# Few of each, so that pairs repeat, times tie and items lack titles.
rows = st.lists(
    st.builds(
        Bought,
        st.sampled_from("abcd"),
        st.sampled_from(["i", "j", "k", "l", "\u00e9", "m", "n"]),
        st.integers(0, 4),
        st.integers(1, 5),
    ),
    min_size=1,
    max_size=40,
)
titled = st.dictionaries(
    st.sampled_from(["i", "j", "k", "l", "\u00e9", "m", "x"]),
    st.lists(st.sampled_from(["hat", "old hat", "hat, old", "shoe"]), min_size=1, max_size=2),
    min_size=1,
)


TIED = [
    *(Bought("a", "j", 1, 1), Bought("a", "i", 1, 5), Bought("a", "i", 1, 2)),
    *(Bought("a", "i", 1, 3), Bought("b", "l", 0, 3), Bought("b", "m", 0, 3)),
    *(Bought("c", "k", 3, 3), Bought("c", "l", 2, 3), Bought("a", "k", 0, 1)),
]


def histories(folder: Path, bought: Sequence[Bought], titles: dict[str, list[str]]) -> Histories:
    reviews = [review(*row) for row in bought]
    metas = [meta(item, title) for item, own in titles.items() for title in own]
    pair = RawPair.of(write(folder, reviews, metas), None)
    columns = pair.reviews.columns(NO_METER), pair.meta.columns(NO_METER)
    return join(*columns, min_items=MIN_ITEMS, max_title_words=1)


@settings(max_examples=150, deadline=None)
@given(bought=rows, titles=titled)
# At one time the item decides, then the stars; a user without titles; an item with two.
@example(bought=TIED, titles={"i": ["shoe", "hat"], "j": ["hat"], "k": ["hat"]})
def test_histories_are_those_of_a_slow_obvious_version(
    tmp_path_factory: pytest.TempPathFactory, bought: list[Bought], titles: dict[str, list[str]]
) -> None:
    found = histories(tmp_path_factory.mktemp("rows"), bought, titles)
    items_of: dict[str, set[str]] = defaultdict(set)
    for row in bought:
        items_of[row.user].add(row.item)
    expected: dict[str, dict[str, int]] = {}
    for user in items_of:
        own: dict[str, int] = {}
        for row in sorted((r for r in bought if r.user == user), key=lambda r: r[2:0:-1] + r[3:]):
            if row.item in titles:
                own.setdefault(row.item, row.stars)
        if len(own) >= MIN_ITEMS:
            expected[user] = own
    of = {user: found.of(place) for place, user in enumerate(found.users)}
    assert of == expected
    # In order of time, which equality of dicts does not see.
    assert [list(of[user]) for user in of] == [list(expected[user]) for user in of]
    active = {user for user, items in items_of.items() if len(items) >= MIN_ITEMS}
    assert found.active == active
    pool = {item for user in active for item in items_of[user]} & titles.keys()
    assert found.pool == sorted(pool)
    assert found.titles == {item: min(t.split()[0] for t in titles[item]) for item in pool}
    buyers = {item: sum(item in items for items in items_of.values()) for item in pool}
    assert found.popularity == buyers
    pairs = Counter((row.user, row.item) for row in bought)
    counts = found.counts
    assert counts.users == len(items_of)
    assert counts.pairs == len(pairs)
    assert counts.repeated_pairs == sum(n > 1 for n in pairs.values())
    assert counts.interactions == sum(item in titles for _, item in pairs)
    assert counts.titled_users == sum(bool(own & titles.keys()) for own in items_of.values())
    assert counts.kept == sum(map(len, expected.values()))


@settings(max_examples=150, deadline=None)
@given(bought=rows, titles=titled, seed=st.integers(0, 9), popular=st.booleans())
def test_the_last_item_is_left_out_and_no_own_item_is_a_negative(
    tmp_path_factory: pytest.TempPathFactory,
    bought: list[Bought],
    titles: dict[str, list[str]],
    seed: int,
    popular: bool,
) -> None:
    found = histories(tmp_path_factory.mktemp("rows"), bought, titles)
    shape = ListShape(candidates=2, min_items=MIN_ITEMS, max_history=9, max_title_words=1)
    # Every item has its own title here, so that a title tells the item.
    names = {item: f"title-{item}" for item in found.pool}
    pool = PopularPool(found.pool, found.popularity) if popular else UniformPool(found.pool)
    for place, user in enumerate(found.users):
        own = found.of(place)
        if len(found.pool) <= len(own):
            continue
        *earlier, last = own

        def graded(item: str, last: str = last) -> int:
            return int(item == last)

        drawn = draw_list(user, list(own), names, pool, seed=seed, shape=shape)
        example = as_example(drawn, names, graded)
        lines = example.prompt.splitlines()
        assert [line[2:] for line in lines if line.startswith("- ")] == [names[i] for i in earlier]
        shown = [line[3:] for line in lines if line[1:3] == ": "]
        assert shown[example.grades.index(1)] == names[last]
        (negative,) = [title for title in shown if title != names[last]]
        assert negative not in {names[item] for item in own}
        assert draw_list(user, list(own), names, pool, seed=seed, shape=shape) == drawn


# Popularity


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.integers(0, 30).map("i{}".format), st.integers(1, 40), min_size=1))
def test_items_come_in_rings_around_the_positive(popularity: dict[str, int]) -> None:
    items = sorted(popularity)
    pool = PopularPool(items, popularity)
    for positive in items:
        order = list(pool.order(positive, 3, "user"))
        assert sorted(order) == items
        own = popularity_bin(popularity[positive])
        rings = [abs(popularity_bin(popularity[item]) - own) for item in order]
        assert rings == sorted(rings)
        assert order == list(PopularPool(items, popularity).order(positive, 3, "user"))


def test_a_bin_doubles_the_one_before() -> None:
    counts = (1, 2, 3, 4, 7, 8, 2**40 - 1, 2**40)
    assert [popularity_bin(n) for n in counts] == [0, 1, 1, 2, 2, 3, 39, 40]


def test_every_item_of_a_ring_is_as_likely() -> None:
    popularity = {f"i{n:02d}": 4 + n % 4 for n in range(20)} | {f"j{n}": 8 for n in range(20)}
    pool = PopularPool(sorted(popularity), popularity)
    first: Counter[str] = Counter()
    for user in range(4000):
        order = pool.order("i00", 0, f"u{user}")
        first.update(next(order) for _ in range(3))
    # 4000 * 3 / 20 = 600 each; five standard deviations are below 115.
    assert first.keys() == {item for item in popularity if item.startswith("i")}
    assert all(abs(count - 600) < 115 for count in first.values())
    assert not pool.widened


def test_seed_and_user_change_the_order() -> None:
    popularity = {f"i{n:02d}": 1 for n in range(30)}
    pool = PopularPool(sorted(popularity), popularity)
    orders = [list(pool.order("i00", seed, user)) for seed in (0, 1) for user in ("a", "b")]
    assert len({tuple(order) for order in orders}) == 4


def popular_world(folder: Path) -> Path:
    """36 users of a few items that everybody has, 40 of many that few have."""
    reviews = [review(f"A{u}", f"hit{(u + j) % 12}", j) for u in range(36) for j in range(4)]
    reviews += [review(f"B{u}", f"rare{3 * u + j}", j) for u in range(40) for j in range(3)]
    names = [*(f"hit{n}" for n in range(12)), *(f"rare{n}" for n in range(120))]
    return write(folder, reviews, [meta(name, name) for name in names])


def lists_of(folder: Path, **changes: Any) -> tuple[list[set[str]], int]:
    plan = SplitPlan(fractions=(0.4, 0.3, 0.3))
    splits, report = load_amazon(folder, **{"candidates": 4, "seed": 0, "sizes": plan} | changes)
    lists = [
        {line[3:6] for line in example.prompt.splitlines() if line[1:3] == ": "}
        for example in (*splits.train, *splits.calibration, *splits.test)
    ]
    assert report.negatives == changes.get("negatives", "uniform")
    return lists, report.widened


def test_popular_negatives_keep_to_the_kind_of_the_positive(tmp_path: Path) -> None:
    folder = popular_world(tmp_path)
    matched, widened = lists_of(folder, negatives="popularity")
    assert len(matched) == 76
    assert Counter(map(len, matched)) == {1: 76}
    assert widened == 0
    mixed, widened = lists_of(folder)
    assert Counter(map(len, mixed)) != {1: 76}
    assert widened == 0


def test_lists_for_which_the_bin_was_too_small_are_counted(tmp_path: Path) -> None:
    # Twelve hits less four of one's own: eight, and eleven negatives are asked for.
    matched, widened = lists_of(popular_world(tmp_path), negatives="popularity", candidates=12)
    assert widened == 36
    assert Counter(map(len, matched)) == {1: 40, 2: 36}


def test_no_other_kind_of_negatives(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="negatives=most: set uniform or popularity"):
        lists_of(popular_world(tmp_path), negatives="most")


# Users at each filter


def test_the_table_of_filters_adds_up(tmp_path: Path) -> None:
    reviews, metas = world(users=60)
    reviews += ["", *(review("U000", f"I{i:03d}", 99, None) for i in range(3))]
    reviews += [review("ONE", "I001", 1), review("ONE", "I001", 2), review("BARE", "NONE", 1)]
    reviews += [review("LOW", "I001", 5, 9.0)]
    plan = SplitPlan(train=10, fractions=(0.4, 0.3, 0.3))
    folder = write(tmp_path, reviews, metas)
    splits, report = load_amazon(folder, candidates=4, seed=1, sizes=plan)
    table = {str(row["filter"]): row for row in report.filters}
    rated = len(reviews) - 5
    assert {name: (row["reviews"], row["users"]) for name, row in table.items()} == {
        "rows read": (len(reviews), None),
        "user, item and time": (rated + 4, None),
        "a rating": (rated, 62),
        "first of its pair": (rated - 1, 62),
        "item with a title": (rated - 2, 61),
        "3 such items": (rated - 3, 60),
        "list tried": (None, 10 + len(splits.calibration) + len(splits.test)),
        "list built": (None, report.lists),
    }
    enough = table["3 such items"]
    splits_of = ("train", "calibration", "test")
    assert sum(int(enough[name] or 0) for name in splits_of) == 60
    assert {name: table["list built"][name] for name in splits_of} == report.splits
    beyond = report.rejected["users: beyond the size of their split"]
    assert beyond == int(enough["train"] or 0) - 10
    assert all(table["rows read"][name] is None for name in splits_of)
    (unrated, unusable) = (
        report.rejected[f"reviews: rating {why}"] for why in ("missing", "not usable")
    )
    assert (unrated, unusable) == (3, 1)
