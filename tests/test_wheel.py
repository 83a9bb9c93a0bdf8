"""A wheel, installed elsewhere, is the whole program: settings and locks travel with the code."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from opdcliff.paths import REPO_ROOT
from opdcliff.storage.provenance import source_files
from workshop import SECONDS

# What a build reads, and no more: what an earlier build left is not to be packed.
PARTS = ("src", "conf", "prereg", "pyproject.toml", "setup.py", "MANIFEST.in", "README.md")
TINY = [*SECONDS, "sft.teacher.steps=1", "sft.student.steps=1"]
VERBS = [
    ["train", "--help"],
    ["config", "protocol=mini"],
    ["calibrate", *TINY],
    ["train", *TINY, "lam.value=1.2"],
    ["verify", "protocol=mini", "source=table"],
    ["report", "protocol=mini"],
    ["compare"],
]
# All in one process, as starting one takes longer than most verbs.
SCRIPT = """
import contextlib, io, json, sys
import opdcliff
from opdcliff.cli.command import main
from opdcliff.storage import code_state
replies = []
for words in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    replies.append([code, out.getvalue(), err.getvalue()])
print(json.dumps({"file": opdcliff.__file__, "code": code_state(), "replies": replies}))
"""


def pip(*words: str, cwd: Path) -> None:
    command = [sys.executable, "-m", "pip", *words, "--no-index", "--no-deps", "-q"]
    quiet = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run(command, cwd=cwd, env=quiet, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that pip installed the wheel into."""
    for module in ("pip", "setuptools"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"a wheel is built here, without a network, by {module}: there is none")
    if int(version("setuptools").partition(".")[0]) < 77:
        pytest.skip(f"pyproject.toml asks for setuptools 77; here is {version('setuptools')}")
    root = tmp_path_factory.mktemp("wheel")
    tree = root / "tree"
    tree.mkdir()
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in PARTS:
        source = REPO_ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=ignored)
        else:
            shutil.copy(source, tree / name)
    pip("wheel", ".", "--no-build-isolation", "-w", str(root), cwd=tree)
    (wheel,) = root.glob("*.whl")
    pip("install", str(wheel), "--target", str(root / "installed"), cwd=root)
    return root / "installed"


def test_every_verb_runs_from_a_wheel_in_another_folder(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    for name in ("locked/mini", "figures"):
        shutil.copytree(REPO_ROOT / "results" / name, tmp_path / "results" / name)
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    environment.pop("OPDCLIFF_RUNS", None)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(VERBS)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert Path(said["file"]).is_relative_to(installed)
    (_, helped, _), (_, config, _), calibrate, train, verify, report, compare = said["replies"]
    assert "experiment" in helped
    assert "`opdcliff config` prints all of them" in helped
    assert "name: mini" in config
    assert (calibrate[0], train[0], report[0]) == (0, 0, 0), said
    assert "1 of 1 cells" in train[1]
    assert f"in {installed / 'opdcliff'}" in verify[1]
    # The lock that travelled is whole; no repository says when it was made.
    assert verify[0] in (10, 11), verify
    assert "TAMPERED" not in verify[1]
    assert "UNANCHORED" in verify[1]
    assert (tmp_path / "runs" / "results" / "locked" / "mini" / "report.html").is_file()
    assert compare[0] == 12


def test_a_wheel_knows_the_commit_that_it_was_built_from(installed: Path) -> None:
    origin = json.loads((installed / "opdcliff" / "shipped" / "origin.json").read_text())
    assert origin["files"] == source_files()
    # The tree that it was built from here lies in no repository.
    assert (origin["commit"], origin["dirty"]) == ("unknown", True)
