"""The same commit checked out in another way; the code of one checkout in another's folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from locked import run_git
from opdcliff import paths as paths_module
from opdcliff.cli.command import main
from opdcliff.errors import TamperedError
from opdcliff.paths import REPO_ROOT, StudyPaths, other_checkout
from opdcliff.storage import provenance
from opdcliff.verification.committed import check_tables
from opdcliff.verification.lock import LOCK_FILE, read_lock
from opdcliff.verification.run_sources import runs_of
from opdcliff.verification.verification import Integrity, Verification, verify_runs

PLACES = ("prereg/mini", "results/locked/mini")


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the lock and the committed table of the mini study, and a later commit."""
    repo = tmp_path_factory.mktemp("origin")
    run_git(repo, "init", "-q")
    for place in PLACES:
        shutil.copytree(REPO_ROOT / place, repo / place)
    shutil.copy(REPO_ROOT / ".gitattributes", repo)
    (repo / "src" / "opdcliff").mkdir(parents=True)
    shutil.copy(REPO_ROOT / "src" / "opdcliff" / "paths.py", repo / "src" / "opdcliff")
    run_git(repo, "add", ".")
    run_git(repo, "commit", "-qm", "lock")
    run_git(repo, "commit", "-q", "--allow-empty", "-m", "later")
    return repo


def checked(repo: Path) -> Verification:
    paths = StudyPaths(repo / "runs", repo / "results", repo / "prereg")
    return verify_runs("mini", paths, runs_of("table", "mini", paths, entity=None, project=None))


def said(found: Verification) -> str:
    return "; ".join(deviation.what for deviation in found.deviations)


def cloned(origin: Path, tmp_path: Path, *words: str) -> Path:
    run_git(tmp_path, "clone", "-q", *words, origin.as_uri(), "clone")
    return tmp_path / "clone"


def test_line_ends_are_those_that_were_committed_whatever_git_is_told(
    origin: Path, tmp_path: Path
) -> None:
    clone = cloned(origin, tmp_path, "-c", "core.autocrlf=true")
    assert read_lock(clone / "prereg" / "mini")[1] == []
    check_tables(clone / "results" / "locked" / "mini")
    code = Path("src/opdcliff/paths.py")
    assert (clone / code).read_bytes() == (origin / code).read_bytes()


@pytest.mark.parametrize("name", ["T1.yaml", LOCK_FILE, "sealed/opdcliff/verdicts.py"])
def test_foreign_line_ends_are_called_that(name: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(REPO_ROOT / "prereg" / "mini", tmp_path / "mini"))
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data.replace(b"\n", b"\r\n"))
    (line,) = read_lock(folder)[1]
    shown = f"mini/{name.replace('/opdcliff', '')}"
    assert line.startswith(f"{shown}: has other line ends (CRLF) than were sealed; set core.")
    (folder / name).write_bytes(data.replace(b"\n", b"\r\n").replace(b"a", b"b", 1))
    assert all("line ends" not in line for line in read_lock(folder)[1])


def test_foreign_line_ends_of_a_table_are_called_that(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(REPO_ROOT / "results" / "locked" / "mini", tmp_path / "mini"))
    table = folder / "cells.csv"
    table.write_bytes(table.read_bytes().replace(b"\n", b"\r\n"))
    with pytest.raises(TamperedError, match=r"cells.csv has other line ends \(CRLF\)"):
        check_tables(folder)


def test_a_shallow_clone_is_called_that(origin: Path, tmp_path: Path) -> None:
    found = checked(cloned(origin, tmp_path, "--depth", "1"))
    assert found.integrity is Integrity.UNANCHORED
    assert "is cut off (a shallow clone)" in said(found)
    assert "git fetch --unshallow" in said(found)
    assert "no ancestor" not in said(found)
    # Where git has the history, it is asked.
    assert "no ancestor" in said(checked(origin))


def test_a_checkout_of_another_owner_is_called_that(
    origin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    found = checked(origin)
    assert found.integrity is Integrity.UNANCHORED
    assert "another user owns; allow it with `git config --global --add safe.directory" in said(
        found
    )
    monkeypatch.setattr(provenance, "REPO_ROOT", origin)
    assert "safe.directory" in str(provenance.unknown_code())


def test_records_without_a_commit_are_warned_of(
    origin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "REPO_ROOT", origin)
    assert provenance.unknown_code() is None
    monkeypatch.setattr(provenance, "REPO_ROOT", tmp_path)
    assert "lies in no git checkout of its own" in str(provenance.unknown_code())
    monkeypatch.setenv("PATH", "")
    assert provenance.unknown_code() == "git is not installed"


@pytest.mark.parametrize("verb", ["verify", "confirm", "lock"])
def test_another_checkout_is_not_judged_with_this_code(
    verb: str, origin: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(origin / "prereg")
    assert other_checkout(Path.cwd()) == origin
    assert main([verb, "protocol=mini"]) == 12
    assert capsys.readouterr().err.startswith(
        f"opdcliff: this folder is of the checkout {origin}, and the code that runs is that of "
    )
    monkeypatch.setattr(paths_module, "REPO_ROOT", origin)
    assert other_checkout(Path.cwd()) is None


def test_verify_names_the_code_that_it_ran(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(REPO_ROOT)
    main(["verify", "protocol=mini", "source=table"])
    assert f", in {REPO_ROOT / 'src' / 'opdcliff'}\n" in capsys.readouterr().out
