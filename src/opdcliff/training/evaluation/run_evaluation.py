"""Measuring a run between two updates: answers to test prompts, and class masses on them."""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from opdcliff.contract import Labels, contract_of
from opdcliff.data import Splits
from opdcliff.engine import Engine
from opdcliff.models import Trio
from opdcliff.rollout import Rollout
from opdcliff.settings import RunConfig
from opdcliff.training.evaluation.answers import answers_in_batches, gain_of
from opdcliff.training.evaluation.kept_answers import Shown, shown
from opdcliff.training.evaluation.masses import Masses, class_metrics, measure_masses
from opdcliff.training.evaluation.metrics import Judged, answer_metrics, judge
from opdcliff.training.running_means import RunningMeans

Item = TypeVar("Item")

# Answers whose class masses are measured per evaluation: three full-vocabulary passes each.
CLASS_ANSWERS = 48


def evaluate_run(
    config: RunConfig,
    trio: Trio,
    splits: Splits,
    labels: Labels | None,
    engine: Engine,
    meter: RunningMeans,
    lam: float,
    *,
    final: bool,
    keep: Callable[[list[Shown]], None] = lambda answers: None,
) -> dict[str, float]:
    """One evaluation, shared out over ranks and complete on every rank.

    The same answers are measured whatever the number of ranks, in the same order. keep: called
    with the first `tracking.answers` of them, where that is not 0.
    """
    settings, contract = config.evaluation, contract_of(config.data)
    metrics = meter.flush() | {"train/lam": lam}
    prompts = splits.test[: settings.final_prompts if final else settings.prompts]
    numbered = list(enumerate(prompts))[engine.rank :: engine.world]
    started = time.perf_counter()
    with engine.whole_student():
        batches = answers_in_batches(
            engine.student, trio.codec, numbered, config.rollout, seed=config.seed
        )
        judged: list[Judged] = []
        looked_at: list[Shown] = []
        for examples, rollout in batches:
            own = numbered[len(judged) : len(judged) + len(examples)]
            verdicts = judge(rollout, examples, contract, trio.codec)
            looked_at += shown(rollout, own, verdicts, trio.codec, config.tracking.answers)
            judged += verdicts
        # A contract that only judges has no classes.
        masses: list[Masses] = []
        if labels is not None:
            examples, rollout = batches[0]
            measured_rows, run = class_rows(len(prompts), engine.rank, engine.world)
            rows = [row % len(examples) for row in range(run)]
            masses = measure_masses(
                trio,
                engine.level(_of_rows(rollout, rows)),
                [examples[row] for row in rows],
                labels,
                temperature=config.rollout.temperature,
                chunk_tokens=config.engine.score_chunk_tokens,
            )[:measured_rows]
    numbers = [number for number, _ in numbered]
    if labels is not None:
        measured = _in_order(engine, numbers[: len(masses)], masses)
        metrics |= class_metrics(measured, lam=lam, strength=config.clip.strength)
    every = _in_order(engine, numbers, judged)
    if config.tracking.answers:
        keep(_in_order(engine, [each.number for each in looked_at], looked_at))
    metrics |= answer_metrics(every, settings.ndcg_k, gain_of(settings), contract)
    return metrics | {"time/evaluate_s": time.perf_counter() - started}


def class_rows(prompts: int, rank: int, world: int) -> tuple[int, int]:
    """How many answers of a rank are measured, and how many rows it runs for that.

    Measured are the first `CLASS_ANSWERS` of all prompts, which ranks take in turn. Where that does
    not go up, some rank runs a row more than it is measured on: all need as many, since scoring
    under a teacher that is split is collective.
    """
    every = min(CLASS_ANSWERS, prompts)
    return len(range(rank, every, world)), -(-every // world)


def _in_order(engine: Engine, numbers: Sequence[int], items: Sequence[Item]) -> list[Item]:
    """The items of all ranks by the number of their prompt."""
    gathered = engine.gather(list(zip(numbers, items, strict=True)))
    return [item for _, item in sorted(gathered, key=operator.itemgetter(0))]


def _of_rows(rollout: Rollout, rows: list[int]) -> Rollout:
    return Rollout(
        rollout.ids_BL[rows],
        rollout.attention_BL[rows],
        rollout.mask_BT[rows],
        rollout.ended_B[rows],
    )
