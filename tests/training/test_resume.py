"""Runs that are killed, asked to go, or find damage go on as if nothing had happened.

The processes and kills are real; the numbers are the cases of the reliability table in
docs/scale.md.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import crash
from crash import UPDATES, Child, folder_of, outcome, run_here
from opdcliff.errors import PreemptedError, RecordError
from opdcliff.models.prepare import Prepared
from opdcliff.processes.preemption import listening
from opdcliff.records.files import METRICS, MIXED_CODE, read_manifest
from opdcliff.records.record import read_record
from opdcliff.training.checkpoints import checkpoint, resume
from opdcliff.training.checkpoints.checkpoint import (
    CHECKPOINT_MANIFEST,
    CHECKPOINTS,
    GENERATORS,
    OPTIMIZER_FILE,
    POSITION,
    STUDENT_FILE,
)
from opdcliff.training.checkpoints.generators import generator_state, set_generator_state
from opdcliff.verification.run_views import view_of_record

pytestmark = pytest.mark.usefixtures("no_git")


@pytest.fixture(autouse=True)
def _same_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume, "source_digest", lambda: crash.SOURCE)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return crash.prepare(tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="module")
def whole(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The outcome of a run that nothing disturbed."""
    return outcome(run_here(prepared, tmp_path_factory.mktemp("whole")))


def stopped(prepared: Prepared, root: Path, *words: str, after: int = 8) -> Path:
    """A run that ended in the middle, where it saved nothing; after 8 it has those of 3 and 6."""

    def leave(update: int) -> None:
        if update == after:
            raise SystemExit

    with pytest.raises(SystemExit):
        run_here(prepared, root, *words, advance=leave)
    return folder_of(prepared, root, *words)


def updates_saved(folder: Path) -> list[int]:
    found = checkpoint.candidates(folder / CHECKPOINTS)
    return sorted(item.update for item in found if not isinstance(item, RecordError))


def extras(folder: Path) -> dict[str, Any]:
    return dict(read_manifest(folder)["extras"])


# ---- killed (1, 2) ----------------------------------------------------------------------------


@pytest.mark.slow
def test_twenty_kills_at_random_updates_change_nothing(
    prepared: Prepared, whole: dict[str, Any], tmp_path: Path
) -> None:
    chance, kills = random.Random(7), 0
    for run in range(4):
        root = tmp_path / str(run)
        killed_here = 0
        while killed_here < 5:
            child = Child(prepared, root)
            # Updates made before are not told again, hence at times the end comes first.
            if not child.wait_for(chance.randint(1, UPDATES - 1)):
                assert child.end() == 0
                break
            child.send(signal.SIGKILL)
            assert child.end() == -signal.SIGKILL
            killed_here += 1
        folder = run_here(prepared, root)
        assert outcome(folder) == whole
        assert len(read_manifest(folder)["attempts"]) == killed_here
        assert not (folder / CHECKPOINTS).exists()
        kills += killed_here
    assert kills == 20


def test_a_stop_changes_nothing_in_bfloat16(prepared: Prepared, tmp_path: Path) -> None:
    """Checkpoints hold the float32 copies, of which the model's weights are too little."""
    words = ("model.dtype=bfloat16", "optim.lr=1e-5")
    undisturbed = outcome(run_here(prepared, tmp_path / "whole", *words))
    folder = stopped(prepared, tmp_path, *words)
    assert outcome(run_here(prepared, tmp_path, *words)) == undisturbed
    assert extras(folder)["resumed_at"] == 6


@pytest.mark.slow
def test_a_kill_changes_nothing_for_an_adapter(prepared: Prepared, tmp_path: Path) -> None:
    words = ("lora=adapter", "model.lora.rank=4", "optim.lr=2e-3")
    undisturbed = outcome(run_here(prepared, tmp_path / "whole", *words))
    child = Child(prepared, tmp_path, *words)
    assert child.wait_for(7)
    child.send(signal.SIGKILL)
    assert child.end() == -signal.SIGKILL
    folder = run_here(prepared, tmp_path, *words)
    assert outcome(folder) == undisturbed
    assert extras(folder)["resumed_at"] >= 6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "update", "left"),
    [("_save_tensors", 6, [3]), ("fsync_tree", 6, [3]), ("rmtree", 3, [6, 9])],
)
def test_a_kill_during_a_checkpoint_leaves_the_ones_before(
    place: str,
    update: int,
    left: list[int],
    prepared: Prepared,
    whole: dict[str, Any],
    tmp_path: Path,
) -> None:
    assert Child(prepared, tmp_path, fault=(place, update)).end() == -signal.SIGKILL
    folder = folder_of(prepared, tmp_path)
    assert updates_saved(folder) == left
    assert outcome(run_here(prepared, tmp_path)) == whole
    assert extras(folder)["resumed_at"] == left[-1]


