"""One process and several ranks train alike: rollouts, parameters, every number that is logged.

float32 on gloo. Tolerances are absolute. The runs on two ranks go the way of a study's cell, pipe
included; one of them under torchrun, the others forked.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import kept
from kept import keeping
from markov import codec_of
from opdcliff.data.answers import draw_answer
from opdcliff.data.mini import SplitSizes, generate
from opdcliff.data.splits_file import write_splits
from opdcliff.models.load import build, load_model
from opdcliff.models.make_pair import STUDENT, TEACHER
from opdcliff.models.prepare import Prepared
from opdcliff.models.sft import answer_style, fine_tune
from opdcliff.models.tokens.train_bpe import train_bpe
from opdcliff.paths import StudyPaths
from opdcliff.records.record import read_record
from opdcliff.rollout import scoring
from opdcliff.settings.checks import load
from opdcliff.settings.compose import compose_one
from opdcliff.settings.schema import RunConfig
from opdcliff.study.cells import Cell, run_cell
from opdcliff.training import ranks as ranks_module
from opdcliff.training.evaluation import run_evaluation as measuring
from places import HELPERS

LAM = 1.5
UPDATES = 8
WORDS = [
    "debug=seconds",
    "tracking=off",
    f"lam.value={LAM}",
    f"optim.updates={UPDATES}",
    "evaluation.every=1",
    # Shares of uneven size; few answers of such models reach the text.
    "evaluation.prompts=11",
    "evaluation.final_prompts=11",
    "evaluation.collapse_floor=0.0",
    "engine.device=cpu",
    # Shares of three answers in parts of two and one; a chunk of the head for each token of the
    # longest answer, so that ranks whose answers differ in length need as many collectives only
    # if they are padded.
    "rollout.prompts_per_update=6",
    "engine.micro_batch=2",
    "engine.score_chunk_tokens=3",
    # Split all but the norms of the tiny models.
    "engine.persistent_elements=100",
    # Several collectives per update.
    "engine.bucket_elements=20000",
]
# A fold among them, whose entries are chosen per chunk; and the other optimizer.
FULL = [
    "optim.estimator=full",
    "optim.topk=100",
    "optim.updates=4",
    "optim.name=sgd",
    "optim.lr=0.05",
]
EXACT = 1e-5


def _config(*words: str) -> RunConfig:
    return load(compose_one([*WORDS, *words]))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Prompts, and models that have learnt enough to end answers at various lengths."""
    # Threads of several tests would wait for each other; the runs use one as well.
    torch.set_num_threads(1)
    folder, config = tmp_path_factory.mktemp("prepared"), _config()
    data, sft = config.data, config.sft
    splits = generate(
        data.seed, SplitSizes(data.train, data.calibration, data.test), candidates=data.candidates
    )
    write_splits(folder, splits)
    rng = np.random.default_rng(0)
    style = answer_style(sft, sft.teacher, with_reason=True)
    texts = [e.prompt + "".join(p.text for p in draw_answer(e, style, rng)) for e in splits.train]
    tokenizer = train_bpe(texts, 320)
    assert config.model.arch is not None
    for seed, (name, role) in enumerate({TEACHER: sft.teacher, STUDENT: sft.student}.items()):
        model = build(config.model.arch, tokenizer, seed)
        fine_tune(model, codec_of(tokenizer), splits.train, sft, role, seed=seed, with_reason=True)
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return Prepared(folder, folder, "models of this test")


@dataclass
class Run:
    """A run's metrics and what `kept` kept, per rank."""

    history: pd.DataFrame
    ranks: list[dict[str, Any]]

    @property
    def answers(self) -> list[dict[int, list[int]]]:
        """Per update, the answer to each prompt number."""
        per_update = zip(*(rank["answers"] for rank in self.ranks), strict=True)
        return [{n: ids for part in parts for n, ids in part.items()} for parts in per_update]


