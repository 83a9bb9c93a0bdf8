"""The on-policy distillation loop.

Each update: sample answers from the student, score them under teacher and base, and follow the
policy gradient of A = lam log pi_T - log pi_S - (lam - 1) log pi_B, clipped by the chosen rule.
With the full estimator and lam = 1 that descends the reverse KL(pi_S || pi_T) (docs/theory.md,
points 1 and 13). Records and tracking hang on `report`; the loop knows neither.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from opdcliff.config import RunConfig
from opdcliff.contract import Contract, get_contract
from opdcliff.data.example import Example, Splits
from opdcliff.data.prompts import batch_of_update, prompt_batch
from opdcliff.engine import Engine
from opdcliff.evaluate import class_metrics, sample_answers
from opdcliff.masses import CLASSES, label
from opdcliff.metrics import Judged, answer_metrics, judge
from opdcliff.models import Trio
from opdcliff.objective import ClipRule, LossOutput, fold_topk, full_loss, sampled_loss
from opdcliff.ranking import Gain
from opdcliff.rollout import TRAIN_STREAM, Rollout, sample
from opdcliff.scoring import completion_full_logp, completion_logp
from opdcliff.theory import lambda_at
from opdcliff.token_classes import ModalSets

# Answers whose class masses are measured per evaluation: three full-vocabulary passes each.
CLASS_ANSWERS = 48


@dataclass(frozen=True)
class Outcome:
    """How a run ended: status finished, collapsed or diverged; `update` is the last one made."""

    status: str
    update: int
    reason: str | None = None
    collapsed_at: int | None = None


@dataclass
class Meter:
    """Means and times since the last evaluation."""

    sums: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    weights: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, name: str, total: float, weight: float) -> None:
        """Add `total` over `weight` items."""
        self.sums[name] += total
        self.weights[name] += weight

    def flush(self) -> dict[str, float]:
        """The means, and the seconds per phase; then start over."""
        metrics = {k: self.sums[k] / self.weights[k] for k in self.sums if self.weights[k]}
        metrics |= {f"time/{k}_s": v for k, v in self.seconds.items()}
        self.sums.clear()
        self.weights.clear()
        self.seconds.clear()
        return metrics


class _Timed:
    """Adds the wall time of a block to a phase."""

    def __init__(self, meter: Meter, phase: str) -> None:
        self._meter, self._phase = meter, phase

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._meter.seconds[self._phase] += time.perf_counter() - self._start


def train(
    config: RunConfig,
    lam: float,
    trio: Trio,
    splits: Splits,
    modal_sets: ModalSets,
    engine: Engine,
    *,
    report: Callable[[int, dict[str, float]], None],
    advance: Callable[[int], None] = lambda update: None,
) -> Outcome:
    """Train `trio.student` for `optim.updates` updates at extrapolation `lam`.

    report: called with (update, metrics) at update 0, every `evaluation.every` and at the end.
    advance: called with the number of finished updates.
    A parse rate under `collapse_floor` for `collapse_patience` evaluations running is a collapse;
    a loss or gradient norm that is not finite is a divergence and ends the run at once.
    """
    contract = get_contract(config.data.contract)
    meter, rule = Meter(), ClipRule(config.clip.rule)
    low_evaluations, collapsed_at = 0, None
    steps = config.rollout.updates_per_batch
    for update in range(config.optim.updates + 1):
        last = update == config.optim.updates
        if last or update % config.evaluation.every == 0:
            lam_now = lambda_at(update, lam, config.lam.warmup_updates)
            metrics = _measure(
                config, trio, splits, contract, modal_sets, engine, meter, lam_now, final=last
            )
            parse_rate = metrics["eval/parse_rate"]
            low_evaluations = low_evaluations + 1 if _is_low(parse_rate, config) else 0
            if low_evaluations >= config.evaluation.collapse_patience and collapsed_at is None:
                collapsed_at = update
            stop = collapsed_at is not None and config.evaluation.stop_when_collapsed
            if stop and not last:
                metrics |= _measure(
                    config, trio, splits, contract, modal_sets, engine, meter, lam_now, final=True
                )
            report(update, metrics)
            if last or stop:
                return _ended(update, collapsed_at, config)
        if update % steps == 0:
            batch = _collect(config, lam, trio, splits, engine, update // steps, meter)
            positions = label(batch.rollout, batch.examples, modal_sets)
        lam_now = lambda_at(update, lam, config.lam.warmup_updates)
        with _Timed(meter, "update"):
            outputs = _accumulate(config, rule, lam_now, batch, engine)
            norm = engine.step()
        loss = engine.sum_over_ranks(sum(float(part.loss.detach()) for part in outputs))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return Outcome(
                "diverged", update, f"loss {loss} and gradient norm {norm} at update {update}"
            )
        meter.add("train/loss", loss, 1)
        meter.add("train/grad_norm", norm, 1)
        _log_tokens(meter, outputs, batch.rollout, positions.class_BT)
        advance(update + 1)
    raise AssertionError("unreachable: the last update returns")


@dataclass(frozen=True)
class _Batch:
    """A rollout batch of this rank, scored once under the frozen models."""

    examples: list[Example]
    rollout: Rollout
    teacher: Tensor
    base: Tensor | None
    old: Tensor | None
    token_count: int


def _collect(
    config: RunConfig,
    lam: float,
    trio: Trio,
    splits: Splits,
    engine: Engine,
    number: int,
    meter: Meter,
) -> _Batch:
    """Sample this rank's share of a rollout batch and score it under teacher and base."""
    whole = batch_of_update(splits.train, config.rollout.prompts_per_update, number, config.seed)
    numbered = whole[engine.rank :: engine.world]
    examples = [example for _, example in numbered]
    prompt_BL, attention_BL = prompt_batch(trio.tokenizer, examples)
    with _Timed(meter, "generate"), engine.whole_student():
        rollout = sample(
            engine.student,
            prompt_BL,
            attention_BL,
            numbers=[running for running, _ in numbered],
            seed=config.seed,
            stream=TRAIN_STREAM,
            max_new_tokens=config.rollout.max_new_tokens,
            temperature=config.rollout.temperature,
            tokenizer=trio.tokenizer,
        )
    with _Timed(meter, "score"), torch.no_grad():
        teacher = _frozen_logp(trio.teacher, rollout, config)
        # At lam = 1, warm-up included, the base drops out of the advantage.
        base = None if lam == 1.0 else _frozen_logp(trio.base, rollout, config)
        old = None
        if ClipRule(config.clip.rule).uses_policy_ratio:
            old = _student_logp(engine, rollout, slice(None), full=False)
    tokens = engine.sum_over_ranks(float(rollout.mask_BT.sum()))
    return _Batch(examples, rollout, teacher, base, old, int(tokens))


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


