"""Names are plain and no path leaves its root."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opdcliff.errors import ConfigError
from opdcliff.paths import (
    MAX_NAME_LENGTH,
    REPO_ROOT,
    StudyPaths,
    conf_dir,
    results_root,
    runs_root,
    safe_name,
)

DIGEST = "0123456789abcdef" * 4


@pytest.fixture
def study(tmp_path: Path) -> StudyPaths:
    return StudyPaths(runs=tmp_path / "runs", results=tmp_path / "results")


def test_checkout_is_found() -> None:
    assert (REPO_ROOT / "pyproject.toml").is_file()
    assert conf_dir() == REPO_ROOT / "conf"


def test_roots_follow_folder_and_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPDCLIFF_RUNS", raising=False)
    assert StudyPaths() == StudyPaths(tmp_path / "runs", tmp_path / "results")
    monkeypatch.setenv("OPDCLIFF_RUNS", "elsewhere")
    assert runs_root() == tmp_path / "elsewhere"
    assert results_root() == tmp_path / "results"


def test_layout(study: StudyPaths) -> None:
    cell = study.cell_dir("mini", "lam=1.25_c=5_seed=3", DIGEST)
    assert cell == study.runs / "mini" / "lam=1.25_c=5_seed=3-0123456789ab"
    assert study.cell_dir("mini", "a", DIGEST[:12]).name == "a-0123456789ab"
    assert study.assets_dir("teacher", DIGEST) == study.runs / "assets" / "teacher-0123456789ab"
    assert study.committed.study_dir("mini", "v1") == study.results / "studies" / "mini" / "v1"
    own = study.runs / "results"
    assert study.own.study_dir("mini", "v1") == own / "studies" / "mini" / "v1"
    assert study.own.locked_dir("v1") == own / "locked" / "v1"
    assert study.own.grid_dir("v1") == own / "grids" / "v1"
    assert study.own.figures_dir() == own / "figures"


HOSTILE = [
    "../../x",
    "..",
    "a..b",
    "/etc/passwd",
    "a/b",
    "a\\b",
    ".hidden",
    "-flag",
    "=x",
    "",
    "a b",
    "a\n",
    "a\0",
    "caf\u00e9",
    "x" * (MAX_NAME_LENGTH + 1),
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_refused_in_one_line(study: StudyPaths, name: str) -> None:
    for build in (
        lambda: safe_name(name),
        lambda: study.cell_dir(name, "a", DIGEST),
        lambda: study.cell_dir("mini", name, DIGEST),
        lambda: study.assets_dir(name, DIGEST),
        lambda: study.output.study_dir(name, "v1"),
        lambda: study.output.study_dir("mini", name),
        lambda: study.committed.locked_dir(name),
        lambda: study.readable.grid_dir(name),
    ):
        with pytest.raises(ConfigError, match="not usable in a path") as caught:
            build()
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 250


@given(st.text(max_size=20))
def test_every_accepted_name_is_one_plain_component(name: str) -> None:
    try:
        safe_name(name)
    except ConfigError:
        return
    path = Path("/root") / name
    assert path.parent == Path("/root")
    assert path.resolve() == path
    assert name.isascii()
    assert not name.startswith((".", "-"))


@pytest.mark.parametrize("name", ["a", "_x", "lam=1.25", "x" * MAX_NAME_LENGTH, "A.b-c_d"])
def test_plain_names_pass(study: StudyPaths, name: str) -> None:
    assert safe_name(name) == name
    assert study.cell_dir(name, name, DIGEST).parent == study.runs / name


@pytest.mark.parametrize("identity", ["", "0123", "../../../../x", DIGEST.upper(), DIGEST + "0"])
def test_bad_digest_is_refused(study: StudyPaths, identity: str) -> None:
    with pytest.raises(ConfigError, match="hex digits"):
        study.cell_dir("mini", "a", identity)


@pytest.mark.parametrize("name", ["assets", "results"])
def test_folders_of_other_things_are_no_protocols(study: StudyPaths, name: str) -> None:
    with pytest.raises(ConfigError, match="reserved"):
        study.cell_dir(name, "a", DIGEST)


def test_results_are_written_to_ones_own_unless_the_committed_are_renewed(
    study: StudyPaths,
) -> None:
    assert study.output == study.own
    renewing = StudyPaths(study.runs, study.results, renew=True)
    assert renewing.output == renewing.committed


def test_committed_results_are_read_before_ones_own(study: StudyPaths) -> None:
    committed, own = (r.study_dir("mini", "v1") for r in (study.committed, study.own))
    assert study.readable.study_dir("mini", "v1") == committed
    own.mkdir(parents=True)
    assert study.readable.study_dir("mini", "v1") == own
    committed.mkdir(parents=True)
    assert study.readable.study_dir("mini", "v1") == committed


def test_symlink_out_of_the_root_is_refused(study: StudyPaths, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    for folder in (outside, study.runs, study.results):
        folder.mkdir()
    (study.runs / "mini").symlink_to(outside)
    (study.runs / "assets").symlink_to("../outside")
    (study.results / "studies").symlink_to(tmp_path / "not-yet-there")
    (study.runs / "results").symlink_to(outside)
    for build in (
        lambda: study.cell_dir("mini", "a", DIGEST),
        lambda: study.assets_dir("teacher", DIGEST),
        lambda: study.committed.study_dir("mini", "v1"),
        lambda: study.own.study_dir("mini", "v1"),
    ):
        with pytest.raises(ConfigError, match="symbolic link"):
            build()


def test_root_may_itself_be_a_symlink(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "runs").symlink_to(tmp_path / "disk")
    study = StudyPaths(runs=tmp_path / "runs", results=tmp_path / "results")
    assert study.cell_dir("mini", "a", DIGEST).parent == tmp_path / "runs" / "mini"