# ---- full disk (3) ----------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with room for one checkpoint and a half."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2200k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system takes root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk_is_named_and_costs_no_checkpoint(
    prepared: Prepared, whole: dict[str, Any], small_disk: Path
) -> None:
    child = Child(prepared, small_disk)
    assert child.end() == RecordError.exit_code
    folder = folder_of(prepared, small_disk)
    assert f"cannot write {folder / CHECKPOINTS / 'update-000006'}" in child.said
    assert "No space left" in child.said
    assert updates_saved(folder) == [3]
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    assert outcome(run_here(prepared, small_disk)) == whole
    assert extras(folder)["resumed_at"] == 3


# ---- damage (4) -------------------------------------------------------------------------------


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "name", [STUDENT_FILE, OPTIMIZER_FILE, GENERATORS, POSITION, CHECKPOINT_MANIFEST]
)
def test_one_flipped_bit_falls_back_one_checkpoint(
    name: str, prepared: Prepared, whole: dict[str, Any], tmp_path: Path
) -> None:
    folder = stopped(prepared, tmp_path)
    flip(folder / CHECKPOINTS / "update-000006" / name)
    assert outcome(run_here(prepared, tmp_path)) == whole
    (refused,) = extras(folder)["checkpoints_refused"]
    assert name in refused
    assert "checksum mismatch" in refused or "damaged" in refused
    assert extras(folder)["resumed_at"] == 3


def test_without_a_whole_checkpoint_the_run_starts_over(
    prepared: Prepared, whole: dict[str, Any], tmp_path: Path
) -> None:
    folder = stopped(prepared, tmp_path)
    for update in (3, 6):
        (folder / CHECKPOINTS / f"update-{update:06d}" / OPTIMIZER_FILE).unlink()
    assert outcome(run_here(prepared, tmp_path)) == whole
    assert len(extras(folder)["checkpoints_refused"]) == 2
    assert "resumed_at" not in extras(folder)


def test_a_checkpoint_ahead_of_its_metrics_is_passed_over(
    prepared: Prepared, whole: dict[str, Any], tmp_path: Path
) -> None:
    folder = stopped(prepared, tmp_path)
    lines = (folder / METRICS).read_bytes().splitlines(keepends=True)
    # Those of updates 0 and 2, and half of the next: what a crash of the machine may leave.
    (folder / METRICS).write_bytes(b"".join(lines[:2]) + lines[2][:9])
    manifest = read_manifest(folder)
    assert manifest["status"] == "preempted"
    assert outcome(run_here(prepared, tmp_path)) == whole
    assert "update-000006" in extras(folder)["checkpoints_refused"][0]
    assert extras(folder)["resumed_at"] == 3


# ---- asked to go (5) --------------------------------------------------------------------------


@pytest.mark.slow
def test_two_signals_save_at_the_end_of_the_update(
    prepared: Prepared, whole: dict[str, Any], tmp_path: Path
) -> None:
    child = Child(prepared, tmp_path)
    assert child.wait_for(4)
    child.send(signal.SIGTERM)
    child.send(signal.SIGTERM)
    assert child.end() == PreemptedError.exit_code
    assert "run the command again to go on" in child.said
    folder = folder_of(prepared, tmp_path)
    record = read_record(folder)
    assert record.status == "preempted"
    saved = updates_saved(folder)[-1]
    assert saved == record.manifest["extras"]["last_update"] >= 4
    assert outcome(run_here(prepared, tmp_path)) == whole
    assert extras(folder)["resumed_at"] == saved


def test_an_evaluation_after_the_checkpoint_of_its_update_is_made_anew(
    prepared: Prepared, whole: dict[str, Any], tmp_path: Path
) -> None:
    def ask(update: int) -> None:
        if update == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    with listening(), pytest.raises(PreemptedError):
        run_here(prepared, tmp_path, advance=ask)
    folder = stopped(prepared, tmp_path, after=5)
    assert read_record(folder).history.step.tolist() == [0, 2, 4]
    assert outcome(run_here(prepared, tmp_path)) == whole
    assert extras(folder)["resumed_at"] == 4


