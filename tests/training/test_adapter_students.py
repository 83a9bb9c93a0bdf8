"""Students with a LoRA adapter: they learn, the adapter is what is kept, ranks and resume agree.

One that is killed is in test_resume.py.
"""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, load_file

import crash
from crash import UPDATES, folder_of, outcome, run_here
from opdcliff.errors import PreemptedError
from opdcliff.models.load import load_model, load_tokenizer
from opdcliff.models.loaded import load_kept
from opdcliff.models.make_pair import STUDENT
from opdcliff.models.prepare import Prepared
from opdcliff.processes.preemption import listening
from opdcliff.records.files import read_manifest
from opdcliff.records.record import read_record
from opdcliff.training.checkpoints import resume
from opdcliff.training.checkpoints.checkpoint import CHECKPOINTS, OPTIMIZER_FILE, STUDENT_FILE
from opdcliff.training.run import KEPT_STUDENT

pytestmark = pytest.mark.usefixtures("no_git")

LORA = ("lora=adapter", "model.lora.rank=4", "optim.lr=2e-3")
# Ranks round otherwise; see test_resume_ranks.py.
SMALL = ("lora=adapter", "model.lora.rank=4", "optim.lr=1e-4")
TWO = ("engine.ranks=2", "engine.micro_batch=1")


@pytest.fixture(autouse=True)
def _same_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume, "source_digest", lambda: crash.SOURCE)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return crash.prepare(tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="module")
def whole(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The record of a run that nothing disturbed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("opdcliff.storage.provenance.git", lambda *_: None)
        patch.setattr(resume, "source_digest", lambda: crash.SOURCE)
        return run_here(prepared, tmp_path_factory.mktemp("whole"), *LORA)


def stopped(prepared: Prepared, root: Path, after: int = 8) -> Path:
    def leave(update: int) -> None:
        if update == after:
            raise SystemExit

    with pytest.raises(SystemExit):
        run_here(prepared, root, *LORA, advance=leave)
    return folder_of(prepared, root, *LORA)


def test_what_is_kept_is_the_adapter_alone_and_it_loads(prepared: Prepared, whole: Path) -> None:
    kept = whole / KEPT_STUDENT
    assert not (kept / "model.safetensors").exists()
    adapter = load_file(kept / "adapter_model.safetensors")
    base = load_model(prepared.models / STUDENT, dtype="float32")
    assert all(".lora_" in name for name in adapter)
    assert sum(t.numel() for t in adapter.values()) < 0.2 * sum(
        p.numel() for p in base.parameters()
    )
    student = load_model(kept, dtype="float32")
    assert load_tokenizer(kept).get_vocab()
    changed = {
        name
        for (name, mine), old in zip(student.named_parameters(), base.parameters(), strict=True)
        if not torch.equal(mine, old)
    }
    assert changed == {name for name, _ in base.named_parameters() if "_proj" in name}


def test_a_run_goes_on_bit_for_bit(prepared: Prepared, whole: Path, tmp_path: Path) -> None:
    folder = stopped(prepared, tmp_path)
    newest = folder / CHECKPOINTS / "update-000006"
    for file in (STUDENT_FILE, OPTIMIZER_FILE):
        names = [name for name in load_file(newest / file) if name != "step"]
        assert names
        assert all(".lora_" in name for name in names)
    assert outcome(run_here(prepared, tmp_path, *LORA)) == outcome(whole)
    assert read_manifest(folder)["extras"]["resumed_at"] == 6


def test_the_base_is_the_warm_start_after_a_run(prepared: Prepared, tmp_path: Path) -> None:
    """Its weights are those that the student has under its adapter."""
    run_here(prepared, tmp_path, *LORA)
    trio = load_kept(crash.config(*LORA), prepared).trio
    alone = load_model(prepared.models / STUDENT, dtype="float32")
    for one, other in zip(trio.base.parameters(), alone.parameters(), strict=True):
        assert torch.equal(one, other)
        assert not one.requires_grad


def test_the_settings_of_an_adapter_are_part_of_a_run(prepared: Prepared, tmp_path: Path) -> None:
    words = [(), LORA, ("lora=adapter",), (*LORA, "model.lora.alpha=8")]
    assert len({folder_of(prepared, tmp_path, *own) for own in words}) == len(words)


@pytest.mark.parametrize("lora", [(), ("lora=adapter", "model.lora.rank=64")])
def test_whole_weights_and_an_adapter_of_full_rank_move_towards_the_teacher(
    lora: tuple[str, ...], prepared: Prepared, tmp_path: Path
) -> None:
    words = ("lam.value=1.0", "lam.warmup_updates=0", "clip=none_", "optim.estimator=full")
    sizes = ("optim.updates=40", "optim.lr=5e-3", "evaluation.every=10")
    sizes += ("rollout.max_new_tokens=12",)
    folder = run_here(prepared, tmp_path, *lora, *words, *sizes)
    kl = read_record(folder).history["train/kl_teacher"].dropna().tolist()
    assert kl == sorted(kl, reverse=True)
    # An adapter leaves embeddings and head alone, which differ most between fresh models.
    assert kl[-1] < (0.95 if lora else 0.8) * kl[0]


def difference(first: Path, second: Path) -> float:
    """Largest difference of a weight of the final adapters."""
    one, two = (load(outcome(folder)["student"]) for folder in (first, second))
    assert one.keys() == two.keys()
    return max(float((one[name] - two[name]).abs().max()) for name in one)


@pytest.mark.slow
@pytest.mark.multirank
def test_ranks_train_an_adapter_as_one_process_does_and_go_on_under_other_stages(
    prepared: Prepared, tmp_path: Path
) -> None:
    alone = run_here(prepared, tmp_path / "alone", *SMALL)
    zero0 = run_here(prepared, tmp_path / "zero0", *SMALL, "engine=zero0", *TWO)
    assert difference(alone, zero0) < 1e-5
    words = (*SMALL, "engine=zero2", *TWO, "checkpoint.every=100")

    def ask(update: int) -> None:
        if update == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    with listening(), pytest.raises(PreemptedError, match="asked to stop after update"):
        run_here(prepared, tmp_path / "ranks", *words, advance=ask)
    folder = folder_of(prepared, tmp_path / "ranks", *words)
    (saved,) = (folder / CHECKPOINTS).iterdir()
    assert 4 <= int(saved.name.removeprefix("update-")) < UPDATES
    assert all(".lora_" in name for name in load_file(saved / STUDENT_FILE))
    shutil.copytree(tmp_path / "ranks", tmp_path / "back")
    zero3: dict[str, Any] = {
        "ranks": ("engine=zero3", "engine.persistent_elements=100", *TWO),
        "back": (),
    }
    for root, engine in zero3.items():
        finished = run_here(prepared, tmp_path / root, *SMALL, *engine)
        assert read_manifest(finished)["extras"]["saved_by_ranks"] == 2
        assert difference(alone, finished) < 1e-5
        load_model(finished / KEPT_STUDENT, dtype="float32")
