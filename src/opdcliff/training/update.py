"""One update of the loop: sample a rollout batch, score it, accumulate its gradient.

Axes in names: B batch, T completion tokens, L prompt + completion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
from opdcliff.training.objective import LossOutput, sampled_loss
from opdcliff.training.running_means import RunningMeans, Timed


@dataclass(frozen=True)
class Batch:
    """A rollout batch of this rank, scored once under the frozen models.

    teacher, base: log-probs of the sampled tokens (BT), or for the full estimator what it makes
    log-probs of the vocabulary of. base: None at lam = 1. old: log-probs of the sampling policy.
    """

    examples: list[Example]
    rollout: Rollout
    teacher: Tensor | Frozen
    base: Tensor | Frozen | None
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
    meter.add("train/compiled_rollouts", float(rollout.compiled), 1)
    with Timed(meter, "score"), torch.no_grad():
        length = rollout.mask_BT.shape[1]
        teacher = _frozen(trio.teacher, engine.level(rollout), length, config)
        # At lam = 1, warm-up included, the base drops out of the advantage.
        base = None if lam == 1.0 else _frozen(trio.base, rollout, length, config)
        old = None
        if ClipRule(config.clip.rule).uses_policy_ratio:
            old = engine.score(rollout.ids_BL, rollout.attention_BL, length)
    tokens = engine.sum_over_ranks(float(rollout.mask_BT.sum()))
    return Batch(examples, rollout, teacher, base, old, int(tokens))


def _frozen(
    model: PreTrainedModel, rollout: Rollout, length: int, config: RunConfig
) -> Tensor | Frozen:
    if config.optim.estimator == "full":
        return Frozen.of(model, rollout, length)
    logp_BT = completion_logp(
        model,
        rollout.ids_BL,
        rollout.attention_BL,
        rollout.mask_BT.shape[1],
        temperature=config.rollout.temperature,
        chunk_tokens=config.engine.score_chunk_tokens,
    )
    return logp_BT[:, :length]


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
    rollout, teacher, base = batch.rollout, batch.teacher, batch.base
    mask_BT = rollout.mask_BT[rows]
    inputs = (rollout.ids_BL[rows], rollout.attention_BL[rows], mask_BT.shape[1])
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
        beside = [mask_BT, *(model.features(rows) for model in frozen)]
        return LossOutput(*engine.loss(*inputs, objective, beside))
    assert not isinstance(base, Frozen), "both are scored alike"
    return sampled_loss(
        engine.score(*inputs),
        teacher[rows],
        None if base is None else base[rows],
        mask_BT,
        logp_old_BT=None if batch.old is None else batch.old[rows],
        token_BT=rollout.completion_BT[rows],
        **common,
    )


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
