"""The sealed copy judges, apart from today's code; whatever is changed in it is told."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from locked import PROTOCOL, make_study, run_git
from opdcliff.errors import InadmissibleError
from opdcliff.paths import REPO_ROOT, StudyPaths
from opdcliff.storage import file_digest
from opdcliff.verification import verification as verifying
from opdcliff.verification.lock import read_lock
from opdcliff.verification.run_sources import runs_of
from opdcliff.verification.sealed_code import (
    JUDGE,
    METRIC_CODE,
    SEALED,
    SEALED_MANIFEST,
    SealedCopy,
    sealed_copy,
    write_copy,
)
from opdcliff.verification.verdicts import Outcome, Verdict
from opdcliff.verification.verification import Integrity, Verification

MINI = REPO_ROOT / "prereg" / "mini"


@pytest.fixture(scope="module", params=[1, 2], ids=["format 1", "format 2"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    repo = tmp_path_factory.mktemp("whole")
    make_study(repo, request.param)
    return repo


@pytest.fixture
def repo(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def checked(repo: Path) -> Verification:
    paths = StudyPaths(repo / "runs", repo / "results", repo / "prereg")
    return verifying.verify_runs(
        PROTOCOL, paths, runs_of("records", PROTOCOL, paths, entity=None, project=None)
    )


def files_of(repo: Path) -> list[Path]:
    return sorted((repo / "prereg" / PROTOCOL / SEALED / "opdcliff").rglob("*.py"))


def outcomes(found: Verification) -> list[Outcome]:
    return [verdict.outcome for verdict in found.verdicts]


# ---- tampering ----------------------------------------------------------------------------------


def tampered(repo: Path, word: str) -> None:
    found = checked(repo)
    assert (found.integrity, found.exit_code, found.verdicts) == (Integrity.TAMPERED, 13, [])
    assert any(word in deviation.what for deviation in found.deviations)


def test_one_flipped_bit_in_any_file_of_the_copy_is_tampered(repo: Path) -> None:
    assert checked(repo).exit_code == 0
    for file in files_of(repo):
        data = file.read_bytes()
        file.write_bytes(bytes([data[0] ^ 1]) + data[1:])
        tampered(repo, f"{file.name}: changed since it was sealed")
        file.write_bytes(data)
    assert checked(repo).exit_code == 0


def test_a_file_that_is_removed_or_added_is_tampered(repo: Path) -> None:
    file = files_of(repo)[-1]
    data = file.read_bytes()
    file.unlink()
    tampered(repo, "sealed and not there")
    file.write_bytes(data)
    file.with_name("sitecustomize.py").write_text("")
    tampered(repo, "not in the copy")


@pytest.mark.parametrize(
    "edit",
    [
        lambda manifest: manifest["files"].pop("errors.py"),
        lambda manifest: manifest["files"].update({"errors.py": "0" * 64}),
        lambda manifest: manifest["files"].update({"evil.py": "0" * 64}),
    ],
    ids=["a file left out", "another hash", "a file more"],
)
def test_an_edited_manifest_of_an_old_lock_is_tampered(
    edit: Callable[[dict[str, dict[str, str]]], object], tmp_path: Path
) -> None:
    make_study(tmp_path, 1)
    path = tmp_path / "prereg" / PROTOCOL / SEALED / SEALED_MANIFEST
    manifest = json.loads(path.read_text())
    edit(manifest)
    path.write_text(json.dumps(manifest))
    assert checked(tmp_path).integrity is Integrity.TAMPERED


def test_an_old_lock_without_its_manifest_gives_no_verdict(tmp_path: Path) -> None:
    make_study(tmp_path, 1)
    (tmp_path / "prereg" / PROTOCOL / SEALED / SEALED_MANIFEST).unlink()
    with pytest.raises(InadmissibleError, match="restore it from git"):
        checked(tmp_path)


def test_what_judges_an_old_lock_is_always_a_file_that_the_lock_seals(tmp_path: Path) -> None:
    make_study(tmp_path, 1)
    path = tmp_path / "prereg" / PROTOCOL / SEALED / SEALED_MANIFEST
    manifest = json.loads(path.read_text()) | {"entry": "opdcliff.errors"}
    path.write_text(json.dumps(manifest))
    assert checked(tmp_path).exit_code == 0


def test_the_copy_of_an_old_lock_is_compared_with_the_commit_in_git(tmp_path: Path) -> None:
    """Where git has the commit, other bytes are told though the manifest was edited to fit."""
    folder = tmp_path / "prereg" / "x"
    (tmp_path / "src" / "opdcliff").mkdir(parents=True)
    (tmp_path / "src" / "opdcliff" / "errors.py").write_text("A = 1\n")
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "code"]):
        run_git(tmp_path, *words)
    root = folder / SEALED / "opdcliff"
    root.mkdir(parents=True)
    for text, found in (("A = 1\n", 0), ("A = 2\n", 1)):
        (root / "errors.py").write_text(text)
        files = {"errors.py": file_digest(root / "errors.py")}
        commit = run_git(tmp_path, "rev-parse", "HEAD")
        copy = SealedCopy(folder / SEALED, files, "opdcliff.errors", commit)
        assert len(copy.differences()) == found
        assert replace(copy, commit="0" * 40).differences() == []


# ---- who judges ---------------------------------------------------------------------------------


def test_todays_code_changes_no_verdict_and_is_told_where_it_would(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = checked(repo)
    assert before.otherwise_today == []
    original = verifying.judge

    def otherwise(*arguments: object) -> Verdict:
        return replace(original(*arguments), outcome=Outcome.REFUTED)

    monkeypatch.setattr(verifying, "judge", otherwise)
    after = checked(repo)
    assert outcomes(after) == outcomes(before) == [Outcome.CONFIRMED] * 2
    assert (after.integrity, after.exit_code) == (before.integrity, before.exit_code)
    assert (
        "today's code would say REFUTED, the sealed code says CONFIRMED" in after.otherwise_today[0]
    )


def test_the_copy_is_executed_apart(repo: Path) -> None:
    lock, _ = read_lock(repo / "prereg" / PROTOCOL)
    assert lock is not None
    module = sealed_copy(repo / "prereg" / PROTOCOL, lock.sources, lock.entry).execute()
    assert module.__name__.startswith("opdcliff_sealed_")
    assert module.Verdict is not Verdict
    # What it imports of its package is of the copy, too.
    assert module.onset_of_seed.__module__.startswith("opdcliff_sealed_")
    assert module.holm({"a": 0.02, "b": 0.5}) == {"a": 0.04, "b": 0.5}


def test_a_copy_that_says_otherwise_is_believed(tmp_path: Path) -> None:
    """The verdict comes from the bytes of the copy: changed and sealed so, they decide."""
    digests = write_copy(tmp_path)
    file = tmp_path / SEALED / "opdcliff" / "verification" / "verdicts.py"
    file.write_text(file.read_text() + "\n\njudge = corrected = lambda *_: 'otherwise'\n")
    digests["verification/verdicts.py"] = file_digest(file)
    module = sealed_copy(tmp_path, digests, JUDGE).execute()
    assert module.judge(None, {}, []) == "otherwise"


def test_an_import_of_what_the_copy_does_not_hold_fails_in_one_line(tmp_path: Path) -> None:
    root = tmp_path / SEALED / "opdcliff"
    root.mkdir(parents=True)
    (root / "verdicts.py").write_text("from opdcliff.theory import lambda_star\n")
    files = {"verdicts.py": file_digest(root / "verdicts.py")}
    with pytest.raises(InadmissibleError, match=r"no module opdcliff\.theory"):
        SealedCopy(tmp_path / SEALED, files, "opdcliff.verdicts").execute()


def test_a_new_copy_holds_all_that_its_verdicts_import_and_the_metric_code(tmp_path: Path) -> None:
    names = set(write_copy(tmp_path))
    assert {*METRIC_CODE, "verification/verdicts.py", "theory/onset.py", "errors.py"} <= names
    assert not any(name.startswith(("training/loop", "models/", "cli/")) for name in names)


# ---- the real one -------------------------------------------------------------------------------


def test_the_copy_of_the_real_lock_is_whole() -> None:
    lock, broken = read_lock(MINI)
    assert lock is not None
    assert broken == []
    copy = sealed_copy(MINI, lock.sources, lock.entry)
    assert set(copy.files) == {*lock.sources, "errors.py"}
    assert copy.entry == "opdcliff.verdicts"


def test_edited_code_of_today_leaves_the_real_verdicts_as_they_are(tmp_path: Path) -> None:
    """In a checkout whose onset code is another: the same exit code, and what today's would say."""
    for name in ("src", "prereg", "results", "conf"):
        shutil.copytree(REPO_ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*.png"))
    file = tmp_path / "src" / "opdcliff" / "theory" / "onset.py"
    text = file.read_text()
    changed = text.replace("half = stats.t.ppf(", "half = 20.0 * stats.t.ppf(")
    assert changed != text
    file.write_text(changed)
    done = subprocess.run(
        [sys.executable, "-m", "opdcliff", "verify", "protocol=mini", "source=table"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "src"), "PATH": "/usr/bin:/bin", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 10, done.stderr
    assert "T1: today's code would say INCONCLUSIVE, the sealed code says CONFIRMED" in done.stdout
