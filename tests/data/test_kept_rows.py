"""Raw files are read once: what is kept, torn, changed, damaged, killed; all rows are made up."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amazon_world import review, world, write
from opdcliff.data.amazon import files
from opdcliff.data.amazon.columns import Names
from opdcliff.data.amazon.files import META_NAME, REVIEWS_NAME, ReadProgress
from opdcliff.data.amazon.kept import RawPair, raw_sums
from opdcliff.data.amazon.loading import load_amazon
from opdcliff.data.amazon.report import LoadReport
from opdcliff.data.amazon.shares import SplitPlan
from opdcliff.data.example import Splits
from opdcliff.data.splits_file import write_splits
from opdcliff.errors import DataError, RecordError
from opdcliff.paths import StudyPaths
from opdcliff.storage import asset_cache

PLAN = SplitPlan(fractions=(0.4, 0.3, 0.3))


def paths_in(folder: Path) -> StudyPaths:
    return StudyPaths(folder / "runs", folder / "results")


def load(folder: Path, keep: StudyPaths | None, **changes: Any) -> tuple[Splits, LoadReport]:
    options: dict[str, Any] = {"candidates": 4, "seed": 1, "sizes": PLAN, "keep": keep} | changes
    return load_amazon(folder, **options)


def kept(paths: StudyPaths) -> list[Path]:
    """Folders of kept columns, finished ones and those that a process left half written."""
    assets = paths.runs / "assets"
    return sorted(path for path in assets.glob("rows-*") if path.is_dir())


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# What is kept


@pytest.mark.parametrize("packed", [False, True])
def test_a_second_preparation_reads_no_raw_byte(tmp_path: Path, packed: bool) -> None:
    folder, paths = write(tmp_path / "raw", *world(), packed=packed), paths_in(tmp_path)
    first = load(folder, paths)
    assert first == load(folder, None)
    told: list[tuple[int, int]] = []
    for changes in ({}, {"seed": 2}, {"candidates": 7, "min_items": 4, "max_history": 1}):
        again = load(folder, paths, progress=lambda *at: told.append(at), **changes)
        assert again == load(folder, None, **changes)
    assert told == []


def test_what_is_kept_names_no_folder_and_holds_no_review(tmp_path: Path) -> None:
    paths = paths_in(tmp_path)
    load(write(tmp_path / "raw", *world()), paths)
    written = [path for path in paths.runs.rglob("*") if path.is_file()]
    assert len(kept(paths)) == 2
    assert len(written) > 6
    for path in written:
        data = path.read_bytes()
        assert str(tmp_path).encode() not in data
        assert b"long text nobody keeps" not in data


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=9), max_size=9))
def test_names_are_the_texts_they_were_made_of(texts: list[str]) -> None:
    names = Names("".join(f"{text}\n" for text in texts).encode())
    assert len(names) == len(texts)
    assert list(names) == texts
    assert [names[i] for i in range(len(texts))] == texts
    assert names[1:3] == texts[1:3]


def test_lists_of_made_rows_are_those_of_the_first_version(tmp_path: Path) -> None:
    """Committed studies rest on them: these digests are of before files were read only once."""
    reviews, metas = world(users=400, seed=3)
    rng = random.Random(1)
    for _ in range(800):
        user, item = f"U{rng.randrange(400):03d}", f"I{rng.randrange(70):03d}"
        reviews.append(review(user, item, rng.randrange(1000, 3000), float(rng.randint(1, 5))))
    folder = write(tmp_path / "raw", reviews, metas)
    sizes = SplitPlan(38, 8, 12, (38 / 58, 8 / 58, 12 / 58))
    for number, (changes, expected) in enumerate(GOLDEN):
        splits, _ = load(folder, paths_in(tmp_path), **{"sizes": sizes} | changes)
        target = tmp_path / str(number)
        target.mkdir()
        assert write_splits(target, splits)[:16] == expected


GOLDEN: list[tuple[dict[str, Any], str]] = [
    (
        {"candidates": 8, "max_history": 1, "max_title_words": 3},
        "2ca6a375b7c329b4",
    ),
    (
        {"seed": 0, "sizes": PLAN},
        "eb458a8b2c52d48a",
    ),
    (
        {"candidates": 26, "min_items": 4, "max_history": 6},
        "f26e7f28b2278061",
    ),
]

# Sums of the raw files


@pytest.mark.parametrize("packed", [False, True])
def test_sums_are_those_of_the_content(tmp_path: Path, packed: bool) -> None:
    plain = write(tmp_path / "plain", *world())
    folder = write(tmp_path / "raw", *world(), packed=packed)
    wanted = {name: sha((plain / name).read_bytes()) for name in (REVIEWS_NAME, META_NAME)}
    paths = paths_in(tmp_path)
    assert raw_sums(folder, paths) == wanted
    _, report = load(folder, paths)
    assert {name: file["sha256"] for name, file in report.files.items()} == wanted
    sizes = {name: (plain / name).stat().st_size for name in wanted}
    assert {name: file["bytes"] for name, file in report.files.items()} == sizes


def test_the_published_files_are_told_from_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path, *world())
    data = (folder / META_NAME).read_bytes()
    full_set = files.FULL_SET | {META_NAME: (len(data), sha(data))}
    monkeypatch.setattr(files, "FULL_SET", full_set)
    _, report = load(folder, None)
    assert {name: file["full_set"] for name, file in report.files.items()} == {
        REVIEWS_NAME: False,
        META_NAME: True,
    }


# Files that change


def changed(folder: Path) -> bytes:
    """Another rating in the first review; what was there before."""
    before = (folder / REVIEWS_NAME).read_bytes()
    line, _, rest = before.partition(b"\n")
    row = json.loads(line)
    row["rating"] = 1.0 if row["rating"] > 2 else 5.0
    (folder / REVIEWS_NAME).write_bytes(json.dumps(row).encode() + b"\n" + rest)
    assert (folder / REVIEWS_NAME).stat().st_size == len(before)
    return before


def test_a_changed_file_is_read_again_and_said_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, paths = write(tmp_path / "raw", *world()), paths_in(tmp_path)
    load(folder, paths)
    stat = (folder / REVIEWS_NAME).stat()
    before = changed(folder)
    # Even where its times are set back, as by a copy that keeps them.
    os.utime(folder / REVIEWS_NAME, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with caplog.at_level(logging.WARNING):
        found = load(folder, paths)
        assert found == load(folder, None)
    (line,) = [record.getMessage() for record in caplog.records]
    assert "\n" not in line
    now = (folder / REVIEWS_NAME).read_bytes()
    for part in (str(folder / REVIEWS_NAME), sha(before)[:12], sha(now)[:12], "made anew"):
        assert part in line
    caplog.clear()
    assert load(folder, paths) == found
    assert not caplog.records


def test_a_file_that_was_only_touched_is_no_other_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, paths = write(tmp_path / "raw", *world()), paths_in(tmp_path)
    first = load(folder, paths)
    os.utime(folder / REVIEWS_NAME)
    with caplog.at_level(logging.WARNING):
        assert load(folder, paths) == first
    assert not caplog.records


def test_a_file_that_grows_while_it_is_read_is_refused(tmp_path: Path) -> None:
    folder, paths = write(tmp_path / "raw", *world()), paths_in(tmp_path)

    def grow(done: int, total: int) -> None:
        with (folder / REVIEWS_NAME).open("ab") as file:
            file.write(b" ")

    with pytest.raises(
        DataError, match=r"Amazon_Fashion.jsonl changed while it was read; run again"
    ):
        load(folder, paths, progress=grow)
    assert kept(paths) == [] or all(not (path / "asset.json").exists() for path in kept(paths))


def test_other_code_reads_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, paths = write(tmp_path / "raw", *world()), paths_in(tmp_path)
    load(folder, paths)
    monkeypatch.setattr(asset_cache, "code_digest", lambda *_: "0" * 64)
    pair = RawPair.of(folder, paths)
    assert pair.reviews.bytes_to_read() == (folder / REVIEWS_NAME).stat().st_size


# Damage


def test_a_torn_gzip_keeps_nothing(tmp_path: Path) -> None:
    folder, paths = write(tmp_path / "raw", *world(users=300), packed=True), paths_in(tmp_path)
    packed = folder / f"{REVIEWS_NAME}.gz"
    whole = packed.read_bytes()
    packed.write_bytes(whole[:-20])
    with pytest.raises(DataError, match="is damaged"):
        load(folder, paths)
    assert not any((path / "asset.json").exists() for path in kept(paths))
    packed.write_bytes(whole)
    assert load(folder, paths) == load(folder, None)


@pytest.mark.parametrize("name", ["rows.npz", "users.txt", "items.txt", "titles.txt"])
@pytest.mark.parametrize("how", ["bit", "cut", "gone"])
def test_damaged_columns_are_never_used(tmp_path: Path, name: str, how: str) -> None:
    folder, paths = write(tmp_path / "raw", *world()), paths_in(tmp_path)
    load(folder, paths)
    (file, *_) = [path / name for path in kept(paths) if (path / name).exists()]
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data[:-1] if how == "cut" else data)
    if how == "gone":
        file.unlink()
    with pytest.raises(RecordError, match=r"is not as it was written; delete .*rows-") as caught:
        load(folder, paths)
    assert "\n" not in str(caught.value)


def test_a_damaged_note_of_the_first_use_is_one_line(tmp_path: Path) -> None:
    folder, paths = write(tmp_path / "raw", *world()), paths_in(tmp_path)
    load(folder, paths)
    for note in (paths.runs / "assets").glob("raw-*/first_use.json"):
        note.write_text("{")
    changed(folder)
    with pytest.raises(RecordError, match=r"first_use.json cannot be read .* delete it"):
        load(folder, paths)


# Killed half-way

KILLED = """
import os, signal, sys
from pathlib import Path
from opdcliff.data.amazon.loading import load_amazon
from opdcliff.data.amazon.shares import SplitPlan
from opdcliff.paths import StudyPaths

