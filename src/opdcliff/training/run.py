"""Training a cell in this process: models, engine, the loop, and what is kept of them."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from opdcliff.engine import Engine, load_parameters, open_engine, trained
from opdcliff.models import STUDENT, fresh_student, load_kept, save_model
from opdcliff.processes import requested
from opdcliff.records import OUTCOMES
from opdcliff.storage import fsync_tree, writing
from opdcliff.training.checkpoints import checkpoint
from opdcliff.training.checkpoints.generators import set_generator_state
from opdcliff.training.checkpoints.resume import save_position
from opdcliff.training.evaluation.kept_answers import ANSWERS, KeptAnswers, Shown
from opdcliff.training.job import Job
from opdcliff.training.loop import LoopState, RunOutcome, train

_log = logging.getLogger(__name__)

# Beside the files of a cell's record: the distilled student.
KEPT_STUDENT = "student"


def train_here(
    job: Job,
    *,
    report: Callable[[int, dict[str, float]], None],
    advance: Callable[[int], None],
    remark: Callable[[str], None] = _log.warning,
) -> RunOutcome:
    """Train in this process, or as one rank of several; callbacks as in `train.train`."""
    config, place = job.config, job.place
    torch.set_num_threads(config.engine.threads)
    models = load_kept(config, job.prepared)
    trio = fresh_student(
        models.trio,
        config.model.lora,
        seed=config.seed,
        # ZeRO-3 takes the weights of a student apart, and those of the base with them.
        share=config.engine.name != "zero3",
    )
    engine, start = _open(trio.student, job)
    engine.adopt(trio.teacher)
    show: Callable[[int, float, list[Shown]], None] = lambda update, lam, answers: None  # noqa: E731
    if place is not None and config.tracking.answers and engine.rank == 0:
        show = KeptAnswers(place.record / ANSWERS, start.evaluations if start else []).add
    if place is None:
        save: Callable[[LoopState], None] = lambda position: None  # noqa: E731
    else:
        root, keep = place.record / checkpoint.CHECKPOINTS, config.checkpoint.keep
        save = partial(save_position, root, engine=engine, about=place.about, keep=keep)
    outcome = train(
        config,
        job.lam,
        replace(trio, student=engine.student),
        models.splits,
        models.labels,
        engine,
        report=report,
        advance=advance,
        stop=requested,
        save=save,
        remark=remark,
        keep=show,
        start=start,
    )
    if place is not None and config.checkpoint.final_student and outcome.status in OUTCOMES:
        base = job.prepared.models / STUDENT
        _keep_student(engine, trio.codec.tokenizer, place.record / KEPT_STUDENT, base)
    return outcome


def _open(student: PreTrainedModel, job: Job) -> tuple[Engine, LoopState | None]:
    """The engine around a student at the warm start, or at the checkpoint a run goes on from."""
    if job.place is None or job.place.resume is None:
        return open_engine(student, job.config), None
    saved = checkpoint.read(job.place.resume)
    with saved.state() as state:
        load_parameters(trained(student), state)
        engine = open_engine(student, job.config)
        engine.load_state(state)
    mine = f"rank{engine.rank}/"
    generators = saved.generators().items()
    set_generator_state({k.removeprefix(mine): v for k, v in generators if k.startswith(mine)})
    return engine, LoopState.of(saved.position)


def _keep_student(engine: Engine, tokenizer: Any, folder: Path, base: Path) -> None:
    """Save the distilled student, or its adapter alone, as a folder that `from_pretrained` loads.

    base: the warm start, which an adapter names as what it goes on.
    """
    aside = folder.with_name(f".{folder.name}.partial")
    with engine.whole_student(), writing(folder):
        if engine.rank != 0:
            return
        for left_over in (aside, folder):
            shutil.rmtree(left_over, ignore_errors=True)
        save_model(engine.student, aside, base=str(base))
        tokenizer.save_pretrained(aside)
        fsync_tree(aside)
        aside.rename(folder)
