"""The on-policy distillation loop.

Each update: sample answers from the student, score them under teacher and base, and follow the
policy gradient of A = lam log pi_T - log pi_S - (lam - 1) log pi_B, clipped by the chosen rule.
With the full estimator and lam = 1 that descends the reverse KL(pi_S || pi_T) (docs/theory.md,
points 1 and 13). Records and tracking hang on `report`; the loop knows neither.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from opdcliff.calibration import label_classes
from opdcliff.contract import Labels
from opdcliff.data import Splits
from opdcliff.engine import Engine
from opdcliff.models import Trio
from opdcliff.settings import EvaluationConfig, RunConfig
from opdcliff.theory import ClipRule, lambda_at
from opdcliff.training.evaluation.kept_answers import Shown
from opdcliff.training.evaluation.run_evaluation import evaluate_run
from opdcliff.training.running_means import RunningMeans, Timed
from opdcliff.training.update import accumulate, log_tokens, sample_batch

# Weights that move less than this share of their steps are said to stand still: at half of it as
# many steps are lost as are made.
LEAST_MOVED = 0.5


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended: finished, collapsed, diverged or preempted; `update` is the last made."""

    status: str
    update: int
    reason: str | None = None
    collapsed_at: int | None = None


@dataclass
class LoopState:
    """Where a run stands between two updates: all of its state but models and generators.

    update: updates made. evaluations: updates at which it was measured. low_evaluations: those
    running, now, whose parse rate was under the floor and no new high of the run. highest: that
    high. collapsed_at: see `RunOutcome`.
    """

    update: int = 0
    evaluations: list[int] = field(default_factory=list)
    low_evaluations: int = 0
    highest: float | None = None
    collapsed_at: int | None = None
    meter: RunningMeans = field(default_factory=RunningMeans)

    def plain(self) -> dict[str, Any]:
        """As containers of plain values."""
        return {**vars(self), "meter": {k: dict(v) for k, v in vars(self.meter).items()}}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> LoopState:
        """Inverse of `plain`."""
        return cls(**{**plain, "meter": RunningMeans.of(plain["meter"])})

    def note(self, parse_rate: float, settings: EvaluationConfig) -> None:
        """Count an evaluation at this update."""
        self.evaluations.append(self.update)
        # A weak warm start that is on its way up has not collapsed.
        rising = self.highest is not None and parse_rate > self.highest
        low = parse_rate < settings.collapse_floor and not rising
        self.highest = max(self.highest or 0.0, parse_rate)
        self.low_evaluations = self.low_evaluations + 1 if low else 0
        if self.low_evaluations >= settings.collapse_patience and self.collapsed_at is None:
            self.collapsed_at = self.update


def evaluated_at(update: int, config: RunConfig) -> bool:
    """Whether a run is measured after so many updates."""
    return update == config.optim.updates or update % config.evaluation.every == 0


def train(
    config: RunConfig,
    lam: float,
    trio: Trio,
    splits: Splits,
    labels: Labels | None,
    engine: Engine,
    *,
    report: Callable[[int, dict[str, float]], None],
    advance: Callable[[int], None] = lambda update: None,
    stop: Callable[[], bool] = lambda: False,
    save: Callable[[LoopState], None] = lambda position: None,
    remark: Callable[[str], None] = lambda text: None,
    keep: Callable[[int, float, list[Shown]], None] = lambda update, lam, answers: None,
    start: LoopState | None = None,
) -> RunOutcome:
    """Train `trio.student` for `optim.updates` updates at extrapolation `lam`.

    report: called with (update, metrics) at update 0, every `evaluation.every` and at the end.
    advance: called with the number of finished updates.
    stop: asked before every rollout batch whether to leave; one rank's yes is enough.
    save: called between rollout batches, every `checkpoint.every` updates and before leaving.
    remark: called with a line that the user should read, once if weights hardly move.
    keep: called with (update, lambda, the first answers of an evaluation).
    start: where an interrupted run goes on; student and engine must hold the state of then.
    A parse rate under `collapse_floor` for `collapse_patience` evaluations running, none of which
    is a new high of the run, is a collapse; a loss or gradient norm that is not finite is a
    divergence and ends the run at once. A run that is asked to leave ends as preempted.
    """
    at = start or LoopState()
    meter, rule = at.meter, ClipRule(config.clip.rule)
    measure_now = partial(evaluate_run, config, trio, splits, labels, engine, meter)
    steps, saved_at = config.rollout.updates_per_batch, at.update
    watching = True
    while True:
        last = at.update == config.optim.updates
        between_batches = at.update % steps == 0 and not last
        if between_batches and engine.sum_over_ranks(float(stop())):
            if config.checkpoint.every and (start is None or at.update != saved_at):
                save(at)
            return RunOutcome("preempted", at.update, f"asked to stop after update {at.update}")
        lam_now = lambda_at(at.update, lam, config.lam.warmup_updates)
        if evaluated_at(at.update, config) and at.update not in at.evaluations:
            keep_now = partial(keep, at.update, lam_now)
            metrics = measure_now(lam_now, final=last, keep=keep_now)
            at.note(metrics["eval/parse_rate"], config.evaluation)
            leave = at.collapsed_at is not None and config.evaluation.stop_when_collapsed
            if leave and not last:
                metrics |= measure_now(lam_now, final=True)
            report(at.update, metrics)
            if last or leave:
                return _ended(at.update, at.collapsed_at, config)
        if between_batches:
            if 0 < config.checkpoint.every <= at.update - saved_at:
                save(at)
                saved_at = at.update
            batch = sample_batch(config, lam, trio, splits, engine, at.update // steps, meter)
            class_BT = label_classes(batch.rollout, batch.examples, labels)
        with Timed(meter, "update"):
            output = accumulate(config, rule, lam_now, batch, engine)
            norm = engine.step()
        loss = engine.sum_over_ranks(float(output.loss))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return RunOutcome(
                "diverged", at.update, f"loss {loss} and gradient norm {norm} at update {at.update}"
            )
        if watching:
            moved, meant = engine.sums_over_ranks(engine.first_step())
            watching = meant == 0.0
            if moved < LEAST_MOVED * meant:
                remark(_standing(at.update + 1, moved / meant, config.optim.lr))
        meter.add("train/loss", loss, 1)
        meter.add("train/grad_norm", norm, 1)
        log_tokens(meter, engine, output, batch.rollout, class_BT)
        at.update += 1
        advance(at.update)


def _standing(update: int, share: float, lr: float) -> str:
    return (
        f"weights hardly move: update {update} moved them by {share:.0%} of its steps and the rest "
        f"was lost in rounding; raise optim.lr (it is {lr:g})"
    )


def _ended(update: int, collapsed_at: int | None, config: RunConfig) -> RunOutcome:
    if collapsed_at is None:
        return RunOutcome("finished", update)
    settings = config.evaluation
    reason = (
        f"parse rate under {settings.collapse_floor:g} at {settings.collapse_patience} evaluations "
        f"running, the last at update {collapsed_at}"
    )
    return RunOutcome("collapsed", update, reason, collapsed_at)
