"""One update of the loop: sample a rollout batch, score it, accumulate its gradient.

Axes in names: B batch, T completion tokens, L prompt + completion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from opdcliff.calibration import CLASSES
from opdcliff.data import Example, Splits
from opdcliff.engine import Engine
from opdcliff.models import Trio, batch_of_update, sample_answers
from opdcliff.rollout import TRAIN_STREAM, Rollout, completion_full_logp, completion_logp
from opdcliff.settings import RunConfig
from opdcliff.theory import ClipRule
from opdcliff.training.full_objective import fold_topk, full_loss
from opdcliff.training.objective import LossOutput, sampled_loss
from opdcliff.training.running_means import RunningMeans, Timed


@dataclass(frozen=True)
class Batch:
    """A rollout batch of this rank, scored once under the frozen models."""

    examples: list[Example]
    rollout: Rollout
    teacher: Tensor
    base: Tensor | None
    old: Tensor | None
    token_count: int


def sample_batch(
    config: RunConfig,
    lam: float,
    trio: Trio,
    splits: Splits,
    engine: Engine,
    number: int,
    meter: RunningMeans,
) -> Batch:
    """Sample this rank's share of a rollout batch and score it under teacher and base."""
    whole = batch_of_update(splits.train, config.rollout.prompts_per_update, number, config.seed)
    numbered = whole[engine.rank :: engine.world]
    examples = [example for _, example in numbered]
    with Timed(meter, "generate"), engine.whole_student():
        rollout = sample_answers(
            engine.student,
            trio.codec,
            numbered,
            config.rollout,
            seed=config.seed,
            stream=TRAIN_STREAM,
        )
    with Timed(meter, "score"), torch.no_grad():
        length = rollout.mask_BT.shape[1]
        teacher = _frozen_logp(trio.teacher, engine.level(rollout), config)[:, :length]
        # At lam = 1, warm-up included, the base drops out of the advantage.
        base = None if lam == 1.0 else _frozen_logp(trio.base, rollout, config)
        old = None
        if ClipRule(config.clip.rule).uses_policy_ratio:
            old = _student_logp(engine, rollout, slice(None), full=False)
    tokens = engine.sum_over_ranks(float(rollout.mask_BT.sum()))
    return Batch(examples, rollout, teacher, base, old, int(tokens))


def _frozen_logp(model: Any, rollout: Rollout, config: RunConfig) -> Tensor:
    inputs = (model, rollout.ids_BL, rollout.attention_BL, rollout.mask_BT.shape[1])
    temperature = config.rollout.temperature
    if config.optim.estimator == "full":
        return completion_full_logp(*inputs, temperature=temperature)
    chunk = config.engine.score_chunk_tokens
    return completion_logp(*inputs, temperature=temperature, chunk_tokens=chunk)


def _student_logp(engine: Engine, rollout: Rollout, rows: slice, *, full: bool) -> Tensor:
    length = rollout.mask_BT.shape[1]
    return engine.score(rollout.ids_BL[rows], rollout.attention_BL[rows], length, full)


def accumulate(
    config: RunConfig, rule: ClipRule, lam: float, batch: Batch, engine: Engine
) -> list[LossOutput]:
    """Gradient of the whole rollout batch in micro-batches; their sum is the update's loss."""
    outputs = []
    count, size = len(batch.examples), config.engine.micro_batch
    for start in range(0, count, size):
        rows = slice(start, start + size)
        output = _loss(config, rule, lam, batch, engine, rows)
        engine.backward(output.loss, last=start + size >= count)
        outputs.append(output)
    return outputs


def _loss(
    config: RunConfig, rule: ClipRule, lam: float, batch: Batch, engine: Engine, rows: slice
) -> LossOutput:
    full = config.optim.estimator == "full"
    student = _student_logp(engine, batch.rollout, rows, full=full)
    teacher = batch.teacher[rows]
    base = None if batch.base is None else batch.base[rows]
    mask_BT = batch.rollout.mask_BT[rows]
    common: dict[str, Any] = {
        "lam": lam,
        "rule": rule,
        "strength": config.clip.strength,
        "token_count": batch.token_count,
    }
    if not full:
        old = None if batch.old is None else batch.old[rows]
        common |= {"logp_old_BT": old, "token_BT": batch.rollout.completion_BT[rows]}
        return sampled_loss(student, teacher, base, mask_BT, **common)
    index = None
    if config.optim.topk is not None:
        student, teacher, base, index = fold_topk(student, teacher, base, config.optim.topk)
    return full_loss(student, teacher, base, mask_BT, index_BTK=index, **common)


def log_tokens(
    meter: RunningMeans, outputs: Sequence[LossOutput], rollout: Rollout, class_BT: Tensor
) -> None:
    """Advantage and KL over all answer tokens, and clip fraction per class."""
    clipped_BT = torch.cat([part.clipped_BT for part in outputs]).float()
    advantage_BT = torch.cat([part.advantage_BT for part in outputs])
    tokens = float(rollout.mask_BT.sum())
    meter.add("train/advantage_mean", float(advantage_BT.sum()), tokens)
    meter.add("train/kl_teacher", sum(float(part.kl_BT.sum()) for part in outputs), tokens)
    meter.add("train/clip_fraction/all", float(clipped_BT[rollout.mask_BT].sum()), tokens)
    for code, name in enumerate(CLASSES):
        of_class_BT = class_BT == code
        count = float(of_class_BT.sum())
        if count:
            total = float(clipped_BT[of_class_BT].sum())
            meter.add(f"train/clip_fraction/{name.value}", total, count)
