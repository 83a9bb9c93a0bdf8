"""One cell of a grid: a run at one lambda, clip and seed, with its record and its mirror."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from opdcliff import assets
from opdcliff.calibrate import modal_sets_for
from opdcliff.config import RunConfig
from opdcliff.contract import get_contract
from opdcliff.data.example import Splits
from opdcliff.engine import open_engine
from opdcliff.launch import Job, train_on_ranks
from opdcliff.models import Trio, fresh_student
from opdcliff.paths import StudyPaths
from opdcliff.prepare import Prepared, load_trio
from opdcliff.records import OUTCOMES, RunRecord, run_identity, status_of, terminal_status
from opdcliff.settings import science
from opdcliff.token_classes import ModalSets
from opdcliff.tracking import open_tracker
from opdcliff.train import Outcome, train

# What the ranks of a cell printed, beside its record.
RANKS_LOG = "ranks.log"


@dataclass(frozen=True)
class Cell:
    """A resolved run: its config, lambda and the protocol it belongs to."""

    config: RunConfig
    lam: float
    protocol: str

    @property
    def name(self) -> str:
        """Readable name, e.g. `c5-lam1.8123-sampled-w80-s0`."""
        c = self.config
        return (
            f"{c.clip.name}-lam{self.lam:.4f}-{c.optim.estimator}-w{c.lam.warmup_updates}-s{c.seed}"
        )

    def identity(self, prepared: Prepared) -> str:
        """Hash of everything that decides the outcome: settings, lambda and the models."""
        settings = science(self.config)
        settings["lam"]["value"] = self.lam
        return run_identity({"settings": settings, "models": prepared.models_identity})

    def folder(self, prepared: Prepared, paths: StudyPaths) -> Path:
        """Folder of its record."""
        return paths.cell_dir(self.protocol, self.name, self.identity(prepared))


def is_finished(cell: Cell, prepared: Prepared, paths: StudyPaths) -> bool:
    """Whether the cell has an outcome already."""
    return terminal_status(cell.folder(prepared, paths)) in OUTCOMES


def run_cell(
    cell: Cell,
    prepared: Prepared,
    paths: StudyPaths,
    advance: Callable[[int], None] = lambda update: None,
) -> str:
    """Train one cell unless it has an outcome; returns its status.

    The record is the truth and is written first; W&B mirrors it and cannot stop the run.
    """
    folder = cell.folder(prepared, paths)
    status = terminal_status(folder)
    if status in OUTCOMES:
        return str(status)
    config = cell.config
    plain = asdict(config) | {"resolved_lam": cell.lam}
    with RunRecord.create(
        folder,
        identity=cell.identity(prepared),
        config=plain,
        seed=config.seed,
        protocol=cell.protocol,
        name=cell.name,
        restart=True,
    ) as record:
        tracker = open_tracker(
            config.tracking.mode,
            project=config.tracking.project,
            group=cell.protocol,
            job_type="train",
            name=cell.name,
            config=plain | {"identity": cell.identity(prepared)},
            folder=folder,
        )

        def report(update: int, metrics: dict[str, float]) -> None:
            record.log(update, metrics)
            tracker.log(update, metrics)

        try:
            job = Job(config, cell.lam, prepared)
            if config.engine.name == "single":
                outcome = train_here(job, report=report, advance=advance)
            else:
                log = folder / RANKS_LOG
                outcome = train_on_ranks(job, log=log, report=report, advance=advance)
        except BaseException as error:
            tracker.finish(status_of(error))
            raise
        tracker.finish(outcome.status)
        _close(record, outcome, tracker.problem)
    return outcome.status


def train_here(
    job: Job, *, report: Callable[[int, dict[str, float]], None], advance: Callable[[int], None]
) -> Outcome:
    """Train in this process, or as one rank of several; callbacks as in `train.train`."""
    config = job.config
    torch.set_num_threads(config.engine.threads)
    models = _loaded(config, job.prepared)
    trio = fresh_student(models.trio)
    engine = open_engine(trio.student, config)
    return train(
        config,
        job.lam,
        replace(trio, student=engine.student),
        models.splits,
        models.modal_sets,
        engine,
        report=report,
        advance=advance,
    )


def _close(record: RunRecord, outcome: Outcome, mirror_problem: str | None) -> None:
    record.close(
        outcome.status,
        outcome.reason,
        last_update=outcome.update,
        collapsed_at=outcome.collapsed_at,
        mirror_problem=mirror_problem,
    )


@dataclass(frozen=True)
class _Loaded:
    trio: Trio
    splits: Splits
    modal_sets: ModalSets


# Teacher, base, prompts and modal sets of the last cell of this process: the next one mostly has
# the same. Holding one entry bounds the memory.
_last: dict[tuple[Any, ...], _Loaded] = {}


def _loaded(config: RunConfig, prepared: Prepared) -> _Loaded:
    engine, model = config.engine.device, config.model
    key = (prepared, engine, model.dtype, model.teacher, model.teacher_revision)
    if key not in _last:
        _last.clear()
        trio = load_trio(config, prepared)
        modal_sets = modal_sets_for(get_contract(config.data.contract), trio.tokenizer)
        _last[key] = _Loaded(trio, assets.read_splits(prepared.data), modal_sets)
    return _last[key]
