"""The verb `compare`: what is missing or no table, what it writes, and its exit code."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from opdcliff.cli import command
from opdcliff.errors import InadmissibleError, NotReproducedError, TamperedError
from opdcliff.paths import StudyPaths
from opdcliff.report.comparison.tables import FILES, read_tables
from quick_tables import QUICK, edited


@pytest.mark.parametrize("name", FILES)
def test_a_missing_table_is_one_line(ours: Path, name: str) -> None:
    (ours / name).unlink()
    with pytest.raises(InadmissibleError, match=f"{name} is missing: do this"):
        read_tables(ours, "do this")


@pytest.mark.parametrize("text", ["", "{]", "[]", "a,b\n1,2\n"])
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_table_is_one_line(ours: Path, name: str, text: str) -> None:
    (ours / name).write_text(text)
    with pytest.raises(InadmissibleError, match=r"no table of a study|not hold the tables"):
        read_tables(ours, "x")


def test_the_verb_says_which_side_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPDCLIFF_RUNS", raising=False)
    assert command.main(["compare"]) == InadmissibleError.exit_code
    assert "nothing is committed of the study data=mini protocol=quick" in capsys.readouterr().err
    shutil.copytree(QUICK, StudyPaths().committed.study_dir("mini", "quick"))
    assert command.main(["compare"]) == InadmissibleError.exit_code
    assert "run the study mini/quick first" in capsys.readouterr().err
    assert command.main(["compare", "lam.value=2"]) == 2
    assert not (tmp_path / "runs").exists()


def test_committed_tables_that_were_edited_are_not_compared_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPDCLIFF_RUNS", raising=False)
    paths = StudyPaths()
    committed = paths.committed.study_dir("mini", "quick")
    for folder in (paths.own.study_dir("mini", "quick"), committed):
        shutil.copytree(QUICK, folder)
    (committed / "onsets.csv").write_text("clip\n")
    assert command.main(["compare"]) == TamperedError.exit_code
    assert "onsets.csv was edited after its runs" in capsys.readouterr().err


def test_the_verb_writes_every_number_and_ends_with_its_own_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPDCLIFF_RUNS", raising=False)
    paths = StudyPaths()
    own = paths.own.study_dir("mini", "quick")
    for folder in (own, paths.committed.study_dir("mini", "quick")):
        shutil.copytree(QUICK, folder)
    assert command.main(["compare", "protocol=quick"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("reproduced: ")
    numbers = pd.read_csv(own / "comparison.csv")
    assert list(numbers) == [
        *("table", "row", "column", "ours", "committed", "low", "high", "verdict", "reason")
    ]
    assert (own / "comparison.png").stat().st_size > 10_000
    assert "</svg>" in (own / "comparison.svg").read_text()

    def lower(cells: pd.DataFrame) -> None:
        cells.loc[0, "parse_rate"] = 0.5

    edited(own, lower)
    assert command.main(["compare"]) == NotReproducedError.exit_code == 15
    error = capsys.readouterr().err
    assert error.startswith("opdcliff: not reproduced: 1 of ")
    assert error.count("\n") == 1
