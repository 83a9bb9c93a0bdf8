"""Measuring a run between two updates: answers to test prompts, and class masses on them."""

from __future__ import annotations

import time

from opdcliff.contract import ModalSets, contract_of
from opdcliff.data import Splits
from opdcliff.engine import Engine
from opdcliff.models import Trio
from opdcliff.rollout import Rollout
from opdcliff.settings import RunConfig
from opdcliff.training.evaluation.answers import answers_in_batches, class_metrics, gain_of
from opdcliff.training.evaluation.metrics import Judged, answer_metrics, judge
from opdcliff.training.running_means import RunningMeans

# Answers whose class masses are measured per evaluation: three full-vocabulary passes each.
CLASS_ANSWERS = 48


def evaluate_run(
    config: RunConfig,
    trio: Trio,
    splits: Splits,
    modal_sets: ModalSets | None,
    engine: Engine,
    meter: RunningMeans,
    lam: float,
    *,
    final: bool,
) -> dict[str, float]:
    """One evaluation, shared out over ranks and complete on every rank."""
    settings, contract = config.evaluation, contract_of(config.data)
    metrics = meter.flush() | {"train/lam": lam}
    prompts = settings.final_prompts if final else settings.prompts
    numbered = list(enumerate(splits.test[:prompts]))[engine.rank :: engine.world]
    started = time.perf_counter()
    with engine.whole_student():
        batches = answers_in_batches(
            engine.student, trio.codec, numbered, config.rollout, seed=config.seed
        )
        judged: list[Judged] = []
        for examples, rollout in batches:
            judged += judge(rollout, examples, contract, trio.codec)
        examples, rollout = batches[0]
        # As many on every rank, some of which may have got one prompt more.
        rows = min(CLASS_ANSWERS, prompts // engine.world)
        metrics |= class_metrics(
            trio,
            engine.level(_first_rows(rollout, rows)),
            examples[:rows],
            modal_sets,
            lam=lam,
            strength=config.clip.strength,
            temperature=config.rollout.temperature,
            chunk_tokens=config.engine.score_chunk_tokens,
        )
    metrics |= answer_metrics(engine.gather(judged), settings.ndcg_k, gain_of(settings), contract)
    return metrics | {"time/evaluate_s": time.perf_counter() - started}


def _first_rows(rollout: Rollout, count: int) -> Rollout:
    return Rollout(
        rollout.ids_BL[:count],
        rollout.attention_BL[:count],
        rollout.mask_BT[:count],
        rollout.ended_B[:count],
    )
