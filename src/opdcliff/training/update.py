"""One update of the loop: sample a rollout batch, score it, accumulate its gradient.

Axes in names: B batch, T completion tokens, L prompt + completion.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from opdcliff.calibration import CLASSES
from opdcliff.data import Example, Splits
from opdcliff.engine import Engine
from opdcliff.models import Trio, batch_of_update, sample_answers
from opdcliff.rollout import TRAIN_STREAM, Rollout, completion_logp
from opdcliff.settings import RunConfig
from opdcliff.theory import ClipRule
from opdcliff.training.full_objective import ChunkObjective, Frozen
from opdcliff.training.mismatch import engine_weight, measure_mismatch
from opdcliff.training.objective import LossOutput, sampled_loss
from opdcliff.training.parts import by_parts, cut, parts_of, unchanged
from opdcliff.training.running_means import RunningMeans, Timed


@dataclass(frozen=True)
class Batch:
    """A rollout batch of this rank, scored once under the frozen models.

    parts: rows that go through the models together (`parts`). teacher, base: log-probs of the
    sampled tokens (BT), or for the full estimator what it makes log-probs of the vocabulary of.
    base: None at lam = 1. old: log-probs of the sampling policy. engine_weight: see `mismatch`;
    None where nothing is to be corrected.
    """

    examples: list[Example]
    rollout: Rollout
    parts: list[Tensor]
    teacher: Tensor | Frozen
    base: Tensor | Frozen | None
    old: Tensor | None
    token_count: int
    engine_weight: Tensor | None = None


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
    parts = parts_of(rollout, config.engine.micro_batch, ranks=engine.world)
    with Timed(meter, "score"), torch.no_grad():
        score = partial(score_frozen, rollout=rollout, parts=parts, config=config)
        teacher = score(trio.teacher, level=engine.level)
        # At lam = 1, warm-up included, the base drops out of the advantage.
        base = None if lam == 1.0 else score(trio.base, level=unchanged)
        old, weight, drawn = None, None, rollout.logp_BT
        if ClipRule(config.clip.rule).uses_policy_ratio or drawn is not None:
            old = by_parts(rollout, parts, partial(_student_logp, engine))
        if drawn is not None and old is not None:
            measure_mismatch(meter, engine, rollout, old)
            if config.rollout.engine_cap is not None:
                weight = engine_weight(old, drawn, config.rollout.engine_cap)
    tokens, compiled = engine.sums_over_ranks(
        [float(rollout.mask_BT.sum()), float(rollout.compiled)]
    )
    meter.add("train/compiled_rollouts", compiled, engine.world)
    return Batch(examples, rollout, parts, teacher, base, old, int(tokens), weight)


def _student_logp(engine: Engine, part: Rollout) -> Tensor:
    return engine.score(part.ids_BL, part.attention_BL, part.mask_BT.shape[1])


def score_frozen(
    model: PreTrainedModel,
    *,
    rollout: Rollout,
    parts: list[Tensor],
    level: Callable[[Rollout], Rollout],
    config: RunConfig,
) -> Tensor | Frozen:
    """What an update needs of a frozen model: see `Batch`. level: as in `full_objective.Frozen`."""
    if config.optim.estimator == "full":
        return Frozen.of(model, rollout, parts, level)

    def logp(part: Rollout) -> Tensor:
        even = level(part)
        logp_BT = completion_logp(
            model,
            even.ids_BL,
            even.attention_BL,
            even.mask_BT.shape[1],
            temperature=config.rollout.temperature,
            chunk_tokens=config.engine.score_chunk_tokens,
        )
        return logp_BT[:, : part.mask_BT.shape[1]]

    return by_parts(rollout, parts, logp)


def accumulate(
    config: RunConfig, rule: ClipRule, lam: float, batch: Batch, engine: Engine
) -> LossOutput:
    """Gradient of the whole rollout batch, part by part; values are those of the whole update."""
    shape = batch.rollout.mask_BT.shape
    per_token: list[Tensor] = []
    losses: list[Tensor] = []
    for number, rows in enumerate(batch.parts, start=1):
        part = cut(batch.rollout, rows)
        loss, *values = part_loss(config, rule, lam, batch, engine, rows, part)
        engine.backward(loss, last=number == len(batch.parts))
        losses.append(loss.detach())
        per_token = per_token or [value.new_zeros(shape) for value in values]
        for whole_BT, value_BT in zip(per_token, values, strict=True):
            whole_BT[rows, : value_BT.shape[1]] = value_BT
    return LossOutput(torch.stack(losses).sum(), *per_token)


def part_loss(
    config: RunConfig,
    rule: ClipRule,
    lam: float,
    batch: Batch,
    engine: Engine,
    rows: Tensor,
    part: Rollout,
) -> LossOutput:
    """The loss of a part of the batch, `cut` to these rows, and its values (shape of the part)."""
    teacher, base, length = batch.teacher, batch.base, part.mask_BT.shape[1]
    inputs = (part.ids_BL, part.attention_BL, length)
    common: dict[str, Any] = {
        "lam": lam,
        "rule": rule,
        "strength": config.clip.strength,
        "token_count": batch.token_count,
    }
    if isinstance(teacher, Frozen):
        # While lam warms up from 1, no base is read.
        extended = base if isinstance(base, Frozen) and lam != 1.0 else None
        frozen = [teacher] if extended is None else [teacher, extended]
        objective = ChunkObjective(
            teacher.model,
            None if extended is None else extended.model,
            config.rollout.temperature,
            config.optim.topk,
            **common,
        )
        beside = [part.mask_BT, *(model.features(rows, part) for model in frozen)]
        return LossOutput(*engine.loss(*inputs, objective, beside))
    assert not isinstance(base, Frozen), "both are scored alike"
    return sampled_loss(
        engine.score(*inputs),
        teacher[rows, :length],
        _rows(base, rows, length),
        part.mask_BT,
        logp_old_BT=_rows(batch.old, rows, length),
        engine_weight_BT=_rows(batch.engine_weight, rows, length),
        token_BT=part.completion_BT,
        **common,
    )


def _rows(values_BT: Tensor | None, rows: Tensor, length: int) -> Tensor | None:
    return None if values_BT is None else values_BT[rows, :length]


def log_tokens(
    meter: RunningMeans, engine: Engine, output: LossOutput, rollout: Rollout, class_BT: Tensor
) -> None:
    """Advantage and KL over all answer tokens of all ranks, and clip fraction per class."""
    clipped_BT = output.clipped_BT.float()
    tokens = float(rollout.mask_BT.sum())
    sums = {
        "train/advantage_mean": (float(output.advantage_BT.sum()), tokens),
        "train/kl_teacher": (float(output.kl_BT.sum()), tokens),
        "train/clip_fraction/all": (float(clipped_BT[rollout.mask_BT].sum()), tokens),
    }
    for code, name in enumerate(CLASSES):
        of_class_BT = class_BT == code
        clipped = float(clipped_BT[of_class_BT].sum())
        sums[f"train/clip_fraction/{name.value}"] = (clipped, float(of_class_BT.sum()))
    flat = engine.sums_over_ranks([value for pair in sums.values() for value in pair])
    for metric, total, weight in zip(sums, flat[::2], flat[1::2], strict=True):
        if weight:
            meter.add(metric, total, weight)
