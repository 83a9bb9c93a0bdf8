"""The figure on titles: onset and dip from runs, and the candidates beside them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from opdcliff.report.drawing.inputs import Study
from opdcliff.report.figures import titles_onset

LAMS, SEEDS, WARMUP = (1.2, 1.6, 2.0, 2.4), (0, 1, 2), 40
# Parse rates at updates 20 (before lambda has arrived), 60, 90 and 120.
COURSES = {
    1.2: (0.5, 0.9, 0.9, 0.9),
    1.6: (0.1, 0.8, 0.3, 0.85),  # dips, and comes back
    2.0: (0.5, 0.3, 0.2, 0.25),
    2.4: (0.5, 0.1, 0.0, 0.0),
}


@pytest.fixture
def study(tmp_path: Path) -> Study:
    histories = pd.DataFrame(
        [
            {"lam": lam, "seed": seed, "step": step, "warmup": WARMUP, "eval/parse_rate": rate}
            for lam, course in COURSES.items()
            for seed in SEEDS
            for step, rate in zip((20, 60, 90, 120), course, strict=True)
        ]
    )
    histories.to_csv(tmp_path / "trajectories.csv", index=False)
    last = histories[histories.step == 120].assign(budget=120)
    last.rename(columns={"eval/parse_rate": "parse_rate"}).to_csv(
        tmp_path / "cells.csv", index=False
    )
    rows = [
        {"source": source, "c": c, "weighting": weighting, "of_medians": 1.3 + 0.1 * i}
        | {"q10": 1.1 + i, "q25": 1.2 + i, "q50": math.inf if weighting == "tail" else 1.5 + i}
        for i, source in enumerate(("warm_start", "forced", "teacher"))
        for c in (5.0, 2.0)
        for weighting in ("plain", "tail")
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "distribution.csv", index=False)
    return Study(tmp_path, "a command", "made up")


def test_a_run_has_its_last_parse_rate_and_the_lowest_after_the_warm_up(study: Study) -> None:
    runs = titles_onset.runs_of(study)
    assert len(runs) == len(LAMS) * len(SEEDS)
    for lam, course in COURSES.items():
        own = runs[runs.lam == lam]
        assert own.final.tolist() == [course[-1]] * 3
        assert own.lowest.tolist() == [min(course[1:])] * 3


def test_a_dip_that_comes_back_is_no_onset(study: Study) -> None:
    found = titles_onset.onsets_of(titles_onset.runs_of(study)).set_index("measure")
    assert found.level.tolist() == pytest.approx([0.45, 0.45])
    assert found.loc["final", ["bracket_lo", "bracket_hi"]].tolist() == [1.6, 2.0]
    assert found.loc["lowest", ["bracket_lo", "bracket_hi"]].tolist() == [1.2, 1.6]
    # On the line between .85 at 1.6 and .25 at 2.0.
    assert found.loc["final", "onset"] == pytest.approx(1.6 + 0.4 * (0.85 - 0.45) / 0.6)


def test_candidates_are_those_of_the_strength_of_the_study(study: Study) -> None:
    found = titles_onset.candidates_of(study)
    assert set(found.source) == {"warm_start", "forced", "teacher"}
    assert found.groupby("source").size().tolist() == [6, 6, 6]
    warm = found[found.source == "warm_start"].set_index("candidate").lam
    assert warm["of medians"] == pytest.approx(1.3)
    assert warm["10% of the tail"] == pytest.approx(1.1)
    assert np.isinf(warm["50% of the tail"])


def test_the_table_tells_runs_onsets_and_candidates_apart(study: Study) -> None:
    table = titles_onset.table(dict.fromkeys(titles_onset.STUDIES, study))
    assert table.kind.value_counts().to_dict() == {"run": 24, "candidate": 18, "onset": 4}
    assert set(table[table.kind == "run"].lr) == {5e-4, 2.5e-4}
