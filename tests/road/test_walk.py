"""The road: what is done is seen by what it left, steps come in order, and each names the next."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from locked import PROTOCOL, make_lock, run_git
from opdcliff.models.prepare import prepare
from opdcliff.paths import StudyPaths
from opdcliff.road.looking import _lock, _runs, _verdicts, look
from opdcliff.road.memory import recall, remember
from opdcliff.road.steps import BEGUN, DONE, LEFT_OUT, STEPS, TO_DO, WAITS, Road, Standing
from opdcliff.settings.checks import load
from opdcliff.settings.compose import compose_one
from opdcliff.study.predicted import PREDICTION, prediction_folder
from workshop import SECONDS, Run

WORDS = [*SECONDS, "protocol=mini", "protocol.name=walk", "protocol.ordered=true"]


def states(workshop: Path, words: list[str]) -> dict[str, str]:
    road = look(words, StudyPaths(workshop / "runs", workshop / "results", workshop / "prereg"))
    return {each.step.name: each.state for each in road.standings}


def test_what_settings_have_left_is_found(workshop: Path) -> None:
    found = states(workshop, WORDS)
    assert list(found) == [step.name for step in STEPS]
    # The workshop has prompts and models; the generated task needs no judge.
    assert list(found.values())[:4] == [DONE, LEFT_OUT, DONE, TO_DO]
    assert set(list(found.values())[4:]) == {WAITS}
    assert states(workshop, [*WORDS, "sft.seed=5"])["models"] == TO_DO
    assert states(workshop, [*WORDS, "data.seed=5"])["lists"] == TO_DO


def test_a_judges_file_is_waited_for_and_no_error_before(workshop: Path, fashion: Path) -> None:
    rubric = workshop / "rubric.jsonl"
    words = [*WORDS, "data=amazon_fashion", f"data.path={fashion}", f"data.rubric={rubric}"]
    assert states(workshop, words)["lists"] == TO_DO
    rows = StudyPaths(workshop / "runs", workshop / "results", workshop / "prereg")
    from opdcliff.models.prepare import prepare_data

    prepare_data(load(compose_one([*words, "data.rubric=null"])), rows)
    found = states(workshop, words)
    assert (found["lists"], found["grades"], found["models"]) == (DONE, TO_DO, WAITS)
    rubric.write_text("{}\n")
    assert states(workshop, words)["grades"] == DONE


def test_steps_are_refused_out_of_order_and_say_what_is_next(run: Run, workshop: Path) -> None:
    early = run("predict", *WORDS)
    assert early.code == 2
    assert early.line.startswith("opdcliff: prediction comes after calibration, which is to do")
    assert early.line.endswith(f"next: opdcliff calibrate {' '.join(WORDS)}\n")
    assert run("lock", *WORDS).line.startswith("opdcliff: lock comes after calibration")
    done = run("calibrate", *WORDS)
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1] == f"next: opdcliff predict {' '.join(WORDS)}"
    # The name alone knows the settings now.
    told = run("status", "protocol=walk").out
    assert f"next: opdcliff predict {' '.join(WORDS)}" in told
    assert "p = " in told
    config = load(compose_one(WORDS))
    paths = StudyPaths(workshop / "runs", workshop / "results")
    folder = prediction_folder(config, prepare(config, paths), paths)
    folder.mkdir(parents=True)
    rows = [{"strength": 5.0, "low": 1.75, "high": 1.85}]
    (folder / PREDICTION).write_text(json.dumps({"at": rows}))
    told = run("status", "protocol=walk").out
    assert "onset 1.75 to 1.85 at c = 5" in told
    assert f"next: opdcliff lock {' '.join(WORDS)}" in told


def test_without_order_nothing_is_refused_or_told(run: Run) -> None:
    done = run("prepare", *SECONDS, "protocol=mini")
    assert done.code == 0, done.err
    assert "next:" not in done.out


def test_a_step_may_be_made_again(run: Run) -> None:
    for what in ("lists", "models"):
        done = run("prepare", f"what={what}", *WORDS)
        assert done.code == 0, done.err
    assert run("prepare", "what=windows", *WORDS).line.endswith("allowed: lists, models\n")


# What the later steps leave.


def paths_in(repo: Path) -> StudyPaths:
    return StudyPaths(repo / "runs", repo / "results", repo / "prereg", locks=None)


def config_of(name: str) -> Any:
    return SimpleNamespace(protocol=SimpleNamespace(name=name))


def test_a_lock_counts_once_it_is_committed_and_as_it_was_sealed(tmp_path: Path) -> None:
    assert _lock(config_of(PROTOCOL), paths_in(tmp_path)) == (None, (TO_DO, ""))
    make_lock(tmp_path)
    _, (state, detail) = _lock(config_of(PROTOCOL), paths_in(tmp_path))
    assert (state, detail) == (DONE, "sealed 2026-01-01 00:00 UTC and committed")
    # The line below the table says to commit it, and not to make it again.
    standing = Standing(STEPS[5], BEGUN, "commit it")
    passed = [Standing(step, DONE) for step in STEPS[:5]]
    assert Road("walk", [], [*passed, standing]).upcoming == "next: commit it"
    run_git(tmp_path, "rm", "-rq", "--cached", "prereg")
    run_git(tmp_path, "commit", "-qm", "gone")
    _, (state, detail) = _lock(config_of(PROTOCOL), paths_in(tmp_path))
    assert state == BEGUN
    assert "before any run" in detail
    test = tmp_path / "prereg" / PROTOCOL / "T1.yaml"
    test.write_text(test.read_text() + "\n")
    _, (state, detail) = _lock(config_of(PROTOCOL), paths_in(tmp_path))
    assert state == BEGUN
    assert "not as it was sealed" in detail


@pytest.mark.parametrize(
    ("done", "running", "state"), [(0, 0, TO_DO), (0, 1, BEGUN), (3, 0, BEGUN), (9, 0, DONE)]
)
def test_runs_are_begun_with_the_first_cell(done: int, running: int, state: str) -> None:
    from collections import Counter

    from opdcliff.prereg import Progress

    counts = Counter(finished=done, running=running)
    found, detail = _runs(Progress(9, counts, spent=12.34, left=56.7))
    assert found == state
    assert f"{done} of 9 cells" in detail
    assert "12 device hours spent" in detail
    assert ("about 57 left" in detail) == (done < 9)


def test_verdicts_on_fewer_cells_are_out_of_date(tmp_path: Path) -> None:
    how_far: Any = SimpleNamespace(asked=9)
    file = tmp_path / "verdicts.json"
    assert _verdicts(file, how_far) == (TO_DO, "")
    content = {"cells": 9, "integrity": "CLEAN", "tests": {"T1": {"outcome": "REFUTED"}}}
    file.write_text(json.dumps(content))
    assert _verdicts(file, how_far) == (DONE, "CLEAN; T1 REFUTED")
    file.write_text(json.dumps(content | {"cells": 8}))
    assert _verdicts(file, how_far)[0] == TO_DO


def test_settings_are_remembered_as_they_were_given(tmp_path: Path) -> None:
    assert recall("walk", paths_in(tmp_path)) is None
    words = ["data.path='a b, c'", "experiment=paper"]
    remember("walk", words, paths_in(tmp_path))
    assert recall("walk", paths_in(tmp_path)) == words
