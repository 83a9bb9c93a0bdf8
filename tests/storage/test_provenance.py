"""A commit is named only where it is the code's own."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from opdcliff.storage.provenance import git_state


def test_git_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert git_state(tmp_path) == ("unknown", True)
    assert git_state(tmp_path / "missing") == ("unknown", True)
    for arguments in (
        ["init", "-q"],
        ["-c", "user.name=n", "-c", "user.email=e", "commit", "-q", "--allow-empty", "-m", "m"],
    ):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True)
    commit, dirty = git_state(tmp_path)
    assert len(commit) == 40
    assert not dirty
    (tmp_path / "sub").mkdir()
    assert git_state(tmp_path / "sub") == ("unknown", True)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "cells.csv").touch()
    assert git_state(tmp_path) == (commit, False)
    (tmp_path / "sub" / "new.py").touch()
    assert git_state(tmp_path) == (commit, True)
    monkeypatch.setenv("PATH", "")
    assert git_state(tmp_path) == ("unknown", True)
