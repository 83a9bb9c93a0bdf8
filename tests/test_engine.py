"""Engines: parts and ranks sum to the whole update, nothing is updated on a gradient that is NaN.

The runs on two ranks go the way of a study's cell, launcher and pipe included.
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

import failing
import kept
from kept import keeping, parameters, refused_update
from opdcliff import assets, launch
from opdcliff.cells import RANKS_LOG, Cell, run_cell
from opdcliff.compose import compose_one
from opdcliff.config import RunConfig
from opdcliff.data.answers import draw_answer
from opdcliff.data.mini import SplitSizes, generate
from opdcliff.engine import SingleEngine, pick_device
from opdcliff.errors import ConfigError, EngineError
from opdcliff.launch import Job
from opdcliff.models import build, load_model
from opdcliff.paths import StudyPaths
from opdcliff.prepare import STUDENT, TEACHER, Prepared
from opdcliff.records import read_record
from opdcliff.settings import load
from opdcliff.sft import answer_style, fine_tune
from opdcliff.tokenization import train_bpe

LAM = 1.5
WORDS = [
    "debug=seconds",
    "tracking=off",
    "evaluation.every=1",
    "evaluation.collapse_floor=0.0",
    "engine.device=cpu",
    # Two parts per update and rank, and several chunks of the head, fewer for shorter answers.
    "engine.micro_batch=1",
    "engine.score_chunk_tokens=8",
]


def _config(*words: str) -> RunConfig:
    return load(compose_one([*WORDS, f"lam.value={LAM}", *words]))


# ---- one process ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Prompts, and models that have learnt enough to end answers at various lengths."""
    folder, config = tmp_path_factory.mktemp("prepared"), _config()
    data, sft = config.data, config.sft
    splits = generate(
        data.seed, SplitSizes(data.train, data.calibration, data.test), candidates=data.candidates
    )
    assets.write_splits(folder, splits)
    rng = np.random.default_rng(0)
    style = answer_style(sft, sft.teacher, with_reason=True)
    texts = [e.prompt + "".join(p.text for p in draw_answer(e, style, rng)) for e in splits.train]
    tokenizer = train_bpe(texts, 320)
    assert config.model.arch is not None
    for seed, (name, role) in enumerate({TEACHER: sft.teacher, STUDENT: sft.student}.items()):
        model = build(config.model.arch, tokenizer, seed)
        fine_tune(model, tokenizer, splits.train, sft, role, seed=seed, with_reason=True)
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return Prepared(folder, folder, "models of this test")


def _single(**changes: Any) -> SingleEngine:
    config = _config()
    assert config.model.arch is not None
    vars(config.optim).update(changes)
    # AdamW divides by the size of the gradient, which makes much of rounding.
    return SingleEngine(build(config.model.arch, train_bpe(["a b"], 270), 0).double(), config)


def _loss(engine: SingleEngine, rows: slice) -> torch.Tensor:
    ids = torch.arange(5, 53).view(4, 12)[rows]
    return -engine.score(ids, torch.ones_like(ids), 6, False).sum() / 24


def test_parts_sum_to_the_whole_update() -> None:
    whole, parted = _single(), _single()
    whole.backward(_loss(whole, slice(None)), last=True)
    for start in range(4):
        parted.backward(_loss(parted, slice(start, start + 1)), last=start == 3)
    norm = whole.step()
    assert parted.step() == pytest.approx(norm, rel=1e-12)
    for first, second in zip(parameters(whole).values(), parameters(parted).values(), strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=1e-9)


def test_updates_do_not_share_gradients() -> None:
    engine = _single(lr=1e-12)
    norms = []
    for _ in range(2):
        engine.backward(_loss(engine, slice(None)), last=True)
        norms.append(engine.step())
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)


def test_the_norm_is_that_before_clipping() -> None:
    engines = [_single(grad_clip=clip) for clip in (1e9, 1e-3)]
    norms = []
    for engine in engines:
        engine.backward(_loss(engine, slice(None)), last=True)
        norms.append(engine.step())
    assert norms[0] == norms[1] > 1e-3


def test_a_norm_that_is_not_finite_updates_nothing() -> None:
    engine = _single()
    before = parameters(engine)
    assert not np.isfinite(refused_update(engine))
    assert _same(before, parameters(engine))
    engine.backward(_loss(engine, slice(None)), last=True)
    assert np.isfinite(engine.step())
    assert not _same(before, parameters(engine))


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["engine.ranks=2"], "engine.ranks=2 needs a ZeRO engine"),
        (["engine.offload_optimizer=true"], "engine.offload_optimizer=true needs a ZeRO engine"),
        (["engine=zero2", "model.dtype=float64"], "model.dtype=float64"),
        (["engine=zero2", "rollout.prompts_per_update=5"], "prompts_per_update=5 .*ranks=2"),
        (["engine=zero2", "evaluation.prompts=1"], "evaluation.prompts=1 .*ranks=2"),
        (["engine.name=zero4"], r"single \| zero1 \| zero2 \| zero3"),
    ],
)
def test_what_ranks_cannot_share_is_refused(words: list[str], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        _config(*words)


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"engine\.device=cuda and torch sees no GPU"):
        pick_device(_config("engine.device=cuda").engine)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match=r"engine\.ranks=2 and torch sees 1 GPUs"):
        pick_device(_config("engine=zero2", "engine.device=auto").engine)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    device = pick_device(_config("engine=zero2", "engine.device=auto").engine)
    assert device == torch.device("cuda", 1)


