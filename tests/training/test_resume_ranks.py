"""A run on two ranks that is asked to go goes on with other ranks and another ZeRO stage."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from safetensors.torch import load

import crash
from crash import UPDATES, folder_of, outcome, run_here
from opdcliff.errors import PreemptedError
from opdcliff.models.prepare import Prepared
from opdcliff.processes.preemption import listening
from opdcliff.records.files import read_manifest
from opdcliff.training.checkpoints import resume
from opdcliff.training.checkpoints.checkpoint import CHECKPOINTS

pytestmark = [
    pytest.mark.usefixtures("no_git"),
    pytest.mark.multirank,
    pytest.mark.slow,
]

# AdamW divides by the size of the gradient, which makes much of rounding where that is tiny; a
# larger lr would only scale the difference.
COMMON = ("optim.lr=1e-4",)
TWO = ("engine.ranks=2", "engine.micro_batch=1")


def distances(first: Path, second: Path) -> tuple[float, float]:
    """Largest difference of a loss and of a parameter of the final students."""
    one, two = outcome(first), outcome(second)
    assert one["history"]["step"] == two["history"]["step"]
    losses = [
        abs(a - b)
        for a, b in zip(
            one["history"]["train/loss"][1:], two["history"]["train/loss"][1:], strict=True
        )
    ]
    students = load(one["student"]), load(two["student"])
    parameters = [
        float((students[0][name] - students[1][name]).abs().max()) for name in students[0]
    ]
    return max(losses), max(parameters)


def places(folder: Path) -> list[tuple[int, int]]:
    """Update and prompt of every answer that was kept."""
    lines = map(json.loads, outcome(folder)["answers"].splitlines())
    return [(line["update"], line["number"]) for line in lines]


@pytest.fixture(autouse=True)
def _same_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume, "source_digest", lambda: crash.SOURCE)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return crash.prepare(tmp_path_factory.mktemp("prepared"))


def test_a_run_goes_on_under_other_ranks_and_stages(prepared: Prepared, tmp_path: Path) -> None:
    undisturbed = run_here(prepared, tmp_path / "whole", *COMMON)
    words = (*COMMON, "engine=zero2", *TWO, "checkpoint.every=100")

    def ask(update: int) -> None:
        if update == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    with listening(), pytest.raises(PreemptedError, match="asked to stop after update"):
        run_here(prepared, tmp_path / "ranks", *words, advance=ask)
    folder = folder_of(prepared, tmp_path / "ranks", *words)
    (saved,) = (folder / CHECKPOINTS).iterdir()
    at = int(saved.name.removeprefix("update-"))
    assert 4 <= at < UPDATES
    shutil.copytree(tmp_path / "ranks", tmp_path / "alone")
    for root, engine in (
        (tmp_path / "ranks", ("engine=zero3", *TWO)),
        (tmp_path / "alone", ()),
    ):
        finished = run_here(prepared, root, *COMMON, *engine)
        extras = read_manifest(finished)["extras"]
        assert (extras["resumed_at"], extras["saved_by_ranks"]) == (at, 2)
        assert places(finished) == places(undisturbed)
        loss, parameter = distances(undisturbed, finished)
        assert loss < 1e-5
        assert parameter < 1e-5
