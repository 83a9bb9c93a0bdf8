"""One cell of a grid: a run at one lambda, clip and seed, or a baseline; its record and mirror."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from opdcliff.errors import PreemptedError
from opdcliff.models import Prepared
from opdcliff.paths import StudyPaths
from opdcliff.processes import ADVICE, deferred, stop_if_requested
from opdcliff.records import (
    OPD,
    OUTCOMES,
    PREEMPTED,
    RunRecord,
    cell_identity,
    open_tracker,
    status_of,
    terminal_status,
)
from opdcliff.settings import RunConfig, science
from opdcliff.storage import content_digest
from opdcliff.training import (
    BASELINES,
    Job,
    Place,
    RunOutcome,
    about_run,
    drop_checkpoints_after,
    find_start,
    remove_checkpoints,
    train_here,
    train_on_ranks,
)

# Beside the files of a cell's record: what its ranks printed.
RANKS_LOG = "ranks.log"


@dataclass(frozen=True)
class Cell:
    """A resolved run: its config, lambda and the protocol it belongs to.

    kind: `OPD`, or a key of `baselines.BASELINES`, which has no lambda: 1 stands there.
    """

    config: RunConfig
    lam: float
    protocol: str
    kind: str = OPD

    @property
    def name(self) -> str:
        """Readable name, e.g. `c5-lam1.8123-sampled-w80-n200-s0` or `warm_start-s0`."""
        c = self.config
        if self.kind != OPD:
            return f"{self.kind}-s{c.seed}"
        return (
            f"{c.clip.name}-lam{self.lam:.4f}-{c.optim.estimator}-w{c.lam.warmup_updates}"
            f"-n{c.optim.updates}-s{c.seed}"
        )

    def identity(self, prepared: Prepared) -> str:
        """Hash of everything that decides the outcome: settings, lambda and the models."""
        return cell_identity(
            science(self.config),
            lam=self.lam,
            seed=self.config.seed,
            kind=self.kind,
            models=prepared.models_identity,
        )

    def folder(self, prepared: Prepared, paths: StudyPaths) -> Path:
        """Folder of its record."""
        return paths.cell_dir(self.protocol, self.name, self.identity(prepared))

    def status(self, prepared: Prepared, paths: StudyPaths) -> str | None:
        """How its run ended; None before that (see `terminal_status`)."""
        return terminal_status(self.folder(prepared, paths), self.identity(prepared))


def is_finished(cell: Cell, prepared: Prepared, paths: StudyPaths) -> bool:
    """Whether the cell has an outcome already."""
    return cell.status(prepared, paths) in OUTCOMES


def run_cell(
    cell: Cell,
    prepared: Prepared,
    paths: StudyPaths,
    advance: Callable[[int], None] = lambda update: None,
) -> str:
    """Train one cell unless it has an outcome; returns its status.

    The record is the truth and is written first; W&B mirrors it and cannot stop the run. An
    interrupted run goes on from its last checkpoint.

    Raises:
        PreemptedError: the process was asked to stop; the run is saved.
        RecordError: the record is damaged, in use, or of another run.
    """
    stop_if_requested()
    folder, identity = cell.folder(prepared, paths), cell.identity(prepared)
    status = terminal_status(folder, identity)
    if status in OUTCOMES:
        # A kill may have come between the outcome and this.
        remove_checkpoints(folder)
        return str(status)
    config = cell.config
    start = find_start(folder, identity, config.checkpoint)
    plain = asdict(config) | {"resolved_lam": cell.lam, "kind": cell.kind}
    with (
        RunRecord.create(
            folder,
            identity=identity,
            config=plain,
            seed=config.seed,
            protocol=cell.protocol,
            name=cell.name,
            extras={
                "models_sha256": content_digest(prepared.models),
                "decoding": prepared.decoding.told(),
                **start.notes,
            },
            restart=True,
            resume_step=start.last_evaluation,
        ) as record,
        deferred(),
    ):
        drop_checkpoints_after(folder, start.update)
        tracker = open_tracker(
            config.tracking.mode,
            project=config.tracking.project,
            group=cell.protocol,
            job_type="train" if cell.kind == OPD else "eval",
            name=cell.name,
            identity=identity,
            config=plain | {"identity": identity},
            folder=folder,
        )
        for update, metrics in start.rows:
            tracker.log(update, metrics)

        def report(update: int, metrics: dict[str, float]) -> None:
            record.log(update, metrics)
            tracker.log(update, metrics)

        try:
            saved = None if start.checkpoint is None else start.checkpoint.folder
            place = Place(folder, about_run(identity, record.commit), saved)
            outcome = _train(cell, Job(config, cell.lam, prepared, place), report, advance)
        except BaseException as error:
            tracker.finish(status_of(error))
            raise
        tracker.finish(outcome.status)
        _close(record, outcome, tracker.problem)
    if outcome.status == PREEMPTED:
        raise PreemptedError(f"{cell.name}: {outcome.reason}; {ADVICE}")
    remove_checkpoints(folder)
    return outcome.status


def _train(
    cell: Cell,
    job: Job,
    report: Callable[[int, dict[str, float]], None],
    advance: Callable[[int], None],
) -> RunOutcome:
    assert job.place is not None, "cells have a record"
    if cell.kind != OPD:
        return BASELINES[cell.kind](job, report=report, advance=advance)
    if cell.config.engine.name == "single":
        return train_here(job, report=report, advance=advance)
    log = job.place.record / RANKS_LOG
    return train_on_ranks(job, log=log, report=report, advance=advance)


def _close(record: RunRecord, outcome: RunOutcome, mirror_problem: str | None) -> None:
    record.close(
        outcome.status,
        outcome.reason,
        last_update=outcome.update,
        collapsed_at=outcome.collapsed_at,
        mirror_problem=mirror_problem,
    )
