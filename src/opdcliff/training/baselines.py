"""Baseline cells: models that are measured beside the distilled student, under the run's seed.

`warm_start` is the student before distillation. `larger_sft` is a larger model (built from
`model.arch`, about five times the student's parameters, or loaded from `model.student`), fine-tuned
on the teacher's kind of reference answers to the same prompts, with the initialisation, order and
answers of its own seed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from transformers import PreTrainedModel

from opdcliff.contract import contract_of
from opdcliff.models import (
    STUDENT,
    Loaded,
    fine_tune,
    load_kept,
    load_tokenizer,
    pick_device,
    same_vocabulary,
    starting_model,
    tuned_model,
)
from opdcliff.settings import RunConfig
from opdcliff.training.evaluation.answers import evaluate_model
from opdcliff.training.job import Job
from opdcliff.training.loop import RunOutcome

Report = Callable[[int, dict[str, float]], None]
Advance = Callable[[int], None]


def measure_warm_start(job: Job, *, report: Report, advance: Advance) -> RunOutcome:
    """Measure the student before any update; callbacks as in `train.train`."""
    loaded = load_kept(job.config, job.prepared)
    report(0, _measured(loaded.trio.base, loaded, job.config))
    advance(job.config.optim.updates)
    return RunOutcome("finished", 0)


def train_larger_sft(job: Job, *, report: Report, advance: Advance) -> RunOutcome:
    """Fine-tune and measure the larger model; callbacks as in `train.train`."""
    config = job.config
    torch.set_num_threads(config.engine.threads)
    loaded = load_kept(config, job.prepared)
    role, tokenizer = config.sft.teacher, loaded.trio.codec.tokenizer
    if config.model.student is not None:
        own = load_tokenizer(config.model.student, revision=config.model.student_revision)
        same_vocabulary(tokenizer, own, ("student", "larger model"))
    # A cell counts its progress in updates of a run.
    share = config.optim.updates / role.steps
    model = starting_model(config, tokenizer, STUDENT, config.seed)
    fine_tune(
        model.to(pick_device(config.engine)),
        loaded.trio.codec,
        loaded.splits.train,
        config.sft,
        role,
        seed=config.seed,
        with_reason=contract_of(config.data).has_text,
        titles=loaded.splits.titles,
        advance=lambda step: advance(int(share * step)),
    )
    model = tuned_model(model, config.model.dtype)
    parameters = float(sum(p.numel() for p in model.parameters()))
    report(role.steps, _measured(model, loaded, config) | {"model/parameters": parameters})
    return RunOutcome("finished", role.steps)


BASELINES = {"warm_start": measure_warm_start, "larger_sft": train_larger_sft}


def _measured(model: PreTrainedModel, loaded: Loaded, config: RunConfig) -> dict[str, float]:
    return evaluate_model(
        model,
        loaded.trio.codec,
        loaded.splits.test[: config.evaluation.final_prompts],
        contract_of(config.data),
        config.evaluation,
        config.rollout,
        seed=config.seed,
    )