def _run(prepared: Prepared, folder: Path, *words: str) -> Run:
    (folder / "kept").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(kept.FOLDER, str(folder / "kept"))
        # Few enough for chunks of the full estimator to be run again in the backward pass.
        patch.setenv(kept.CHUNK_LOGITS, "1000")
        patch.setattr(scoring, "CPU_CHUNK_LOGITS", 1000)
        # Fewer than there are test prompts, and one rank has one more of them than another.
        patch.setenv(kept.CLASS_ANSWERS, "9")
        patch.setattr(measuring, "CLASS_ANSWERS", 9)
        patch.setenv("PYTHONPATH", HELPERS, prepend=os.pathsep)
        patch.setattr(ranks_module, "RANK_MODULE", "kept")
        keeping(patch.setattr)
        config, paths = _config(*words), StudyPaths(folder / "runs", folder / "results")
        cell, done = Cell(config, LAM, "test"), list[int]()
        assert run_cell(cell, prepared, paths, done.append) == "finished"
    assert done == list(range(1, config.optim.updates + 1))
    files = sorted((folder / "kept").iterdir())
    assert len(files) == config.engine.ranks
    return Run(
        read_record(cell.folder(prepared, paths)).history, [torch.load(file) for file in files]
    )


@pytest.fixture(scope="module")
def alone(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return _run(prepared, tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module")
def full_alone(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return _run(prepared, tmp_path_factory.mktemp("full_alone"), *FULL)


@pytest.fixture(scope="module")
def start(prepared: Prepared) -> dict[str, torch.Tensor]:
    """The student before training."""
    return dict(load_model(prepared.models / STUDENT, dtype="float32").named_parameters())


# All stages as they are, and the options in two combinations.
SETUPS = {
    "zero0": ["engine=zero0"],
    "zero1": ["engine=zero1"],
    "zero2": ["engine=zero2"],
    "zero3": ["engine=zero3"],
    "zero1 offloading": [
        "engine=zero1",
        "engine.offload_optimizer=true",
        "engine.overlap_comm=true",
    ],
    "zero3 saving most memory": [
        "engine=zero3",
        "engine.shard_teacher=true",
        "engine.gradient_checkpointing=true",
        "engine.offload_parameters=true",
    ],
}


@pytest.mark.multirank
@pytest.mark.parametrize("setup", SETUPS)
def test_two_ranks_train_as_one_process_does(
    setup: str,
    prepared: Prepared,
    alone: Run,
    start: dict[str, torch.Tensor],
    tmp_path: Path,
) -> None:
    shared = _run(prepared, tmp_path, *SETUPS[setup])
    assert len(alone.answers) == UPDATES
    # Parameters moved by far more than the tolerance.
    assert _largest_difference(start, alone.ranks[0]["parameters"]) > 200 * EXACT
    _assert_alike(shared, alone, 0.5 if "shard_teacher" in " ".join(SETUPS[setup]) else 1.0)


@pytest.mark.multirank
def test_two_ranks_of_torchrun_train_as_one_process_does(
    prepared: Prepared, alone: Run, tmp_path: Path
) -> None:
    shared = _run(prepared, tmp_path, *SETUPS["zero2"], "engine.launcher=torchrun")
    _assert_alike(shared, alone, 1.0)


# Heads of teacher and student are collectives inside of the loss; of the teacher's alone; of none.
FULL_SETUPS = ("zero3 saving most memory", "zero2 splitting the teacher", "zero1")


@pytest.mark.multirank
@pytest.mark.parametrize("setup", FULL_SETUPS)
def test_two_ranks_take_the_full_estimator_as_one_process_does(
    setup: str, prepared: Prepared, full_alone: Run, start: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    words = {**SETUPS, FULL_SETUPS[1]: ["engine=zero2", "engine.shard_teacher=true"]}[setup]
    shared = _run(prepared, tmp_path, *FULL, *words)
    assert _largest_difference(start, full_alone.ranks[0]["parameters"]) > 100 * EXACT
    _assert_alike(shared, full_alone, 1.0 if setup == "zero1" else 0.5)


def _assert_alike(shared: Run, alone: Run, held: float) -> None:
    """held: the part of the teacher that a rank has."""
    assert shared.answers == alone.answers
    for first, second in zip(*(rank["answers"] for rank in shared.ranks), strict=True):
        assert len(first) == len(second) == 3
        assert first.keys().isdisjoint(second)
    # Otherwise ranks out of step would go unnoticed.
    lengths = [[max(map(len, part.values())) for part in rank["answers"]] for rank in shared.ranks]
    assert lengths[0] != lengths[1]
    _assert_numbers_alike(shared.history, alone.history)
    trained = alone.ranks[0]["parameters"]
    for rank in shared.ranks:
        # Where tokens hardly occur a gradient is a few roundings, which Adam divides by each other:
        # 5 of 20,480 entries of the embedding lay up to 1.8e-5 apart, all others within 6e-7 [M].
        for name, expected in trained.items():
            apart = (rank["parameters"][name] - expected).abs()
            assert float((apart > EXACT).double().mean()) <= 1e-3, name
            assert float(apart.max()) <= 100 * EXACT, name
        assert not np.isfinite(rank["norm"])
        _assert_moved(rank)
        assert _largest_difference(rank["parameters"], rank["after"]) == 0.0
        _assert_frozen(rank, torch.float32)
        assert _held(rank) == held


def _assert_numbers_alike(shared: pd.DataFrame, alone: pd.DataFrame) -> None:
    """All that is logged but wall times, so that no new metric is left out."""
    shared, alone = (h[[n for n in h if not n.startswith("time/")]] for h in (shared, alone))
    # There is something to compare.
    for name in ("train/residual_sd", "train/headroom_spread", "train/clip_fraction/all"):
        assert alone[name].nunique() > 1, name
    pd.testing.assert_frame_equal(shared, alone, check_like=True, rtol=EXACT, atol=EXACT)


# Of nine answers whose masses are measured one rank has three and the others two and run one more
# row: scoring under a split teacher is collective.
FOUR = ["optim.updates=2", "rollout.prompts_per_update=4", "engine.micro_batch=1", "clip=c2"]


@pytest.mark.multirank
def test_four_ranks_log_what_one_process_does(prepared: Prepared, tmp_path: Path) -> None:
    histories = []
    for name, words in (
        ("alone", []),
        ("shared", ["engine=zero2", "engine.ranks=4", "engine.shard_teacher=true"]),
    ):
        (tmp_path / name).mkdir()
        histories.append(_run(prepared, tmp_path / name, *FOUR, *words).history)
    _assert_numbers_alike(histories[1], histories[0])


@pytest.mark.parametrize("world", [1, 2, 3, 5, 16, 64])
@pytest.mark.parametrize("prompts", [64, 65, 200])
def test_the_same_answers_are_measured_on_any_number_of_ranks(prompts: int, world: int) -> None:
    shares = [measuring.class_rows(prompts, rank, world) for rank in range(world)]
    numbers = [list(range(prompts))[rank::world][:own] for rank, (own, _) in enumerate(shares)]
    assert sorted(n for share in numbers for n in share) == list(range(measuring.CLASS_ANSWERS))
    # As many rows on every rank, none more than another has to run.
    assert {run for _, run in shares} == {max(own for own, _ in shares)}


@pytest.mark.multirank
def test_bfloat16_trains_on_float32_copies(prepared: Prepared, tmp_path: Path) -> None:
    words = ["optim.updates=3", "model.dtype=bfloat16", "engine=zero2", "engine.shard_teacher=true"]
    run = _run(prepared, tmp_path, *words)
    assert np.isfinite(run.history["train/loss"][1:]).all()
    for rank in run.ranks:
        assert {p.dtype for p in rank["parameters"].values()} == {torch.bfloat16}
        assert set(rank["optimizer"]) == {torch.float32}
        _assert_moved(rank)
        _assert_frozen(rank, torch.bfloat16)
        assert _held(rank) == 0.5
        assert _largest_difference(rank["parameters"], run.ranks[0]["parameters"]) == 0.0


def test_frozen_models_stay_out_of_plain_training(alone: Run) -> None:
    _assert_frozen(alone.ranks[0], torch.float32)


def _assert_frozen(rank: dict[str, Any], dtype: torch.dtype) -> None:
    for model in rank["frozen"].values():
        assert model["dtypes"] == {dtype}
        assert model["trainable"] == model["optimized"] == 0


def _assert_moved(rank: dict[str, Any]) -> None:
    """Every kind of optimizer is watched in its first step."""
    moved, meant = rank["first step"]
    assert 0.0 < moved == pytest.approx(meant, rel=0.01)


def _held(rank: dict[str, Any]) -> float:
    """The part of the teacher that a rank holds; the base is of the same size, and whole."""
    held: int = rank["frozen"]["teacher"]["elements"]
    whole: int = rank["frozen"]["base"]["elements"]
    return held / whole


def _largest_difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    assert first.keys() == second.keys()
    return max(float((first[k] - second[k]).detach().abs().max()) for k in first)
