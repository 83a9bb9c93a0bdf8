"""What an engine of its own drew with, beside the student: measured, and corrected by choice."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import markov
from opdcliff.contract.parse import RANKING_WITH_REASON
from opdcliff.engine.open import open_engine
from opdcliff.rollout import reference
from opdcliff.rollout.backends import SAMPLERS
from opdcliff.rollout.draws import Rollout
from opdcliff.rollout.scoring import completion_logp
from opdcliff.theory.clip_rules import ClipRule
from opdcliff.training import update as updating
from opdcliff.training.loop import train
from opdcliff.training.mismatch import engine_weight, measure_mismatch
from opdcliff.training.objective import sampled_loss
from opdcliff.training.running_means import RunningMeans

WORDS = (
    *("optim.updates=2", "optim.lr=0.02", "evaluation.every=2", "rollout.prompts_per_update=6"),
    *("rollout.max_new_tokens=24", "evaluation.prompts=4", "evaluation.final_prompts=4"),
    *("evaluation.collapse_floor=0.0", "lam.warmup_updates=0", "clip=c5", "rollout.backend=vllm"),
    *("optim.estimator=sampled", "model.dtype=float32"),
)
RATIO = "train/engine_log_ratio_"


def off_by(shift: Callable[[Tensor], Tensor]) -> Callable[..., Rollout]:
    """Draws of the reference, said to come with log-probs that are off by a function of the ids."""

    def sampling(model: Any, *prompts: Tensor, **options: Any) -> Rollout:
        rollout = reference.sample(model, *prompts, **options)
        with torch.no_grad():
            own_BT = completion_logp(
                model,
                rollout.ids_BL,
                rollout.attention_BL,
                rollout.mask_BT.shape[1],
                temperature=options["temperature"],
                chunk_tokens=64,
            )
        return replace(rollout, logp_BT=own_BT - shift(rollout.completion_BT))

    return sampling


def even_ids_up(ids_BT: Tensor) -> Tensor:
    """log pi_train/pi_rollout: log 3 on even ids, -0.1 on odd ones."""
    return torch.where(ids_BT % 2 == 0, math.log(3.0), -0.1)


def run(*overrides: str) -> tuple[dict[str, float], Tensor]:
    """The last metrics and the head that was trained."""
    config = markov.config(*WORDS, *overrides)
    trio = markov.trio(
        markov.chain([0.85, 0.9, 0.8], torch.float32, opens=0.98),
        markov.chain([0.5, 0.4, 0.6], torch.float32),
    )
    reports: list[dict[str, float]] = []
    train(
        config,
        1.3,
        trio,
        markov.splits(),
        trio.codec.labels(RANKING_WITH_REASON),
        open_engine(trio.student, config),
        report=lambda update, metrics: reports.append(metrics),
    )
    return reports[-1], markov.head(trio.student)


# ---- the weight -------------------------------------------------------------------------------


def test_the_weight_is_the_ratio_up_to_the_cap_and_has_no_gradient() -> None:
    student = torch.tensor([[0.0, -1.0, -2.0, -1.0]], requires_grad=True)
    engine = torch.tensor([[0.0, -1.5, -1.0, -9.0]])
    weight = engine_weight(student, engine, 2.0)
    assert weight.tolist()[0] == pytest.approx([1.0, math.exp(0.5), math.exp(-1.0), 2.0])
    assert not weight.requires_grad


@pytest.mark.parametrize("rule", ["none", "mask", "truncate", "two_sided", "ppo", "aspo"])
def test_each_term_of_the_sampled_loss_is_multiplied_and_padding_adds_nothing(rule: str) -> None:
    torch.manual_seed(0)
    teacher, base, old = (-torch.rand(2, 3, dtype=torch.float64) for _ in range(3))
    student = -torch.rand(2, 3, dtype=torch.float64)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    weight = torch.tensor([[0.5, 2.0, torch.nan], [1.0, 0.0, 1.5]], dtype=torch.float64)
    options: dict[str, Any] = {
        "lam": 1.3,
        "rule": ClipRule(rule),
        "strength": None if rule == "none" else 1.4,
        "token_count": 5,
        "logp_old_BT": old,
    }

    def gradient(**more: Any) -> Tensor:
        leaf = student.clone().requires_grad_()
        loss = sampled_loss(leaf, teacher, base, mask, **options, **more).loss
        return torch.autograd.grad(loss, leaf)[0]

    expected = gradient() * weight.masked_fill(~mask, 0.0)
    assert torch.allclose(gradient(engine_weight_BT=weight), expected, atol=1e-15)


def test_weights_make_the_mean_over_an_engine_that_over_the_student() -> None:
    """The expectation of w A grad log pi under pi_rollout is that of A grad log pi under pi_train.

    One place, the whole vocabulary as samples, each as often as the engine draws it.
    """
    torch.manual_seed(0)
    logits = torch.randn(5, dtype=torch.float64)
    drawn = torch.randn(5, dtype=torch.float64).log_softmax(-1)
    teacher = torch.randn(5, dtype=torch.float64).log_softmax(-1)

    def mean_gradient(mass: Tensor, weight: Tensor | None) -> Tensor:
        leaf = logits.clone().requires_grad_()
        logp_BT = leaf.log_softmax(-1)[:, None]
        total = torch.zeros(5, dtype=torch.float64)
        for token in range(5):
            loss = sampled_loss(
                logp_BT[token : token + 1],
                teacher[token : token + 1, None],
                None,
                torch.ones(1, 1),
                lam=1.0,
                rule=ClipRule.NONE,
                strength=None,
                token_count=1,
                engine_weight_BT=None if weight is None else weight[token : token + 1, None],
            ).loss
            total += mass[token] * torch.autograd.grad(loss, leaf, retain_graph=True)[0]
        return total

    own = logits.log_softmax(-1)
    wanted = mean_gradient(own.exp(), None)
    weight = engine_weight(own, drawn, 1e9)
    assert torch.allclose(mean_gradient(drawn.exp(), weight), wanted, atol=1e-12)
    assert not torch.allclose(mean_gradient(drawn.exp(), None), wanted, atol=1e-3)


# ---- what is reported -------------------------------------------------------------------------


def test_ratios_are_taken_over_answer_tokens_of_all_ranks() -> None:
    class TwoRanks:
        def sums_over_ranks(self, values: list[float]) -> list[float]:
            return [a + b for a, b in zip(values, (-1.0, 2.0, 1.0), strict=True)]

        def gather(self, items: list[float]) -> list[float]:
            return [*items, 1.5]

    meter = RunningMeans()
    ids = torch.zeros(1, 4, dtype=torch.long)
    mask = torch.tensor([[True, True, False]])
    drawn = torch.tensor([[-1.0, -1.0, 50.0]])
    rollout = Rollout(ids, torch.ones_like(ids), mask, torch.ones(1), False, drawn)
    student = torch.tensor([[-0.5, -1.25, 0.0]])
    measure_mismatch(meter, TwoRanks(), rollout, student)  # type: ignore[arg-type]
    found = meter.flush()
    assert found[f"{RATIO}mean"] == pytest.approx((0.5 - 0.25 - 1.0) / 3)
    assert found[f"{RATIO}abs_mean"] == pytest.approx((0.75 + 2.0) / 3)
    assert found[f"{RATIO}abs_max"] == 1.5


@pytest.mark.parametrize("estimator", ["sampled", "full"])
def test_a_run_reports_the_ratio_of_its_engine(
    monkeypatch: pytest.MonkeyPatch, estimator: str
) -> None:
    monkeypatch.setitem(SAMPLERS, "vllm", off_by(torch.zeros_like))
    metrics, head = run(f"optim.estimator={estimator}")
    assert abs(metrics[f"{RATIO}mean"]) < 1e-6
    assert metrics[f"{RATIO}abs_max"] < 1e-5
    monkeypatch.setitem(SAMPLERS, "vllm", off_by(even_ids_up))
    off, same = run(f"optim.estimator={estimator}")
    assert off[f"{RATIO}abs_max"] == pytest.approx(math.log(3.0), abs=1e-5)
    assert 0.1 < off[f"{RATIO}abs_mean"] < math.log(3.0)
    # Measured only: the run is the same.
    assert torch.equal(same, head)


def test_a_run_without_an_engine_of_its_own_reports_none() -> None:
    metrics, _ = run("rollout.backend=reference")
    assert not [name for name in metrics if name.startswith("train/engine")]


@pytest.mark.parametrize("words", [(), ("rollout=staleness", "clip=ppo", *WORDS[:2])])
def test_a_cap_weighs_the_tokens_of_a_run(
    monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    weights: list[tuple[Tensor, Tensor]] = []

    def recording(*arguments: Any, token_BT: Tensor, engine_weight_BT: Any, **rest: Any) -> Any:
        weights.append((token_BT[arguments[3]], engine_weight_BT[arguments[3]]))
        options = {"token_BT": token_BT, "engine_weight_BT": engine_weight_BT}
        return sampled_loss(*arguments, **options, **rest)

    monkeypatch.setattr(updating, "sampled_loss", recording)
    monkeypatch.setitem(SAMPLERS, "vllm", off_by(even_ids_up))
    _, capped = run(*words, "rollout.backend=vllm", "rollout.engine_cap=2.0")
    assert weights
    for tokens, weight in weights:
        expected = torch.where(tokens % 2 == 0, 2.0, math.exp(-0.1))
        assert torch.allclose(weight, expected, atol=1e-5)
    monkeypatch.setattr(updating, "sampled_loss", sampled_loss)
    _, plain = run(*words, "rollout.backend=vllm")
    assert not torch.equal(capped, plain)
