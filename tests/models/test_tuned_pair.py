"""Loaded models made into teacher, warm start and larger baseline: whole, or by adapters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from opdcliff.errors import ModelError
from opdcliff.models.prepare import prepare
from opdcliff.paths import StudyPaths
from opdcliff.records.record import read_record
from opdcliff.settings.checks import load
from opdcliff.settings.compose import compose_one
from opdcliff.storage.asset_cache import manifest
from opdcliff.study.cells import Cell, run_cell
from workshop import SECONDS, prepared_pair

STEPS = ["sft.teacher.steps=2", "sft.student.steps=2"]
BOTH = ["model.tune_loaded_student=true", "model.tune_loaded_teacher=true"]
Make = Callable[..., Path]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return prepared_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture
def make(pair: list[str], tmp_path: Path) -> Make:
    """The folder of the models that come out under these words."""

    def made(*words: str) -> Path:
        config = load(compose_one([*SECONDS, *pair, *STEPS, *words]))
        return prepare(config, StudyPaths(tmp_path / "runs", tmp_path / "results")).models

    return made


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def source(pair: list[str], role: str) -> dict[str, Tensor]:
    word = next(word for word in pair if word.startswith(f"model.{role}="))
    return weights(Path(word.partition("=")[2]))


def moved(folder: Path, before: dict[str, Tensor]) -> set[str]:
    after = weights(folder)
    assert after.keys() == before.keys()
    return {name for name, value in after.items() if not torch.equal(value, before[name])}


def test_a_loaded_teacher_is_tuned_from_its_own_weights(make: Make, pair: list[str]) -> None:
    folder = make("model.tune_loaded_teacher=true")
    assert manifest(folder)["facts"]["fine_tuned"] == ["teacher"]
    assert moved(folder / "teacher", source(pair, "teacher"))
    # Not from the student's: two steps leave it near where it was.
    near, far = (
        sum(float((value - source(pair, role)[name]).norm()) for name, value in found.items())
        for found in [weights(folder / "teacher")]
        for role in ("teacher", "student")
    )
    assert near < far / 2
    assert not moved(folder / "student", source(pair, "student"))


def test_an_adapter_is_merged_and_leaves_what_it_is_not_on(make: Make, pair: list[str]) -> None:
    folder = make(*BOTH, "sft.lora_rank=2")
    assert manifest(folder)["facts"]["fine_tuned"] == ["teacher", "student"]
    for role in ("teacher", "student"):
        assert not list((folder / role).glob("adapter*"))
        changed = moved(folder / role, source(pair, role))
        assert changed
        assert all(name.endswith("proj.weight") for name in changed)
    change = (
        weights(folder / "teacher")["model.layers.0.mlp.up_proj.weight"]
        - source(pair, "teacher")["model.layers.0.mlp.up_proj.weight"]
    )
    assert int(torch.linalg.matrix_rank(change, rtol=1e-4)) == 2


def test_passes_of_fewer_answers_make_the_same_step(make: Make, pair: list[str]) -> None:
    whole, parts = (
        weights(make(*BOTH, *words) / "student") for words in ([], ["sft.micro_batch=3"])
    )
    for name, value in whole.items():
        assert torch.allclose(value, parts[name], atol=1e-5), name


def test_a_larger_baseline_is_tuned_from_a_loaded_model(
    make: Make, pair: list[str], tmp_path: Path
) -> None:
    paths = StudyPaths(tmp_path / "runs", tmp_path / "results")
    config = load(compose_one([*SECONDS, *pair, *STEPS, "sft.lora_rank=2"]))
    prepared = prepare(config, paths)
    # As `baseline_config` puts a larger model that is loaded: in the student's place.
    config.model.student = config.model.teacher
    cell = Cell(config, 1.0, "baselines", "larger_sft")
    assert run_cell(cell, prepared, paths) == "finished"
    last = read_record(cell.folder(prepared, paths)).history.iloc[-1]
    # The adapter is in it, not beside it.
    tied = sum(value.numel() for value in source(pair, "teacher").values())
    assert last["model/parameters"] == tied
    assert 0.0 <= last["eval/parse_rate"] <= 1.0


def test_another_vocabulary_of_the_larger_model_is_refused(
    make: Make, pair: list[str], tmp_path: Path
) -> None:
    paths = StudyPaths(tmp_path / "runs", tmp_path / "results")
    config = load(compose_one([*SECONDS, *pair, *STEPS]))
    prepared = prepare(config, paths)
    own = prepare(load(compose_one([*SECONDS, *STEPS, "data.tokenizer_entries=300"])), paths).models
    config.model.student = str(own / "teacher")
    with pytest.raises(ModelError, match="larger model"):
        run_cell(Cell(config, 1.0, "baselines", "larger_sft"), prepared, paths)
