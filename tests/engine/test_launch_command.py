"""Ranks under both launchers, and on several hosts; what a launcher prints disturbs nothing."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import failing
import fake_pdsh
from opdcliff.engine.launch_command import (
    free_port,
    launch_command,
    launch_environment,
    require_launcher,
)
from opdcliff.errors import ConfigError, EngineError
from opdcliff.models.device import pick_device
from opdcliff.models.prepare import Prepared, prepare
from opdcliff.paths import StudyPaths
from opdcliff.records.record import read_record
from opdcliff.settings.checks import load
from opdcliff.settings.compose import compose_one
from opdcliff.settings.hostfile import Host, read_hostfile
from opdcliff.settings.schema import EngineConfig, RunConfig
from opdcliff.study.cells import Cell, run_cell
from opdcliff.training import ranks as ranks_module
from places import HELPERS

LAM = 1.2
WORDS = [
    *("debug=seconds", "tracking=off", "engine.device=cpu", f"lam.value={LAM}"),
    *("sft.teacher.steps=1", "sft.student.steps=1", "optim.updates=1", "evaluation.every=1"),
    "evaluation.collapse_floor=0.0",
]
TWO_HOSTS = "# the nodes\nworker-1 slots=1\n\nworker-2 slots=1  # the other one\n"


def _config(*words: str) -> RunConfig:
    return load(compose_one([*WORDS, *words]))


def _deepspeed(*words: str) -> EngineConfig:
    return _config("engine=zero2", "engine.launcher=deepspeed", *words).engine


@pytest.fixture
def hostfile(tmp_path: Path) -> Path:
    file = tmp_path / "hostfile"
    file.write_text(TWO_HOSTS)
    return file


# ---- settings ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["engine.launcher=deepspeed"], "engine.launcher=deepspeed needs a ZeRO engine"),
        (["engine.hostfile=/x"], "engine.hostfile=/x needs a ZeRO engine"),
        (["engine=zero1", "engine.launcher=mpirun"], r"launcher=mpirun .* torchrun \| deepspeed"),
        (["engine=zero1", "engine.hostfile=/x"], "set engine.launcher=deepspeed"),
        (
            ["engine=zero1", "engine.launcher=deepspeed", "engine.hostfile=/nowhere"],
            r"engine.hostfile=/nowhere cannot be read \(no such file or directory\)",
        ),
    ],
)
def test_settings_of_a_launcher_that_do_not_fit(words: list[str], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        _config(*words)


def test_ranks_are_the_slots_of_the_hostfile(hostfile: Path) -> None:
    assert _deepspeed(f"engine.hostfile={hostfile}").ranks == 2
    with pytest.raises(ConfigError, match=r"engine.ranks=4 and the hosts .* have 2 slots"):
        _deepspeed(f"engine.hostfile={hostfile}", "engine.ranks=4")


def test_a_hostfile_is_read_in_order(hostfile: Path) -> None:
    assert read_hostfile(str(hostfile)) == [Host("worker-1", 1), Host("worker-2", 1)]


def test_a_hostfile_with_the_mark_of_windows_is_read(hostfile: Path) -> None:
    hosts = read_hostfile(str(hostfile))
    hostfile.write_text(TWO_HOSTS, encoding="utf-8-sig")
    assert read_hostfile(str(hostfile)) == hosts


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "names no host"),
        ("# worker-1 slots=8\n", "names no host"),
        ("a slots=8\nb\n", "line 2 .* is b; write"),
        ("a slots=0\n", "line 1 .* is a slots=0; write"),
        ("a slots=8 max=9\n", "line 1"),
        ("-oProxyCommand=x slots=8\n", "line 1"),
        ("a,b slots=8\n", "line 1"),
        ("a slots=8\na slots=4\n", "line 2 .* names a again"),
        (b"a slots=\xff", "cannot be read .is not UTF-8 text; save it as UTF-8."),
        (TWO_HOSTS.encode("utf-16"), "is UTF-16; save it as UTF-8"),
        (TWO_HOSTS.encode("utf-16-be"), "is UTF-16; save it as UTF-8"),
    ],
)
def test_a_bad_hostfile_is_refused(text: str | bytes, part: str, tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=part):
        read_hostfile(str(file))


def test_several_hosts_need_pdsh(hostfile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    require_launcher(_deepspeed())
    with pytest.raises(ConfigError, match="pdsh and ssh is not installed here"):
        require_launcher(_deepspeed(f"engine.hostfile={hostfile}"))


# ---- commands ---------------------------------------------------------------------------------


def _words(engine: EngineConfig, **environment: str) -> list[str]:
    words = launch_command(engine, "m.rank", Path("/a b/job"), port=777, environment=environment)
    assert words[:2] == ["/bin/sh", "-c"]
    return words[words.index(sys.executable) :]


def test_torchrun_starts_all_ranks_here() -> None:
    words = _words(_config("engine=zero2", "engine.ranks=4").engine)
    assert words[:3] == [sys.executable, "-m", "torch.distributed.run"]
    assert "--nproc-per-node=4" in words
    assert words[-3:] == ["-m", "m.rank", "/a b/job"]


@pytest.mark.parametrize(
    ("given", "devices"),
    [
        (None, ["0", "1"]),
        ("", ["0", "1"]),
        ("2,3", ["2", "3"]),
        ("GPU-a, GPU-b,GPU-c", ["GPU-a", "GPU-b"]),
        # Of a machine with a GPU too few, on the CPU.
        ("5", ["0", "1"]),
    ],
)
def test_deepspeed_takes_the_gpus_it_was_given(given: str | None, devices: list[str]) -> None:
    environment = {} if given is None else {"CUDA_VISIBLE_DEVICES": given}
    words = _words(_deepspeed(), **environment)
    assert words[1:3] == ["-m", "deepspeed.launcher.launch"]
    (packed,) = (word.partition("=")[2] for word in words if word.startswith("--world_info="))
    assert json.loads(base64.urlsafe_b64decode(packed)) == {"localhost": devices}
    assert "--master_port=777" in words
    assert words[-3:] == ["--module", "m.rank", "/a b/job"]


def test_one_host_is_this_one(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("here slots=2\n")
    words = _words(_deepspeed(f"engine.hostfile={tmp_path / 'hosts'}"))
    assert "deepspeed.launcher.launch" in words


def test_deepspeed_reaches_other_hosts(hostfile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(hostfile.parent)
    words = _words(_deepspeed("engine.hostfile=hostfile", "engine.threads=3"))
    assert words[1:3] == ["-m", "deepspeed.launcher.runner"]
    assert f"--hostfile={hostfile}" in words
    assert "--master_port=777" in words
    # ssh starts with an empty environment.
    command = words[words.index("env") :]
    assert set(command[1:4]) == {
        *("DS_ACCELERATOR=cpu", "OMP_NUM_THREADS=3", "TOKENIZERS_PARALLELISM=false")
    }
    assert command[4:] == [sys.executable, "-m", "m.rank", "/a b/job"]


def test_what_an_operator_sets_for_torchrun_is_not_taken() -> None:
    """PET_NNODES=2 made torchrun wait for a second node, without a word."""
    from torch.distributed import run

    engine = _config("engine=zero2").engine
    given = {"A": "b", "PET_NNODES": "2", "PET_NODE_RANK": "1", "TORCHELASTIC_RUN_ID": "x"}
    assert not [k for k in launch_environment(engine, given) if k.startswith(("PET_", "TORCHE"))]
    command = launch_command(engine, "m", Path("/job"), port=1, environment={})
    words = command[command.index("torch.distributed.run") + 1 :]
    asked = run.get_args_parser().parse_args(words)
    assert (asked.nnodes, asked.node_rank, asked.nproc_per_node) == ("1", 0, "2")


def test_gpus_are_counted_per_host(hostfile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    here = _deepspeed(f"engine.hostfile={hostfile}", "engine.device=auto")
    assert (
        launch_environment(here, {"A": "b"}).items() >= {"A": "b", "DS_ACCELERATOR": "cuda"}.items()
    )
    there = replace(here, hostfile=None)
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(ConfigError, match="torch sees 1 GPUs"):
        pick_device(there)
    monkeypatch.setenv("LOCAL_SIZE", "1")
    torch.backends.cuda.enable_cudnn_sdp(True)
    assert pick_device(there) == torch.device("cuda", 0)
    assert not torch.backends.cuda.cudnn_sdp_enabled()


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
def test_what_is_launched_outlives_the_signals_of_slurm(number: signal.Signals) -> None:
    deaf = launch_command(_deepspeed(), "m", Path("x"), port=1, environment={})
    shell = deaf[: deaf.index(sys.executable)]
    send = f"import os; os.kill(os.getpid(), {int(number)}); print('alive')"
    done = subprocess.run([*shell, sys.executable, "-c", send], capture_output=True, check=False)
    assert done.stdout == b"alive\n", done.stderr


def test_a_free_port_is_free() -> None:
    assert len({free_port() for _ in range(3)}) > 1


# ---- real ranks -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> StudyPaths:
    folder = tmp_path_factory.mktemp("launch")
    return StudyPaths(folder / "runs", folder / "results")


@pytest.fixture(scope="module")
def prepared(paths: StudyPaths) -> Prepared:
    return prepare(_config(), paths)


def _history(prepared: Prepared, paths: StudyPaths, name: str, *words: str) -> pd.DataFrame:
    cell = Cell(_config(*words), LAM, name)
    assert run_cell(cell, prepared, paths) == "finished"
    folder = cell.folder(prepared, paths)
    assert not list(folder.glob("opdcliff-*")), "the job's folder is left"
    return read_record(folder).history


@pytest.fixture(scope="module")
def alone(prepared: Prepared, paths: StudyPaths) -> pd.DataFrame:
    return _history(prepared, paths, "alone")


@pytest.mark.multirank
@pytest.mark.usefixtures("no_git")
@pytest.mark.parametrize("hosts", [1, 2])
def test_ranks_of_deepspeed_train_as_one_process_does(
    hosts: int,
    hostfile: Path,
    prepared: Prepared,
    paths: StudyPaths,
    alone: pd.DataFrame,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With two hosts the ranks cannot know that both are this one: each is alone on its own."""
    words = ["engine=zero2", "engine.launcher=deepspeed"]
    if hosts > 1:
        fake_pdsh.install(hostfile.parent)
        monkeypatch.setenv("PATH", str(hostfile.parent), prepend=os.pathsep)
        words.append(f"engine.hostfile={hostfile}")
    found = _history(prepared, paths, f"hosts{hosts}", *words)
    for name in ("train/loss", "train/grad_norm"):
        np.testing.assert_allclose(found[name][1:], alone[name][1:], rtol=1e-5, atol=2e-6)
    same = [name for name in alone if str(name).startswith("eval/")]
    pd.testing.assert_frame_equal(found[same], alone[same])


