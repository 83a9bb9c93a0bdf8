"""When a decoding step is compiled, when it is not, and what is said of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from opdcliff.models import decoding
from opdcliff.models.decoding import Decoding, prepare_decoding, without_compiled
from opdcliff.models.make_pair import STUDENT
from opdcliff.models.prepare import Prepared, prepare
from opdcliff.paths import StudyPaths
from opdcliff.rollout import StepError
from opdcliff.settings.checks import load
from opdcliff.settings.compose import compose_one
from opdcliff.training.job import Job
from workshop import SECONDS

MANY = 10**6


@pytest.fixture(scope="module")
def place(workshop: Path) -> tuple[StudyPaths, Prepared]:
    paths = StudyPaths(workshop / "runs")
    return paths, prepare(load(compose_one(SECONDS)), paths)


def decide(place: tuple[StudyPaths, Prepared], *words: str, updates: int = MANY) -> Decoding:
    config = load(compose_one([*SECONDS, *words]))
    return prepare_decoding(config, place[0], place[1].models / STUDENT, updates)


def test_a_short_command_does_not_compile(place: tuple[StudyPaths, Prepared]) -> None:
    assert place[1].decoding.backend == "reference"
    enough = -(-decoding.STEPS_THAT_PAY // 32)
    found = decide(place, updates=enough - 1)
    assert (found.backend, found.step) == ("reference", None)
    assert found.reason == f"{32 * (enough - 1)} decoding steps are too few to compile for"


def test_another_backend_is_taken_as_it_is(place: tuple[StudyPaths, Prepared]) -> None:
    for name in ("reference", "continuous"):
        assert decide(place, f"rollout.backend={name}") == Decoding(name)


def test_graphs_are_for_cuda(
    place: tuple[StudyPaths, Prepared], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = decide(place, "rollout.backend=graph")
    assert found == Decoding(
        "reference", reason="graphs are replayed on CUDA, and the device is cpu"
    )
    monkeypatch.setattr(decoding, "pick_device", lambda engine: torch.device("cuda"))
    assert decide(place, "rollout.backend=graph") == Decoding("graph")
    assert "try rollout.backend=graph" in str(decide(place).reason)


def test_without_a_compiler_the_reference_samples(
    place: tuple[StudyPaths, Prepared], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    found = decide(place)
    assert found.backend == "reference"
    assert found.reason == "there is no C++ compiler no-such-compiler (set CXX)"


def test_a_step_is_built_once_and_a_failure_is_told_once(
    place: tuple[StudyPaths, Prepared],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    built: list[Path] = []

    def build(model: object, folder: Path) -> Path:
        built.append(folder / "abc.pt2")
        built[-1].write_text("x")
        return built[-1]

    def fail(model: object, folder: Path) -> Path:
        raise StepError("its step could not be compiled (of all things)")

    monkeypatch.setattr(decoding, "build_step", build)
    monkeypatch.setattr(decoding, "_compiler", lambda: "true")
    first = decide(place)
    assert "compiled the decoding step in" in capsys.readouterr().err
    assert decide(place) == first
    assert len(built) == 1
    assert first.backend == "compiled"
    assert first.step is not None
    assert first.step.read_text() == "x"
    assert first.told()["step"] == "abc"
    assert capsys.readouterr().err == ""
    # Another model is another step.
    monkeypatch.setattr(decoding, "build_step", fail)
    other = [decide(place, "model.dtype=bfloat16") for _ in range(2)]
    assert other[0] == other[1]
    assert other[0].reason == "its step could not be compiled (of all things)"
    assert capsys.readouterr().err.count("slower reference path: its step could not be") == 1


def test_what_is_measured_once_and_kept_is_sampled_by_the_reference() -> None:
    how = load(compose_one(SECONDS)).rollout
    assert how.backend == "compiled"
    assert without_compiled(how) == replace(how, backend="reference")
    assert without_compiled(replace(how, backend="graph")).backend == "reference"
    own = replace(how, backend="continuous")
    assert without_compiled(own) is own


@pytest.mark.parametrize(
    "chosen", [Decoding("reference", reason="why"), Decoding("compiled", Path("/a/b.pt2"))]
)
def test_ranks_are_told_what_samples(tmp_path: Path, chosen: Decoding) -> None:
    prepared = Prepared(Path("data"), Path("models"), "identity", chosen)
    Job(load(compose_one(SECONDS)), 1.5, prepared).write(tmp_path / "job.yaml")
    assert Job.read(tmp_path / "job.yaml").prepared == prepared