@pytest.mark.slow
def test_a_batch_used_twice_is_finished_before_leaving(prepared: Prepared, tmp_path: Path) -> None:
    words = ("rollout.updates_per_batch=2", "checkpoint.every=100")
    undisturbed = outcome(run_here(prepared, tmp_path / "whole", *words))
    child = Child(prepared, tmp_path, *words)
    assert child.wait_for(3)
    child.send(signal.SIGTERM)
    assert child.end() == PreemptedError.exit_code
    (saved,) = updates_saved(folder_of(prepared, tmp_path, *words))
    assert saved % 2 == 0
    assert outcome(run_here(prepared, tmp_path, *words)) == undisturbed


# ---- another run, other code (6) --------------------------------------------------------------


def test_a_checkpoint_of_another_lambda_is_refused(prepared: Prepared, tmp_path: Path) -> None:
    other = stopped(prepared, tmp_path / "other", "clip=c2")
    folder = stopped(prepared, tmp_path / "mine")
    shutil.rmtree(folder / CHECKPOINTS)
    shutil.copytree(other / CHECKPOINTS, folder / CHECKPOINTS)
    with pytest.raises(RecordError, match="is of another run"):
        run_here(prepared, tmp_path / "mine")


def test_changed_code_is_refused_and_marks_the_run_if_forced(
    prepared: Prepared, whole: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = stopped(prepared, tmp_path)
    monkeypatch.setattr(resume, "source_digest", lambda: "cd" * 32)
    with pytest.raises(RecordError, match=r"other code .* checkpoint\.resume=force"):
        run_here(prepared, tmp_path)
    stopped(prepared, tmp_path, "checkpoint.resume=force", after=10)
    assert updates_saved(folder) == [6, 9]
    # Once mixed, always mixed: the third attempt has the code of the second.
    run_here(prepared, tmp_path)
    assert extras(folder)[MIXED_CODE] is True
    assert view_of_record(read_record(folder)).code_dirty
    assert outcome(folder) == whole


def test_changed_code_may_start_over(
    prepared: Prepared, whole: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = stopped(prepared, tmp_path)
    monkeypatch.setattr(resume, "source_digest", lambda: "cd" * 32)
    assert outcome(run_here(prepared, tmp_path, "checkpoint.resume=never")) == whole
    assert MIXED_CODE not in extras(folder)
    assert "resumed_at" not in extras(folder)


def test_an_attempt_that_starts_over_leaves_no_checkpoint_of_the_one_before(
    prepared: Prepared, whole: dict[str, Any], tmp_path: Path
) -> None:
    folder = stopped(prepared, tmp_path)
    stopped(prepared, tmp_path, "checkpoint.resume=never", after=5)
    assert updates_saved(folder) == [3]
    assert outcome(run_here(prepared, tmp_path)) == whole


def test_a_restart_killed_between_config_and_manifest_starts_again(
    prepared: Prepared, whole: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(prepared, tmp_path)

    def die(*_: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr("opdcliff.records.writer.write_manifest", die)
        with pytest.raises(SystemExit):
            run_here(prepared, tmp_path, "checkpoint.keep=1")
    assert outcome(run_here(prepared, tmp_path)) == whole


# ---- what is in a checkpoint ------------------------------------------------------------------


def test_no_file_of_a_checkpoint_is_a_pickle(prepared: Prepared, tmp_path: Path) -> None:
    newest = stopped(prepared, tmp_path) / CHECKPOINTS / "update-000006"
    assert {path.suffix for path in newest.iterdir()} == {".json", ".safetensors"}
    for path in newest.glob("*.safetensors"):
        load_file(path)
    assert json.loads((newest / CHECKPOINT_MANIFEST).read_text())["update"] == 6


def test_old_checkpoints_go_and_none_are_taken_when_switched_off(
    prepared: Prepared, tmp_path: Path
) -> None:
    for word, left in (("checkpoint.keep=1", [9]), ("checkpoint.every=0", [])):
        assert updates_saved(stopped(prepared, tmp_path / word, word, after=11)) == left


def draw() -> list[Any]:
    import numpy as np

    return [random.random(), np.random.rand(), float(torch.rand(()))]


def test_generators_go_on_where_they_were() -> None:
    state = generator_state()
    first = draw()
    assert draw() != first
    set_generator_state(state)
    assert draw() == first
