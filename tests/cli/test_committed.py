"""No command that a user is shown changes a committed file; a word of its own renews them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from locked import PROTOCOL, make_study
from opdcliff.cli.command import VERBS, usage
from opdcliff.paths import REPO_ROOT, StudyPaths
from opdcliff.storage.canonical import file_digest
from workshop import SECONDS, Run

REST = "estimator: full, warmup_updates: null, updates: null"
ARMS = f"[{{name: c5, clip: c5, multiples: [0.8, 1.2], seeds: [0, 1], {REST}}}]"
STUDY = ("study", *SECONDS, f"protocol.arms={ARMS}", "protocol.workers=1")


def digests(*folders: Path) -> dict[Path, str]:
    """Every file below the folders and what it holds."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {path: file_digest(path) for path in files}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is committed of results, locks and documents, and the runs of a small lock."""
    folder = tmp_path_factory.mktemp("clone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("opdcliff.storage.provenance.git", lambda *_: None)
        make_study(folder)
    for name in ("results", "docs"):
        shutil.copytree(REPO_ROOT / name, folder / name)
    shutil.copytree(REPO_ROOT / "prereg" / "mini", folder / "prereg" / "mini")
    return folder


@pytest.fixture
def here(clone: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line in the clone."""
    monkeypatch.chdir(clone)
    return run


def test_every_verb_that_writes_results_leaves_the_committed_files_alone(
    clone: Path, here: Run
) -> None:
    before = digests(clone / "results", clone / "docs", clone / "prereg")
    commands = {
        STUDY: "studies/mini/quick/cells.csv",
        ("calibrate", *SECONDS): "studies/mini/calibration/calibration.csv",
        ("collect", "protocol=quick"): "studies/mini/quick/trajectories.csv",
        ("verify", f"protocol={PROTOCOL}"): f"locked/{PROTOCOL}/verdicts.json",
        ("collect", f"protocol={PROTOCOL}"): f"locked/{PROTOCOL}/trajectories.csv",
        ("verify", "protocol=mini", "source=table"): None,
        ("compare",): "studies/mini/quick/comparison.csv",
        ("figures", "only=geometry"): "figures/geometry.svg",
        ("report",): "locked/mini/report.html",
    }
    for words, written in commands.items():
        reply = here(*words)
        # A study of seconds is not the committed one, and a lock without its git is not clean.
        assert reply.code in (0, 10, 11, 15), f"{words}: {reply.err}"
        if written is not None:
            assert (clone / "runs" / "results" / written).is_file(), words
    assert (clone / "runs" / "results" / "paper_beside_ours.md").is_file()
    assert digests(clone / "results", clone / "docs", clone / "prereg") == before


def test_with_the_word_the_committed_results_are_written_and_reproduced(
    tmp_path: Path, workshop: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*STUDY, "renew_committed=true").code == 0
    paths = StudyPaths()
    committed = paths.committed.study_dir("mini", "quick")
    assert (committed / "cells.csv").is_file()
    assert not paths.own.root.exists()
    assert "run the study mini/quick first" in run("compare").line
    assert run(*STUDY).code == 0
    reply = run("compare", "protocol=quick", "data=mini")
    assert reply.code == 0, reply.err
    numbers = pd.read_csv(paths.own.study_dir("mini", "quick") / "comparison.csv")
    assert set(numbers.verdict) == {"same"}
    last = reply.out.splitlines()[-1]
    assert last == (
        f"reproduced: {len(numbers)} numbers, of which {len(numbers)} the same bits and 0 within "
        "the tolerance"
    )


@pytest.mark.parametrize("verb", ["study", "verify", "collect", "figures", "report", "calibrate"])
def test_the_word_is_true_or_false(verb: str, run: Run) -> None:
    assert "renew_committed=yes is not true or false" in run(verb, "renew_committed=yes").line


@pytest.mark.parametrize("verb", ["train", "confirm", "lock"])
def test_verbs_that_write_no_results_do_not_know_the_word(verb: str, run: Run) -> None:
    assert "no setting renew_committed" in run(verb, "renew_committed=true").line


def test_the_word_is_told_to_maintainers_only() -> None:
    word = "renew_committed=true"
    assert word in (REPO_ROOT / "CONTRIBUTING.md").read_text()
    assert word not in (REPO_ROOT / "README.md").read_text()
    assert all(word not in text for text in (usage(), *(verb.usage for verb in VERBS.values())))
