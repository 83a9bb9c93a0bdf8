"""The benchmark of full-sized files on small ones: what it makes, what it says, what it leaves."""

from __future__ import annotations

import importlib
import json
from collections import Counter
from pathlib import Path

import pytest

from opdcliff.paths import REPO_ROOT

SMALL = ["--rows", "6000", "--words", "debug=seconds"]


@pytest.fixture(autouse=True)
def of_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(REPO_ROOT / "benchmarks")


def test_made_rows_have_the_shape_of_the_public_ones(tmp_path: Path) -> None:
    made_rows = importlib.import_module("made_rows")
    made = made_rows.make(tmp_path, 20_000, 0)
    reviews = (tmp_path / made_rows.REVIEWS).read_bytes().splitlines()
    metas = (tmp_path / made_rows.META).read_bytes().splitlines()
    assert (len(reviews), len(metas)) == (made.rows, made.items)
    assert made.rows == 20_000
    assert abs(made.items - 20_000 * made_rows.ITEMS_PER_ROW) < 200
    # Bytes a line of the published files, within a tenth.
    assert abs(made.sizes[made_rows.REVIEWS] / made.rows - 421) < 42
    assert abs(made.sizes[made_rows.META] / made.items - 1722) < 172
    rows = [json.loads(line) for line in reviews if line.endswith(b"}")]
    per_user = Counter(row["user_id"] for row in rows)
    assert abs(len(per_user) - 16_000) < 800
    assert max(per_user.values()) > 10
    pairs = Counter((row["user_id"], row["parent_asin"]) for row in rows)
    assert any(count > 1 for count in pairs.values())
    titles = {row["parent_asin"]: row["title"] for row in map(json.loads, metas)}
    assert len(titles) < len(metas)
    assert None in titles.values()
    assert {row["parent_asin"] for row in rows} - titles.keys()
    assert not all(line.isascii() for line in reviews)
    assert len({made_rows.item_name(n) for n in range(5000)}) == 5000


def test_the_seed_decides_what_is_made(tmp_path: Path) -> None:
    made_rows = importlib.import_module("made_rows")
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        made_rows.make(tmp_path / name, 500, seed)
    first, second, other = (
        [(tmp_path / name / file).read_bytes() for file in (made_rows.REVIEWS, made_rows.META)]
        for name in "abc"
    )
    assert first == second
    assert first != other


@pytest.mark.slow
def test_a_small_run_says_what_it_took_and_deletes_all(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    importlib.import_module("full_data").main([str(tmp_path), "--packed", *SMALL])
    made, *found = (json.loads(line) for line in capfd.readouterr().out.splitlines())
    assert len(found) == 3
    for one in found:
        assert one["wall_s"] > 0
        assert one["cpu_s"] > 0
        assert one["peak_mb"] >= one["of_that_libraries_mb"] > 0
        assert one["raw_mb"] == pytest.approx(sum(made["made"].values()) / 1e6, abs=0.1)
        report = one["report"]
        assert report["rows"] == made["rows"] == 6000
        assert report["meta_rows"] == made["items"]
        assert report["lists"] == report["filters"][-1]["users"] == 112
    assert [one["report"]["negatives"] for one in found] == ["uniform", "uniform", "popularity"]
    sums = [
        {name: file["sha256"] for name, file in one["report"]["files"].items()} for one in found
    ]
    assert sums[0] == sums[1] == sums[2]
    assert not list(tmp_path.iterdir())