def test_a_job_arrives_as_it_was_sent(tmp_path: Path) -> None:
    config = _config("engine=zero1", "optim.lr=1.2345678901e-05", "optim.topk=null")
    job = Job(config, 1.1 / 3, Prepared(Path("a b"), Path("/x"), "0e12"))
    job.write(tmp_path / "job.yaml")
    assert Job.read(tmp_path / "job.yaml") == job


# ---- two ranks ------------------------------------------------------------------------------


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
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        patch.setattr(launch, "RANK_MODULE", "kept")
        keeping(patch.setattr)
        config, paths = _config(*words), StudyPaths(folder / "runs", folder / "results")
        cell, done = Cell(config, LAM, "test"), list[int]()
        assert run_cell(cell, prepared, paths, done.append) == "finished"
    assert done == [1, 2, 3, 4]
    files = sorted((folder / "kept").iterdir())
    return Run(
        read_record(cell.folder(prepared, paths)).history, [torch.load(file) for file in files]
    )


@pytest.fixture(scope="module")
def alone(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return _run(prepared, tmp_path_factory.mktemp("alone"))


@pytest.mark.multirank
@pytest.mark.parametrize("engine", ["zero2", "zero3"])
def test_two_ranks_train_as_one_process_does(
    engine: str, prepared: Prepared, alone: Run, tmp_path: Path
) -> None:
    shared = _run(prepared, tmp_path, f"engine={engine}")
    assert shared.answers == alone.answers
    for first, second in zip(*(rank["answers"] for rank in shared.ranks), strict=True):
        assert len(first) == len(second) == 2
        assert first.keys().isdisjoint(second)
    # Otherwise ranks out of step would go unnoticed.
    lengths = [[max(map(len, part.values())) for part in rank["answers"]] for rank in shared.ranks]
    assert lengths[0] != lengths[1]
    for name in ("train/loss", "train/grad_norm"):
        expected, found = alone.history[name][1:], shared.history[name][1:]
        # A loss is a sum in which large terms of both signs cancel, hence the absolute part.
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-6)
    same = [name for name in alone.history if str(name).startswith("eval/")]
    pd.testing.assert_frame_equal(shared.history[same], alone.history[same])
    trained = alone.ranks[0]["parameters"]
    start = dict(load_model(prepared.models / STUDENT, dtype="float32").named_parameters())
    for rank in shared.ranks:
        assert _distance(rank["parameters"], trained) < 1e-3 * _distance(start, trained)
        assert not np.isfinite(rank["norm"])
        assert _same(rank["parameters"], rank["after"])


# ---- ranks that end badly -------------------------------------------------------------------


def _failing_cell(
    fault: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Cell, Prepared, StudyPaths]:
    monkeypatch.setenv(failing.FAULT, fault)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    monkeypatch.setattr(launch, "RANK_MODULE", "failing")
    cell = Cell(_config("engine=zero2"), LAM, "test")
    return cell, Prepared(folder, folder, "none"), StudyPaths(folder / "runs", folder)


@pytest.mark.multirank
@pytest.mark.usefixtures("no_git")
@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("raise", "rank 1 failed: RuntimeError: too little bread; what"),
        ("late", "rank 1 failed: RuntimeError: too little bread; what"),
        ("kill", "rank 1 was killed or ran out of memory; rank 0 lost touch with it; what"),
        ("leave", r"all 2 ranks ended without a word \(exit code 0\)"),
    ],
)
def test_a_rank_that_fails_fails_the_run(
    fault: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell, prepared, paths = _failing_cell(fault, tmp_path, monkeypatch)
    with pytest.raises(EngineError, match=text) as caught:
        run_cell(cell, prepared, paths)
    folder = cell.folder(prepared, paths)
    record = read_record(folder)
    assert record.status == "failed"
    assert str(caught.value) in record.manifest["reason"]
    assert str(folder / RANKS_LOG) in str(caught.value)
    assert (fault in ("raise", "late")) == ("little bread" in (folder / RANKS_LOG).read_text())


@pytest.mark.multirank
@pytest.mark.usefixtures("no_git")
def test_an_interrupt_ends_the_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell, prepared, paths = _failing_cell("sleep", tmp_path, monkeypatch)
    ranks = []

    def interrupt(update: int) -> None:
        ranks.append(update)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_cell(cell, prepared, paths, interrupt)
    assert read_record(cell.folder(prepared, paths)).status == "preempted"
    with pytest.raises(ProcessLookupError):
        os.kill(ranks[0], 0)


def _same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def _distance(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    """Euclidean distance of two sets of parameters."""
    assert first.keys() == second.keys()
    return sum(float((first[k] - second[k]).detach().square().sum()) for k in first) ** 0.5
