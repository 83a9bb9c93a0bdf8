"""Bisected studies: which cells are asked for, round by round, and the onsets they give."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest

import markov
from opdcliff.models.prepare import Prepared
from opdcliff.paths import StudyPaths
from opdcliff.records.writer import RunRecord
from opdcliff.settings.checks import load
from opdcliff.settings.compose import compose_one
from opdcliff.study.bisection import asked_for
from opdcliff.study.cells import Cell
from opdcliff.study.duration import planned_updates
from opdcliff.study.summary import onset_table
from opdcliff.terminal import ARM_KEYS

LAMS = [1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7]
PREPARED = Prepared(Path("data"), Path("models"), "ab" * 32)


@pytest.fixture
def paths(tmp_path: Path) -> StudyPaths:
    return StudyPaths(tmp_path / "runs", tmp_path / "results")


def cells_of(*words: str) -> list[Cell]:
    return [Cell(markov.config(*words), lam, "halved") for lam in LAMS]


def finish(cell: Cell, paths: StudyPaths, rate: float, status: str = "finished") -> None:
    record = RunRecord.create(
        cell.folder(PREPARED, paths),
        identity=cell.identity(PREPARED),
        config={},
        seed=cell.config.seed,
        protocol=cell.protocol,
        name=cell.name,
    )
    record.log(0, {"eval/parse_rate": 0.9})
    record.log(8, {"eval/parse_rate": rate})
    record.close(status)


def asked(cells: list[Cell], paths: StudyPaths) -> list[tuple[int, float]]:
    return [(cell.config.seed, cell.lam) for cell in asked_for(cells, PREPARED, paths)]


def test_each_seed_halves_its_own_lambdas(paths: StudyPaths) -> None:
    first, second = cells_of("seed=0"), cells_of("seed=1")
    cells = [cell for both in zip(first, second, strict=True) for cell in both]
    assert asked(cells, paths) == [(0, 1.4), (1, 1.4)]
    finish(first[3], paths, 0.95)
    finish(second[3], paths, 0.05, "collapsed")
    assert asked(cells, paths) == [(0, 1.4), (0, 1.6), (1, 1.4), (1, 1.2)]
    # A divergence does not hold, whatever its last evaluation said.
    finish(first[5], paths, 0.9, "diverged")
    finish(second[1], paths, 0.5)
    assert asked(cells, paths)[2::3] == [(0, 1.5), (1, 1.3)]


def test_a_run_that_has_not_ended_is_asked_for_again(paths: StudyPaths) -> None:
    cells = cells_of("seed=0")
    finish(cells[3], paths, 0.95, "failed")
    assert asked(cells, paths) == [(0, 1.4)]


def frame(rows: list[tuple[int, float, float]]) -> pd.DataFrame:
    arm = dict.fromkeys(ARM_KEYS, "c5") | {"warmup": 0, "budget": 8}
    return pd.DataFrame(
        [{**arm, "seed": s, "lam": x, "parse_rate": r, "lambda_star": 1.5} for s, x, r in rows]
    )


def test_onsets_of_halved_arms_rest_on_cells() -> None:
    path = [(1.4, 0.95), (1.6, 0.05), (1.5, 0.9)]
    rows = [(seed, lam, rate) for seed in range(5) for lam, rate in path]
    (found,) = onset_table(frame(rows), bisected=True).to_dict("records")
    assert (found["bracket_lo"], found["bracket_hi"]) == (1.5, 1.6)
    assert (found["onset_lo"], found["onset_hi"]) == (1.5, 1.6)
    assert 1.5 < found["onset"] < 1.6
    # The same table of a whole grid would miss nothing here; with a lambda of another seed it does.
    other = [*rows, (5, 1.4, 0.05), (5, 1.2, 0.95), (5, 1.3, 0.95)]
    (halved,) = onset_table(frame(other), bisected=True).to_dict("records")
    assert (halved["bracket_lo"], halved["bracket_hi"]) == (1.3, 1.6)
    (whole,) = onset_table(frame(other)).to_dict("records")
    assert math.isnan(whole["onset"])


def test_a_seed_that_is_still_to_be_halved_has_no_onset() -> None:
    rows = [(0, 1.4, 0.95), (0, 1.6, 0.05), (0, 1.5, 0.9), (1, 1.4, 0.95), (1, 1.6, 0.05)]
    (found,) = onset_table(frame(rows), bisected=True).to_dict("records")
    assert found["points"].split()[1] == "nan"
    assert math.isnan(found["onset"])


def test_a_bisected_study_plans_its_halvings() -> None:
    config = load(compose_one(["experiment=near_quick"]))
    whole = planned_updates(config)
    config.protocol.bisect = True
    # Three of four lambdas at most.
    assert planned_updates(config) == 0.75 * whole
    near = load(compose_one(["experiment=near"]))
    assert planned_updates(near) == 6 * (3 + 3 + 1) * 1100
