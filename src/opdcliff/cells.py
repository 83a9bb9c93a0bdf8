"""One cell of a grid: a run at one lambda, clip and seed, or a baseline; its record and mirror."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from opdcliff.assets import content_digest
from opdcliff.baselines import BASELINES
from opdcliff.cell_identity import OPD, cell_identity
from opdcliff.config import RunConfig
from opdcliff.engine import open_engine
from opdcliff.launch import Job, train_on_ranks
from opdcliff.loaded import load_kept
from opdcliff.models import fresh_student
from opdcliff.paths import StudyPaths
from opdcliff.prepare import Prepared
from opdcliff.records import OUTCOMES, RunRecord, status_of, terminal_status
from opdcliff.settings import science
from opdcliff.tracking import open_tracker
from opdcliff.train import Outcome, train

# What the ranks of a cell printed, beside its record.
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
    plain = asdict(config) | {"resolved_lam": cell.lam, "kind": cell.kind}
    with RunRecord.create(
        folder,
        identity=cell.identity(prepared),
        config=plain,
        seed=config.seed,
        protocol=cell.protocol,
        name=cell.name,
        extras={"models_sha256": content_digest(prepared.models)},
        restart=True,
    ) as record:
        tracker = open_tracker(
            config.tracking.mode,
            project=config.tracking.project,
            group=cell.protocol,
            job_type="train" if cell.kind == OPD else "eval",
            name=cell.name,
            config=plain | {"identity": cell.identity(prepared)},
            folder=folder,
        )

        def report(update: int, metrics: dict[str, float]) -> None:
            record.log(update, metrics)
            tracker.log(update, metrics)

        try:
            job = Job(config, cell.lam, prepared)
            if cell.kind != OPD:
                outcome = BASELINES[cell.kind](job, report=report, advance=advance)
            elif config.engine.name == "single":
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
    models = load_kept(config, job.prepared)
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
