"""Grids as Slurm jobs: the script that a dry run prints, and whole runs with Slurm stood in for."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

import fake_slurm
from opdcliff.cli import command
from opdcliff.errors import PreemptedError
from opdcliff.models import prepare
from opdcliff.paths import StudyPaths
from opdcliff.records.record import read_record
from opdcliff.settings.checks import load
from opdcliff.settings.compose import compose_one
from opdcliff.settings.grid import compose_grid
from opdcliff.study import jobs, slurm

SECONDS = ["debug=seconds", "tracking=off", "engine.device=cpu"]
GRID = ["launcher=slurm", "lam.value=1.0,1.2"]

pytest.importorskip("submitit")


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _script(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    code = command.main(["train", "-m", *SECONDS, *GRID, "dry_run=true", *words])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return printed.out


def _flags(script: str) -> dict[str, str]:
    lines = [line for line in script.splitlines() if line.startswith("#SBATCH --")]
    pairs = [line.removeprefix("#SBATCH --").partition("=") for line in lines]
    return {name: value for name, _, value in pairs}


# ---- the script ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("workshop")
def test_a_dry_run_prints_what_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    script = _script(
        *(capsys, "engine=zero2", "engine.ranks=4", "hydra.launcher.partition=big", "seed=0,1,2"),
        *("hydra.launcher.timeout_min=90", "hydra.launcher.array_parallelism=3"),
        *("hydra.launcher.mem_gb=64", "hydra.launcher.cpus_per_task=9"),
    )
    # fmt: off
    wanted = {
        "array": "0-5%3", "nodes": "1", "ntasks-per-node": "1", "gpus-per-node": "4",
        "cpus-per-task": "9", "mem": "64GB", "time": "90", "partition": "big",
        "requeue": "", "signal": "USR2@300", "open-mode": "append", "job-name": "grid",
    }
    # fmt: on
    assert _flags(script).items() >= wanted.items()
    assert "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK" in script
    assert subprocess.run(["bash", "-n"], input=script.encode(), check=False).returncode == 0
    assert not Path("runs").exists(), "a dry run leaves nothing"


@pytest.mark.usefixtures("workshop")
def test_null_asks_for_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    flags = _flags(_script(capsys, "hydra.launcher.gpus_per_node=null"))
    assert not flags.keys() & {"gpus-per-node", "mem", "partition"}


@pytest.mark.usefixtures("workshop")
@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["dry_run=true"], "dry_run=true prints the script of a grid that goes to Slurm"),
        (["-m", "seed=0,1", "dry_run=true"], "use `opdcliff train -m ... launcher=slurm`"),
        (["-m", *GRID, "dry_run=1"], "dry_run=1 is not true or false"),
        (["-m", *GRID], "launcher=slurm needs sbatch"),
        (
            ["-m", *GRID, "dry_run=true", "hydra.launcher.nodes=2"],
            "hydra.launcher.nodes=2 would run every cell 2 times",
        ),
        (
            ["-m", *GRID, "dry_run=true", "hydra.launcher.tasks_per_node=8"],
            "hydra.launcher.tasks_per_node=8 would run every cell 8 times",
        ),
        (
            ["-m", *GRID, "dry_run=true", "engine=zero2", "hydra.launcher.gpus_per_node=1"],
            "engine.ranks=2 and hydra.launcher.gpus_per_node=1",
        ),
    ],
)
def test_what_slurm_could_not_run_is_refused(
    words: list[str],
    part: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "")
    assert command.main(["train", "debug=seconds", *words]) == 2
    line = capsys.readouterr().err
    assert part in line
    assert line.count("\n") == 1


# ---- coming back --------------------------------------------------------------------------------


@pytest.fixture
def submitit_handler(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """What submitit would have been told to answer, in a process that it started."""
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    monkeypatch.delenv("SUBMITIT_PREEMPT_SIGNAL", raising=False)
    answered: list[int] = []

    def answer(number: int, frame: object) -> None:
        answered.append(number)
        raise SystemExit(-1)

    before = signal.signal(signal.SIGUSR2, answer)
    yield answered
    signal.signal(signal.SIGUSR2, before)


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_a_job_asked_to_go_is_queued_again(number: int, submitit_handler: list[int]) -> None:
    with pytest.raises(SystemExit), slurm.requeueing():
        signal.raise_signal(number)
    assert submitit_handler == [signal.SIGUSR2]


def test_a_job_that_ends_is_not_queued_again(submitit_handler: list[int]) -> None:
    with pytest.raises(KeyError), slurm.requeueing():
        raise KeyError
    assert submitit_handler == []
    with pytest.raises(SystemExit):
        os.kill(os.getpid(), signal.SIGUSR2)


def test_outside_of_slurm_nothing_is_queued(
    submitit_handler: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
    with pytest.raises(PreemptedError), slurm.requeueing():
        raise PreemptedError("asked to stop")
    assert submitit_handler == []


def test_a_job_travels_to_its_node() -> None:
    grid = compose_grid(["protocol=grid", *SECONDS, *GRID])
    task: Callable[..., Any] = functools.partial(jobs._job, grid, StudyPaths(Path("a"), Path("b")))
    arrived = cloudpickle.loads(cloudpickle.dumps(task))
    assert arrived.args == task.args


@pytest.mark.slow
def test_a_grid_runs_under_slurm_and_goes_on_where_it_was_stopped(
    workshop: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """submitit, its pickles, signals and results are real; so is all that a job does."""
    slurm_folder = workshop / "slurm"
    slurm_folder.mkdir()
    fake_slurm.install(slurm_folder)
    monkeypatch.setenv("PATH", str(slurm_folder), prepend=os.pathsep)
    monkeypatch.setenv(fake_slurm.WATCH, "1 runs/grid/*lam1.2*/metrics.jsonl")
    words = ["optim.updates=40", "evaluation.every=10", "sft.student.steps=1"]
    words += ["sft.teacher.steps=1", "evaluation.collapse_floor=0.0"]
    # Here workers have their libraries already; in a job they would load them first.
    prepare(load(compose_one([*SECONDS, *words])), StudyPaths())
    printed = _script(capsys, *words)
    code = command.main(["train", "-m", *SECONDS, *GRID, *words])
    reply = capsys.readouterr()
    assert code == 0, reply.err + (slurm_folder / "step1.log").read_text()
    assert "2 of 2 cells" in reply.out
    assert (slurm_folder / "script").read_text() == printed
    requeued = [file.name for file in slurm_folder.glob("requeued-*")]
    assert requeued == ["requeued-7_1.done"]
    straight, stopped = sorted((workshop / "runs" / "grid").iterdir())
    for folder in (straight, stopped):
        record = read_record(folder)
        assert record.status == "finished"
        assert record.history["step"].tolist() == list(range(0, 41, 10))
    assert "resumed_at" not in read_record(straight).manifest["extras"]
    assert 0 < read_record(stopped).manifest["extras"]["resumed_at"] < 40
