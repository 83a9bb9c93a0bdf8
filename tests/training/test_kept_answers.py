"""Answers that a run keeps as text: the first of each evaluation, judged as its metrics are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import crash
from opdcliff.models.prepare import Prepared
from opdcliff.training.evaluation.kept_answers import ANSWERS, KeptAnswers, Shown

pytestmark = pytest.mark.usefixtures("no_git")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return crash.prepare(tmp_path_factory.mktemp("prepared"))


def lines_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n")[:-1]]


def answer(number: int, text: str = '{"ranking":["A"]}') -> Shown:
    return Shown(number, f"prompt {number}", text, "ok", 9)


def file_with(tmp_path: Path, updates: Sequence[int]) -> Path:
    file = tmp_path / ANSWERS
    keeper = KeptAnswers(file, [])
    for update in updates:
        keeper.add(update, 1.5, [answer(0), answer(1)])
    return file


def test_all_answers_of_a_run_give_its_parse_rates(prepared: Prepared, tmp_path: Path) -> None:
    # More than there are prompts: all.
    folder = crash.run_here(prepared, tmp_path, "tracking.answers=1000")
    history = crash.outcome(folder)["history"]
    lines = lines_of(folder / ANSWERS)
    for step, rate, length, lam in zip(
        *(history[name] for name in ("step", "eval/parse_rate", "eval/mean_length", "train/lam")),
        strict=True,
    ):
        here = [line for line in lines if line["update"] == step]
        assert [line["number"] for line in here] == list(range(len(here)))
        assert sum(line["verdict"] == "ok" for line in here) / len(here) == pytest.approx(rate)
        assert sum(line["tokens"] for line in here) / len(here) == pytest.approx(length)
        assert {line["lam"] for line in here} == {lam}
    assert {line["update"] for line in lines} == set(history["step"])


def test_few_are_the_first_of_all(prepared: Prepared, tmp_path: Path) -> None:
    every, few = (
        lines_of(
            crash.run_here(prepared, tmp_path / str(count), f"tracking.answers={count}") / ANSWERS
        )
        for count in (1000, 2)
    )
    assert few == [line for line in every if line["number"] < 2]
    assert all(line["prompt"].strip() for line in few)


def test_none_leave_no_file(prepared: Prepared, tmp_path: Path) -> None:
    folder = crash.run_here(prepared, tmp_path, "tracking.answers=0")
    assert not (folder / ANSWERS).exists()


@pytest.mark.parametrize("cut", [b'{"update": 6, "la', b'{"update": 2, "answer": "\xc3', b"[2]\n"])
def test_a_run_that_goes_on_keeps_what_it_had_evaluated_before(cut: bytes, tmp_path: Path) -> None:
    file = file_with(tmp_path, [0, 2, 4])
    before = lines_of(file)
    # Killed while it wrote, after a checkpoint that knows two of the evaluations.
    file.write_bytes(file.read_bytes() + cut)
    keeper = KeptAnswers(file, [0, 2])
    assert lines_of(file) == before[:4]
    keeper.add(4, 1.5, [answer(0), answer(1)])
    assert lines_of(file) == before


def test_a_run_from_the_beginning_keeps_nothing(tmp_path: Path) -> None:
    file = file_with(tmp_path, [0, 2])
    KeptAnswers(file, [])
    assert file.read_text(encoding="utf-8") == ""


def test_an_evaluation_is_kept_once(tmp_path: Path) -> None:
    # A collapsed run is evaluated twice at its last update, on more prompts the second time.
    file = file_with(tmp_path, [0, 2, 2])
    assert [line["update"] for line in lines_of(file)] == [0, 0, 2, 2]


@pytest.mark.parametrize("text", ["a\nb", "\u2028 \x85 \x00", 'ü "\\', "\ud800"])
def test_any_text_is_one_line(text: str, tmp_path: Path) -> None:
    file = tmp_path / ANSWERS
    KeptAnswers(file, []).add(0, 1.0, [answer(0, text), answer(1)])
    assert file.read_bytes().count(b"\n") == 2
    KeptAnswers(file, [0])
    assert [line["answer"] for line in lines_of(file)] == [text, answer(1).answer]