def _failing(
    fault: str, paths: StudyPaths, monkeypatch: pytest.MonkeyPatch
) -> tuple[Cell, Prepared]:
    monkeypatch.setenv(failing.FAULT, fault)
    monkeypatch.setenv("PYTHONPATH", HELPERS, prepend=os.pathsep)
    monkeypatch.setattr(ranks_module, "RANK_MODULE", "failing")
    cell = Cell(_config("engine=zero2", "engine.launcher=deepspeed"), LAM, fault)
    return cell, Prepared(paths.runs, paths.runs, "none")


@pytest.mark.multirank
@pytest.mark.usefixtures("no_git")
def test_deepspeed_says_which_rank_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = StudyPaths(tmp_path / "runs", tmp_path)
    paths.runs.mkdir()
    cell, nothing = _failing("raise", paths, monkeypatch)
    with pytest.raises(EngineError, match="rank 1 failed: RuntimeError: too little bread; what"):
        run_cell(cell, nothing, paths)


@pytest.mark.multirank
@pytest.mark.usefixtures("no_git")
def test_an_interrupt_ends_the_ranks_of_deepspeed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = StudyPaths(tmp_path / "runs", tmp_path)
    paths.runs.mkdir()
    cell, nothing = _failing("sleep", paths, monkeypatch)
    ranks = []

    def interrupt(update: int) -> None:
        ranks.append(update)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_cell(cell, nothing, paths, interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(ranks[0], 0)