def _accumulate(
    config: RunConfig, rule: ClipRule, lam: float, batch: _Batch, engine: Engine
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
    config: RunConfig, rule: ClipRule, lam: float, batch: _Batch, engine: Engine, rows: slice
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
        return sampled_loss(student, teacher, base, mask_BT, logp_old_BT=old, **common)
    if config.optim.topk is not None:
        student, teacher, base, _ = fold_topk(student, teacher, base, config.optim.topk)
    return full_loss(student, teacher, base, mask_BT, **common)


def _log_tokens(
    meter: Meter, outputs: Sequence[LossOutput], rollout: Rollout, class_BT: Tensor
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


def _measure(
    config: RunConfig,
    trio: Trio,
    splits: Splits,
    contract: Contract,
    modal_sets: ModalSets,
    engine: Engine,
    meter: Meter,
    lam: float,
    *,
    final: bool,
) -> dict[str, float]:
    """One evaluation, shared out over ranks and complete on every rank."""
    settings = config.evaluation
    metrics = meter.flush() | {"train/lam": lam}
    prompts = settings.final_prompts if final else settings.prompts
    numbered = list(enumerate(splits.test[:prompts]))[engine.rank :: engine.world]
    started = time.perf_counter()
    with engine.whole_student():
        batches = sample_answers(
            engine.student,
            trio.tokenizer,
            numbered,
            seed=config.seed,
            max_new_tokens=config.rollout.max_new_tokens,
            temperature=config.rollout.temperature,
        )
        judged: list[Judged] = []
        for examples, rollout in batches:
            judged += judge(rollout, examples, contract, trio.tokenizer)
        examples, rollout = batches[0]
        metrics |= class_metrics(
            trio,
            _first_rows(rollout, CLASS_ANSWERS),
            examples[:CLASS_ANSWERS],
            modal_sets,
            lam=lam,
            strength=config.clip.strength,
            temperature=config.rollout.temperature,
            chunk_tokens=config.engine.score_chunk_tokens,
        )
    gain: Gain = "exp" if settings.gain == "exp" else "linear"
    metrics |= answer_metrics(engine.gather(judged), settings.ndcg_k, gain)
    return metrics | {"time/evaluate_s": time.perf_counter() - started}


def _first_rows(rollout: Rollout, count: int) -> Rollout:
    return Rollout(
        rollout.ids_BL[:count],
        rollout.attention_BL[:count],
        rollout.mask_BT[:count],
        rollout.ended_B[:count],
    )


def _is_low(parse_rate: float, config: RunConfig) -> bool:
    return parse_rate < config.evaluation.collapse_floor


def _ended(update: int, collapsed_at: int | None, config: RunConfig) -> Outcome:
    if collapsed_at is None:
        return Outcome("finished", update)
    settings = config.evaluation
    reason = (
        f"parse rate under {settings.collapse_floor:g} at {settings.collapse_patience} evaluations "
        f"running, the last at update {collapsed_at}"
    )
    return Outcome("collapsed", update, reason, collapsed_at)