folder, work, share = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])

def die(done, total):
    if done > share * total:
        os.kill(os.getpid(), signal.SIGKILL)

load_amazon(folder, candidates=4, seed=1, sizes=SplitPlan(fractions=(0.4, 0.3, 0.3)),
            keep=StudyPaths(work / "runs", work / "results"), progress=die)
"""


@pytest.mark.parametrize("place", ["in the reviews", "in the items"])
def test_a_killed_preparation_goes_on_with_the_file_it_was_in(tmp_path: Path, place: str) -> None:
    reviews, metas = world(users=1500)
    # Large enough that progress is told inside of either file.
    metas += [{"parent_asin": f"X{i}", "title": f"other {i}"} for i in range(6000)]
    folder, paths = write(tmp_path / "raw", reviews, metas), paths_in(tmp_path)
    sizes = [(folder / name).stat().st_size for name in (REVIEWS_NAME, META_NAME)]
    share = sizes[0] / sum(sizes)
    share = share / 2 if place == "in the reviews" else share + (1 - share) / 2
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder), str(tmp_path), str(share)], check=False
    )
    assert done.returncode == -signal.SIGKILL
    whole = [path for path in kept(paths) if (path / "asset.json").exists()]
    assert len(whole) == (0 if place == "in the reviews" else 1)
    assert len(kept(paths)) == len(whole) + 1
    told: list[tuple[int, int]] = []
    found = load(folder, paths, progress=lambda *at: told.append(at))
    assert found == load(folder, None)
    assert told[-1][0] == told[-1][1] == (sum(sizes) if not whole else sizes[1])
    # What the killed process left half written is gone.
    assert len(kept(paths)) == 2
    assert all((path / "asset.json").exists() for path in kept(paths))


def test_a_pass_without_progress_reads_all(tmp_path: Path) -> None:
    pair = RawPair.of(write(tmp_path, *world()), None)
    facts = pair.reviews.facts(ReadProgress(0, None))
    assert facts.rows == facts.usable == len(pair.reviews.columns(ReadProgress(0, None)).user_N)
