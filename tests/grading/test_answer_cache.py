"""Replies that were paid for outlive kills: half a line is cut, a damaged one is asked anew."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opdcliff.errors import RecordError
from opdcliff.grading.answers import Reason
from opdcliff.grading.cache import ANSWERS, Entry, open_cache

GRADES = st.lists(st.integers(0, 4), min_size=1, max_size=26).map(tuple)
KEYS = st.sampled_from(["a" * 64, "b" * 64, "c" * 64])
COUNTS = st.integers(0, 10**7)
ENTRIES = st.one_of(
    st.builds(
        Entry,
        KEYS,
        GRADES,
        st.none(),
        st.just(""),
        st.just(""),
        COUNTS,
        COUNTS,
        st.booleans(),
        COUNTS,
        COUNTS,
    ),
    st.builds(
        Entry,
        KEYS,
        st.none(),
        st.sampled_from(list(Reason)).map(lambda reason: reason.value),
        st.text(st.characters(codec="utf-8"), max_size=20),
        st.text(st.characters(codec="utf-8"), max_size=50),
        COUNTS,
        COUNTS,
        st.booleans(),
        COUNTS,
        COUNTS,
    ),
)


def one(key: str = "k", grades: tuple[int, ...] | None = (1, 2)) -> Entry:
    reason = None if grades else Reason.REFUSAL.value
    return Entry(key, grades, reason, "", "", 10, 5, False, 0, 0)


# No deadline: every entry is forced to disk.
@settings(deadline=None, max_examples=40)
@given(st.lists(ENTRIES, max_size=8), st.integers(0, 400), st.data())
def test_what_was_kept_is_found_whatever_half_line_a_kill_leaves(
    entries: list[Entry], cut: int, data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with open_cache(folder) as cache:
            for entry in entries:
                cache.add(entry)
        path = folder / ANSWERS
        whole = path.read_bytes()
        lines = whole.splitlines(keepends=True)
        torn = (lines[-1] if lines else b'{"half":')[:-1][:cut]
        path.write_bytes(whole + torn)
        late = data.draw(ENTRIES)
        with open_cache(folder) as cache:
            assert cache.damaged == 0
            cache.add(late)
        # Written behind whole lines, not glued to half of one.
        with open_cache(folder) as cache:
            assert cache.damaged == 0
            every = [*entries, late]
            for key in {entry.key for entry in every}:
                mine = [e for e in every if e.key == key]
                kept = cache.all_of(key)
                assert [e.grades for e in kept] == [e.grades for e in mine]
                assert [e.tokens_in for e in kept] == [e.tokens_in for e in mine]
                graded = [e for e in mine if e.grades is not None]
                found = cache.find(key)
                assert found is not None
                assert found.grades == (graded[0].grades if graded else None)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_changed_byte_makes_its_line_as_if_it_were_not_there(place: int, by: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with open_cache(folder) as cache:
            for key in ("k", "l", "m"):
                cache.add(one(key))
        path = folder / ANSWERS
        data = bytearray(path.read_bytes())
        place %= len(data)
        was_end = data[place] == 10
        data[place] ^= by
        became_end = data[place] == 10
        path.write_bytes(bytes(data))
        with open_cache(folder) as cache:
            known = [key for key in ("k", "l", "m") if cache.find(key) is not None]
            last = place == len(data) - 1
            # An end of line that is lost joins two lines, or cuts the last one off.
            assert len(known) == (1 if was_end and not last else 2)
            assert cache.damaged == (0 if last else 2 if became_end else 1)
            assert all(cache.find(key) == one(key) for key in known)


def test_a_later_grade_takes_the_place_of_a_failure_and_both_are_paid(tmp_path: Path) -> None:
    with open_cache(tmp_path) as cache:
        assert cache.find("k") is None
        cache.add(one(grades=None))
        assert cache.find("k") == one(grades=None)
        cache.add(one())
        assert cache.find("k") == one()
        cache.add(one(grades=None))
        assert cache.find("k") == one()
        assert len(cache.all_of("k")) == 3


def test_two_processes_do_not_share_a_cache(tmp_path: Path) -> None:
    with open_cache(tmp_path), pytest.raises(RecordError, match="in use"), open_cache(tmp_path):
        pass
    with open_cache(tmp_path):
        pass


def test_a_line_is_readable_json(tmp_path: Path) -> None:
    with open_cache(tmp_path) as cache:
        cache.add(one())
    (line,) = (tmp_path / ANSWERS).read_text().splitlines()
    assert json.loads(line)["grades"] == [1, 2]
