"""Rates of runs beside those predicted: taken from a committed table, matched, and judged."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from opdcliff.calibration.class_masses import Binding
from opdcliff.errors import ConfigError, InadmissibleError, TamperedError
from opdcliff.paths import REPO_ROOT, StudyPaths
from opdcliff.preview.curve import Preview
from opdcliff.preview.points import Clip, points_of
from opdcliff.preview.seen import agreement, points_in, seen_in_table
from opdcliff.settings.checks import load
from opdcliff.settings.compose import compose_one
from opdcliff.settings.schema import RunConfig
from opdcliff.theory.clip_rules import ClipRule
from workshop import SECONDS, Run

MASK5, FREE = Clip(ClipRule.MASK, 5.0), Clip(ClipRule.NONE, math.inf)
BINDING = Binding("text", "all", 0.86, 0.46)


def config(*words: str) -> RunConfig:
    return load(compose_one(list(words)))


def committed() -> StudyPaths:
    return StudyPaths(results=REPO_ROOT / "results")


def predicted(*rows: tuple[float, float, float]) -> Preview:
    """Of (lambda, margin, rate) under the mask at c = 5, each with an interval of .05."""
    table = [
        {
            "rule": "mask",
            "c": 5.0,
            "lam": lam,
            "margin": margin,
            "parse_rate": rate,
            "parse_lo": rate - 0.05,
            "parse_hi": rate + 0.05,
            "mean_length": 30.0,
        }
        for lam, margin, rate in rows
    ]
    return Preview(pd.DataFrame(table), [], {}, {})


def runs(*rows: tuple[float, int, float], **changes: Any) -> pd.DataFrame:
    """Of (lambda, seed, rate) under the mask at c = 5."""
    same = {"rule": "mask", "c": 5.0, "estimator": "full", "warmup": 10, "budget": 40, **changes}
    return pd.DataFrame(
        [{**same, "lam": lam, "seed": s, "rate": rate, "length": 31.0} for lam, s, rate in rows]
    )


def test_the_points_of_a_protocol_are_those_of_its_arms() -> None:
    points = points_of(config("protocol=quick"), BINDING)
    assert list(points) == [MASK5, Clip(ClipRule.MASK, 2.0), FREE]
    star = BINDING.lambda_star(5.0)
    assert points[MASK5] == [round(m * star, 4) for m in (0.8, 0.94, 0.97, 1.0, 1.25)]
    assert points[FREE] == [round(1.25 * star, 4)]
    # Lambdas that are given come first.
    given = points_of(config("protocol=quick", "preview.lams=[1.5]"), BINDING)
    assert given[MASK5] == given[FREE] == [1.5]
    with pytest.raises(ConfigError, match="no threshold"):
        points_of(config("protocol=quick"), None)


def test_final_rates_come_from_the_committed_table() -> None:
    found = seen_in_table(config("protocol=quick"), committed())
    assert len(found.about["runs_sha256"]) == 64
    seen = found.table
    assert len(seen) == 31
    assert points_in(seen)[FREE] == [2.3595]
    assert points_in(seen)[MASK5] == [1.5101, 1.7743, 1.831, 1.8876, 2.3595]
    one = seen[(seen.lam == 1.7743) & (seen.seed == 0)].iloc[0]
    assert (one.rate, one.length, one.budget) == (0.93359, 42.574, 200)
    # A grid of single runs, and a locked protocol.
    grid = seen_in_table(
        config("protocol=grid", "protocol.name=scope_ranking_only"), committed()
    ).table
    assert len(grid) == 18
    locked = seen_in_table(config("protocol=mini"), committed()).table
    assert set(locked.budget) == {200, 400}


def test_a_table_that_is_not_there_or_was_edited_is_refused(tmp_path: Path) -> None:
    words = ("protocol=quick", "protocol.name=none_such")
    with pytest.raises(InadmissibleError, match="no table of the runs of protocol none_such"):
        seen_in_table(config(*words), committed())
    folder = tmp_path / "studies/mini/quick"
    folder.mkdir(parents=True)
    for file in (REPO_ROOT / "results/studies/mini/quick").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    table = folder / "trajectories.csv"
    table.write_text(table.read_text().replace("0.93359", "0.99359"))
    with pytest.raises(TamperedError, match=r"trajectories\.csv was edited"):
        seen_in_table(config("protocol=quick"), StudyPaths(results=tmp_path))


def test_runs_of_a_study_are_set_beside_their_points(run: Run, workshop: Path) -> None:
    arm = "{name: a, clip: c5, multiples: [0.8, 1.1], seeds: [0, 1], estimator: full, "
    words = [*SECONDS, f"protocol.arms=[{arm}warmup_updates: null, updates: null}}]"]
    words += ["protocol.name=beside", "preview.prompts=8"]
    before = run("preview", *words)
    assert before.code == 0, before.err
    assert "Predicted beside" not in before.out
    folder = workshop / "runs/results/previews/beside"
    assert not (folder / "beside.csv").exists()
    assert run("study", *words).code == 0
    after = run("preview", *words)
    assert "Predicted beside the final rates of runs" in after.out
    beside = pd.read_csv(folder / "beside.csv")
    assert beside.seeds.tolist() == [2, 2]
    assert run("collect", "protocol=beside").code == 0
    # From records and from their table the same.
    assert run("preview", *words, "source=table").code == 0
    pd.testing.assert_frame_equal(pd.read_csv(folder / "beside.csv"), beside, rtol=1e-4)


def test_a_rate_lies_in_the_band_from_the_margin_to_the_fixed_point() -> None:
    found = predicted((1.5, 0.0, 0.9), (1.5, 0.2, 0.6), (1.9, 0.0, 0.1), (1.9, 0.2, 0.1))
    seen = runs((1.5, 0, 0.7), (1.5, 1, 0.64), (1.9, 0, 0.3), (1.9, 1, 0.3), (2.5, 0, 0.0))
    beside = agreement(found, seen)
    assert beside.table.lam.tolist() == [1.5, 1.9]
    assert beside.table.inside.tolist() == [True, False]
    first = beside.table.iloc[0]
    assert (first.lo, first.hi) == pytest.approx((0.55, 0.95))
    assert (first.seen, first.least, first.most) == pytest.approx((0.67, 0.64, 0.7))
    assert beside.inside == 1
    assert beside.error == pytest.approx((abs(0.9 - 0.67) + abs(0.1 - 0.3)) / 2)


def test_onsets_are_set_side_by_side_for_each_kind_of_run() -> None:
    found = predicted((1.0, 0.0, 1.0), (2.0, 0.0, 0.0), (1.0, 0.2, 0.8), (2.0, 0.2, 0.0))
    short = runs((1.0, 0, 0.9), (2.0, 0, 0.1), (1.0, 1, 1.0), (2.0, 1, 0.2))
    long = runs((1.0, 0, 1.0), (2.0, 0, 0.9), budget=80)
    onsets = agreement(found, pd.concat([short, long])).onsets.set_index("budget")
    assert onsets.predicted[40] == pytest.approx(1.5)
    assert onsets.with_margin[40] == pytest.approx(1.375)
    assert onsets.seen[40] == pytest.approx((1.5 + 1.625) / 2)
    # Runs that never fall have no onset.
    assert math.isnan(onsets.seen[80])
