"""environment.yml and Dockerfile install what pyproject asks for, as constraints.txt pins it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from opdcliff.paths import REPO_ROOT

PROJECT: dict[str, Any] = tomllib.loads((REPO_ROOT / "pyproject.toml").read_text())["project"]
DIRECT = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}


def pins(lines: list[str]) -> dict[str, str]:
    """Package and exact version of every line that names one."""
    plain = [line.strip() for line in lines if line.strip() and line[0] not in "#-"]
    split = [line.split("==") for line in plain]
    assert all(len(parts) == 2 for parts in split), "a line without an exact version"
    return {canonicalize_name(name): version for name, version in split}


CONSTRAINTS = pins((REPO_ROOT / "constraints.txt").read_text().splitlines())


# ---- constraints.txt --------------------------------------------------------------------------


def test_every_dependency_is_pinned_within_its_range() -> None:
    extras = [line for lines in PROJECT["optional-dependencies"].values() for line in lines]
    for line in [*PROJECT["dependencies"], *extras]:
        wanted = Requirement(line)
        assert wanted.specifier.contains(CONSTRAINTS[canonicalize_name(wanted.name)]), line


# ---- environment.yml --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def environment() -> dict[str, Any]:
    plain: dict[str, Any] = yaml.safe_load((REPO_ROOT / "environment.yml").read_text())
    return plain


@pytest.fixture(scope="module")
def pip_lines(environment: dict[str, Any]) -> list[str]:
    (lines,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    return list(lines)


def test_conda_takes_a_python_that_the_package_allows(environment: dict[str, Any]) -> None:
    (python,) = [e for e in environment["dependencies"] if str(e).startswith("python")]
    name, _, version = str(python).partition("=")
    assert name == "python"
    assert SpecifierSet(PROJECT["requires-python"]).contains(version)
    assert "pip" in environment["dependencies"]


def test_conda_pins_all_direct_dependencies_and_as_the_constraints_do(pip_lines: list[str]) -> None:
    named = pins(pip_lines)
    assert named == {name: CONSTRAINTS[name] for name in DIRECT}


def test_conda_installs_the_checkout_under_the_constraints(pip_lines: list[str]) -> None:
    flags = [line for line in pip_lines if line.startswith("-")]
    assert flags[0] == "-c constraints.txt"
    assert flags[1].startswith("-e .[")
    assert len(flags) == 2
    extras = flags[1].removeprefix("-e .[").removesuffix("]").split(",")
    assert sorted(extras) == sorted(PROJECT["optional-dependencies"])


# ---- Dockerfile -------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    """Word and arguments of each instruction, continuation lines joined, comments left out."""
    text = (REPO_ROOT / "Dockerfile").read_text()
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ").splitlines()
    return [(word, " ".join(rest.split())) for word, _, rest in (x.partition(" ") for x in joined)]


DOCKER = instructions()
RUNS = [rest for word, rest in DOCKER if word == "RUN"]


def test_the_image_starts_from_a_pinned_cuda_image_of_the_torch_build() -> None:
    stages: list[str] = []
    for source, _, name in (rest.partition(" AS ") for word, rest in DOCKER if word == "FROM"):
        if source not in stages:
            assert re.fullmatch(r"nvidia/cuda:13\.0\.\d+-devel-ubuntu24\.04", source), source
        stages.append(name)
    assert "test" in stages
    # torch 2.13.0 is built for CUDA 13.0: another torch needs another image.
    assert CONSTRAINTS["torch"] == "2.13.0"


def test_the_image_installs_what_make_installs() -> None:
    """`make install`, which puts the extras in under the constraints; and no package by hand."""
    assert "make install" in RUNS
    recipe = (REPO_ROOT / "Makefile").read_text()
    assert "$(call put_in,-c constraints.txt torch)\n" in recipe
    assert '$(call put_in,-c constraints.txt -e ".[$(EXTRAS)]")\n' in recipe
    (extras,) = re.findall(r"^EXTRAS := (\S+)$", recipe, re.MULTILINE)
    assert sorted(extras.split(",")) == sorted(PROJECT["optional-dependencies"])
    by_pip = [run for run in RUNS if "pip install" in run]
    (install, _, check) = by_pip[0].partition(" && ")
    assert len(by_pip) == 1
    assert install.endswith("-c constraints.txt deepspeed")
    assert {"--no-deps", "--no-build-isolation", "--force-reinstall"} <= set(install.split())
    assert "DS_ACCELERATOR=cuda DS_BUILD_CPU_ADAM=1" in install
    # Fails the build where the operator was left to be compiled at run time.
    assert "import torch, deepspeed.ops.adam.cpu_adam_op" in check


def test_the_test_stage_runs_all_tests() -> None:
    at = DOCKER.index(("FROM", "package AS test"))
    assert DOCKER[at + 1] == ("RUN", "make test")


def test_the_image_runs_as_nobody_special() -> None:
    users = [rest for word, rest in DOCKER if word == "USER"]
    assert users
    assert all(user not in ("root", "0") for user in users)
    named = [(word, rest) for word, rest in DOCKER if word in ("USER", "RUN")]
    # Only what comes before it, the system's packages, is done by root.
    assert [word for word, _ in named[:2]] == ["RUN", "USER"]
    assert f"--uid {users[-1]} " in named[0][1]


def test_the_image_copies_from_the_checkout_only_and_holds_no_secret() -> None:
    sources = [rest.split()[:-1] for word, rest in DOCKER if word == "COPY"]
    for source in (part for parts in sources for part in parts if not part.startswith("--")):
        assert (REPO_ROOT / source).exists(), source
    assert "ADD" not in {word for word, _ in DOCKER}
    text = (REPO_ROOT / "Dockerfile").read_text()
    assert not re.search(r"(?i)https?://|index-url|token|password|secret|api_?key", text)


def test_nothing_that_git_tracks_is_kept_out_of_the_image() -> None:
    """It would make the copy in the image a changed checkout, and its records dirty."""

    def patterns(name: str) -> set[str]:
        lines = (REPO_ROOT / name).read_text().splitlines()
        return {line.removeprefix("**/") for line in lines if line and not line.startswith("#")}

    left_out = patterns(".dockerignore")
    assert {".venv/", "runs/"} <= left_out
    assert left_out - {".git/config"} <= patterns(".gitignore")


@pytest.mark.parametrize("name", ["Dockerfile", "environment.yml", ".dockerignore"])
def test_files_stay_short_and_plain(name: str) -> None:
    text = Path(REPO_ROOT, name).read_text()
    assert text.isascii()
    assert max(map(len, text.splitlines())) <= 100
    assert len(text.splitlines()) <= 60
