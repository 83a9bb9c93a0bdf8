"""A small cell in processes that are really killed; see test_resume.py.

Children come from a server that has imported everything, so that one costs no more than its run.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from opdcliff.data.mini import SplitSizes, generate
from opdcliff.data.splits_file import write_splits
from opdcliff.errors import OpdcliffError
from opdcliff.models.load import build
from opdcliff.models.make_pair import STUDENT, TEACHER
from opdcliff.models.prepare import Prepared
from opdcliff.models.tokens.train_bpe import train_bpe
from opdcliff.paths import StudyPaths
from opdcliff.processes.preemption import listening
from opdcliff.records.record import read_record
from opdcliff.settings.checks import load
from opdcliff.settings.compose import compose_one
from opdcliff.settings.schema import RunConfig
from opdcliff.storage import provenance
from opdcliff.storage.canonical import encode_floats
from opdcliff.study.cells import Cell, run_cell
from opdcliff.training.checkpoints import checkpoint, resume
from opdcliff.training.evaluation.kept_answers import ANSWERS
from opdcliff.training.run import KEPT_STUDENT

LAM = 1.5
UPDATES = 12
WORDS = (
    *("debug=seconds", "tracking=off", "engine.device=cpu", f"lam.value={LAM}"),
    *(f"optim.updates={UPDATES}", "evaluation.every=2", "evaluation.collapse_floor=0.0"),
    *("evaluation.prompts=4", "evaluation.final_prompts=4", "rollout.max_new_tokens=6"),
    *("checkpoint.every=3", "checkpoint.final_student=true"),
)
# The digest of the code, so that an edit while tests run is not taken for changed code.
SOURCE = "5e" * 32
# A place where a child kills itself while it writes the checkpoint of that update.
Fault = tuple[str, int]

_CONTEXT = multiprocessing.get_context("forkserver")


def config(*words: str) -> RunConfig:
    """Settings of the cell."""
    return load(compose_one([*WORDS, *words]))


def prepare(folder: Path) -> Prepared:
    """Prompts and untrained models: what is learnt is of no interest here."""
    settings = config()
    data = settings.data
    sizes = SplitSizes(data.train, data.calibration, data.test)
    splits = generate(data.seed, sizes, candidates=data.candidates)
    write_splits(folder, splits)
    tokenizer = train_bpe([example.prompt for example in splits.train], 300)
    assert settings.model.arch is not None
    for seed, name in enumerate((TEACHER, STUDENT)):
        build(settings.model.arch, tokenizer, seed).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return Prepared(folder, folder, "ab" * 32)


def cell_of(*words: str) -> Cell:
    """The cell."""
    return Cell(config(*words), LAM, "crash")


def folder_of(prepared: Prepared, root: Path, *words: str) -> Path:
    """The folder of the cell's record."""
    return cell_of(*words).folder(prepared, StudyPaths(runs=root))


def run_here(
    prepared: Prepared,
    root: Path,
    *words: str,
    advance: Callable[[int], None] = lambda update: None,
) -> Path:
    """Run the cell in this process; returns the folder of its record."""
    run_cell(cell_of(*words), prepared, StudyPaths(runs=root), advance)
    return folder_of(prepared, root, *words)


class Child:
    """The cell in a process of its own that tells every update it has made.

    said: its one-line error, once it has ended.
    """

    said = ""

    def __init__(
        self, prepared: Prepared, root: Path, *words: str, fault: Fault | None = None
    ) -> None:
        _start_server()
        self._ours, theirs = _CONTEXT.Pipe()
        self.process: BaseProcess = _CONTEXT.Process(
            target=_run, args=(prepared, root, words, fault, theirs)
        )
        self.process.start()
        theirs.close()

    def wait_for(self, update: int) -> bool:
        """Wait until that many updates are made; False if the process ended before."""
        try:
            while True:
                told = self._ours.recv()
                if isinstance(told, str):
                    self.said = told
                elif told >= update:
                    return True
        except EOFError:
            return False

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def end(self) -> int:
        """Wait for the process; returns its exit code, negative for a signal."""
        while self.wait_for(sys.maxsize):
            pass
        self.process.join()
        assert self.process.exitcode is not None
        return self.process.exitcode


def _start_server() -> None:
    """Start the server if there is none, with this module in it."""
    _CONTEXT.set_forkserver_preload(["crash"])
    before = os.environ.get("PYTHONPATH")
    # The server looks modules up where Python does by itself.
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    try:
        forkserver.ensure_running()
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before


def outcome(folder: Path) -> dict[str, Any]:
    """What has to be the same however often a run was interrupted."""
    record = read_record(folder)
    (student,) = (folder / KEPT_STUDENT).glob("*.safetensors")
    timed = [name for name in record.history.columns if name.startswith("time/")]
    return {
        "status": record.status,
        # NaN by name, since it does not equal itself.
        "history": encode_floats(record.history.drop(columns=timed).to_dict("list")),
        "student": student.read_bytes(),
        "answers": (folder / ANSWERS).read_text(encoding="utf-8"),
    }


def _run(
    prepared: Prepared, root: Path, words: tuple[str, ...], fault: Fault | None, pipe: Connection
) -> None:
    torch.set_num_threads(1)
    # git takes most of the time that a record takes.
    provenance.git = lambda *_: None  # type: ignore[assignment]
    resume.source_digest = lambda: SOURCE  # type: ignore[assignment]
    if fault is not None:
        _arm(*fault)
    try:
        with listening():
            run_here(prepared, root, *words, advance=pipe.send)
    except OpdcliffError as error:
        pipe.send(str(error))
        sys.exit(error.exit_code)


def _arm(place: str, update: int) -> None:
    """Kill this process at a place within the writing of the checkpoint of that update."""

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def at_update(path: Path) -> bool:
        return f"update-{update:06d}" in str(path)

    original = checkpoint.shutil.rmtree if place == "rmtree" else getattr(checkpoint, place)

    def half_written(tensors: Any, path: Path) -> None:
        original(tensors, path)
        if at_update(path) and path.name == checkpoint.OPTIMIZER_FILE:
            os.truncate(path, path.stat().st_size // 2)
            die()

    def before_the_rename(path: Path) -> None:
        original(path)
        if at_update(path):
            die()

    def while_removing_old_ones(path: Path, **options: Any) -> None:
        if path.name == f"update-{update:06d}":
            next(path.glob("*.safetensors")).unlink()
            die()
        original(path, **options)

    if place == "rmtree":
        checkpoint.shutil = _Shutil(while_removing_old_ones)  # type: ignore[assignment]
    else:
        wrapped = {"_save_tensors": half_written, "fsync_tree": before_the_rename}
        setattr(checkpoint, place, wrapped[place])


class _Shutil:
    def __init__(self, rmtree: Callable[..., None]) -> None:
        self.rmtree = rmtree
