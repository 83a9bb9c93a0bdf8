"""The training loop: what an update is, when it reports, how it ends, and the cliff itself."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import markov
from forbidding import forbid
from opdcliff.contract.parse import RANKING_WITH_REASON, FailureCode
from opdcliff.data.example import Splits
from opdcliff.engine.open import open_engine
from opdcliff.errors import ModelError
from opdcliff.models import answering
from opdcliff.models.batches import batch_of_update, prompt_batch
from opdcliff.models.trio import Trio, assemble
from opdcliff.rollout.backends import SAMPLERS, sample
from opdcliff.rollout.draws import EVALUATION_STREAM, TRAIN_STREAM, Rollout
from opdcliff.settings.schema import RunConfig
from opdcliff.theory.threshold import lambda_star
from opdcliff.training import update as updating
from opdcliff.training.evaluation import run_evaluation as measuring
from opdcliff.training.loop import LoopState, RunOutcome, train
from opdcliff.training.objective import LossOutput
from opdcliff.training.running_means import RunningMeans

SMALL = (
    *("optim.updates=6", "optim.lr=0.02", "evaluation.every=2", "rollout.prompts_per_update=6"),
    *("rollout.max_new_tokens=24", "evaluation.prompts=4", "evaluation.final_prompts=7"),
    *("evaluation.collapse_floor=0.0", "lam.warmup_updates=0", "clip=c5"),
    "optim.estimator=sampled",
)
CLASSES = ("brace", "text", "eos")
CODEC = markov.codec_of(markov.tokenizer(3))
NAMES = {
    *("eval/parse_rate", "eval/ndcg1_parsed", "eval/ndcg1_all", "eval/truncated_rate"),
    *("eval/mean_length", "eval/prompts", "train/lam"),
    *(f"eval/fail/{code.value}" for code in FailureCode),
    *(f"train/tail_ratio/{name}" for name in CLASSES),
    *("train/residual_mean", "train/residual_sd", "train/modal_logit", "train/beyond_zc"),
    *("train/headroom", "train/headroom_spread", "time/evaluate_s"),
}
NAMES_AFTER_UPDATES = NAMES | {
    *(f"train/clip_fraction/{name}" for name in (*CLASSES, "all")),
    *("train/advantage_mean", "train/kl_teacher", "train/loss", "train/grad_norm"),
    "train/compiled_rollouts",
    *("time/generate_s", "time/score_s", "time/update_s"),
}


@dataclass
class Run:
    outcome: RunOutcome
    reports: list[tuple[int, dict[str, float]]]
    advances: list[int]
    head: Tensor
    remarks: list[str]

    @property
    def last(self) -> dict[str, float]:
        return self.reports[-1][1]


def chains(dtype: torch.dtype = torch.float64) -> Trio:
    return markov.trio(
        markov.chain([0.85, 0.9, 0.8], dtype, opens=0.98), markov.chain([0.5, 0.4, 0.6], dtype)
    )


def run(
    *overrides: str,
    lam: float = 1.3,
    trio: Trio | None = None,
    splits: Splits | None = None,
    on_advance: Callable[[Trio, int], None] = lambda trio, update: None,
) -> Run:
    config = markov.config(*SMALL, *overrides)
    trio = chains() if trio is None else trio
    reports: list[tuple[int, dict[str, float]]] = []
    advances: list[int] = []
    remarks: list[str] = []

    def advance(update: int) -> None:
        advances.append(update)
        on_advance(trio, update)

    outcome = train(
        config,
        lam,
        trio,
        markov.splits() if splits is None else splits,
        trio.codec.labels(RANKING_WITH_REASON),
        open_engine(trio.student, config),
        report=lambda update, metrics: reports.append((update, metrics)),
        advance=advance,
        remark=remarks.append,
    )
    return Run(outcome, reports, advances, markov.head(trio.student), remarks)


def untimed(made: Run) -> list[tuple[int, dict[str, float]]]:
    return [
        (update, {k: v for k, v in metrics.items() if not k.startswith("time/")})
        for update, metrics in made.reports
    ]


@pytest.fixture
def numbers() -> list[int]:
    """The running numbers of the prompts a run trains on, with `rollouts`."""
    return []


@pytest.fixture
def rollouts(monkeypatch: pytest.MonkeyPatch, numbers: list[int]) -> list[Rollout]:
    """The rollout batches a run trains on."""
    seen: list[Rollout] = []

    def recording(*arguments: Any, **options: Any) -> Rollout:
        rollout = sample(*arguments, **options)
        if options["stream"] == TRAIN_STREAM:
            numbers.extend(options["numbers"])
            seen.append(rollout)
        return rollout

    monkeypatch.setattr(answering, "sample", recording)
    return seen


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments of every loss a run computes."""
    seen: list[dict[str, Any]] = []
    original = updating.sampled_loss

    def recording(
        student: Tensor, teacher: Tensor, base: Any, *rest: Any, **more: Any
    ) -> LossOutput:
        seen.append({"student": student.detach().clone(), "base": base, **more})
        return original(student, teacher, base, *rest, **more)

    monkeypatch.setattr(updating, "sampled_loss", recording)
    return seen


def logp(model: Any, rollout: Rollout) -> Tensor:
    """Log-probs of the whole vocabulary before each answer token, shape BTV, by softmax."""
    logits = model(input_ids=rollout.ids_BL, attention_mask=rollout.attention_BL).logits
    return (logits.exp() / logits.exp().sum(-1, keepdim=True)).log()[
        :, -rollout.mask_BT.shape[1] - 1 : -1
    ]


def of_tokens(logp_BTV: Tensor, rollout: Rollout) -> Tensor:
    return logp_BTV.gather(-1, rollout.completion_BT[..., None])[..., 0]


# ---- an update ------------------------------------------------------------------------------


def plain_distillation(trio: Trio, config: RunConfig, updates: int) -> Tensor:
    """On-policy distillation written out, without extrapolation or base."""
    weight = trio.student.get_output_embeddings().weight
    optimizer = torch.optim.AdamW(
        [weight], lr=config.optim.lr, betas=(config.optim.beta1, config.optim.beta2), weight_decay=0
    )
    for update in range(updates):
        numbered = batch_of_update(markov.splits().train, 6, update, config.seed)
        rollout = sample(
            trio.student,
            *prompt_batch(trio.codec, [e for _, e in numbered]),
            numbers=[n for n, _ in numbered],
            seed=config.seed,
            stream=TRAIN_STREAM,
            max_new_tokens=24,
            temperature=1.0,
            end_ids=trio.codec.end_ids,
            pad_id=trio.codec.pad_id,
        )
        student = of_tokens(logp(trio.student, rollout), rollout)
        with torch.no_grad():
            log_ratio = of_tokens(logp(trio.teacher, rollout), rollout) - student
        kept = rollout.mask_BT & (log_ratio <= math.log(5.0))
        loss = -(log_ratio * student)[kept].sum() / rollout.mask_BT.sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([weight], config.optim.grad_clip)
        optimizer.step()
    return weight.detach()


def test_lam_one_is_plain_distillation() -> None:
    expected = plain_distillation(chains(), markov.config(*SMALL), 6)
    torch.testing.assert_close(run(lam=1.0).head, expected, rtol=0, atol=1e-9)
    assert (run(lam=1.05).head - expected).abs().max() > 1e-4


def test_lam_one_reads_no_base(losses: list[dict[str, Any]]) -> None:
    plain = run(lam=1.0)
    assert all(call["base"] is None for call in losses)
    without = chains()
    without.base.get_output_embeddings().weight.fill_(math.nan)
    assert torch.equal(run(lam=1.0, trio=without).head, plain.head)
    broken = chains()
    broken.base.get_output_embeddings().weight.fill_(math.nan)
    assert run(lam=1.3, trio=broken).outcome.status == "diverged"


def test_the_base_matters_beyond_lam_one() -> None:
    other = markov.trio(chains().teacher, markov.chain([0.7, 0.7, 0.7], torch.float64))
    other.student = chains().student
    assert not torch.equal(run(lam=1.3).head, run(lam=1.3, trio=other).head)


ATTENTIVE = ("optim.lr=1e-3", "optim.updates=3", "rollout.max_new_tokens=12")


def attentive() -> Trio:
    """Models in which all weights are trained and every token of the past counts."""
    texts = markov.tokens(3)
    base, teacher = markov.transformer(texts, 1), markov.transformer(texts, 2)
    return assemble(base, teacher, markov.codec_of(markov.tokenizer(3)))


@pytest.mark.parametrize("overrides", [(), ("optim.estimator=full",)])
def test_the_micro_batch_changes_nothing(overrides: tuple[str, ...]) -> None:
    whole, *split = (
        run(f"engine.micro_batch={size}", *ATTENTIVE, *overrides, trio=attentive())
        for size in (64, 4, 1)
    )
    for part in split:
        torch.testing.assert_close(part.head, whole.head, rtol=0, atol=1e-9)
        for (_, got), (_, expected) in zip(untimed(part), untimed(whole), strict=True):
            assert got == pytest.approx(expected, abs=1e-6, nan_ok=True)


def test_the_score_chunk_changes_nothing() -> None:
    whole, split = (
        run(f"engine.score_chunk_tokens={size}", *ATTENTIVE, trio=attentive()) for size in (4096, 5)
    )
    torch.testing.assert_close(split.head, whole.head, rtol=0, atol=1e-9)


def test_lambda_warms_up_from_one(losses: list[dict[str, Any]]) -> None:
    warm = run("lam.warmup_updates=4", lam=2.0)
    assert [call["lam"] for call in losses] == [1.0, 1.25, 1.5, 1.75, 2.0, 2.0]
    assert [(u, m["train/lam"]) for u, m in warm.reports] == [(0, 1), (2, 1.5), (4, 2), (6, 2)]
    first = [
        run("optim.updates=1", f"lam.warmup_updates={warmup}", lam=lam).head
        for lam, warmup in ((2.0, 4), (1.0, 0), (2.0, 0))
    ]
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])


def test_folding_one_entry_of_the_vocabulary_changes_nothing() -> None:
    whole = run("optim.estimator=full")
    folded = run("optim.estimator=full", "optim.topk=8")
    torch.testing.assert_close(folded.head, whole.head, rtol=0, atol=1e-9)
    assert not torch.equal(run("optim.estimator=full", "optim.topk=2").head, whole.head)


def test_a_run_whose_weights_stand_still_says_so_once() -> None:
    assert run().remarks == []
    still = run("optim.lr=1e-12", trio=chains(torch.float32))
    (line,) = still.remarks
    assert re.search(
        r"update 1 moved them by [0-4]?\d% of its steps .* optim.lr \(it is 1e-12\)", line
    )


def test_a_rollout_batch_serves_several_updates(
    rollouts: list[Rollout], numbers: list[int], losses: list[dict[str, Any]]
) -> None:
    made = run("clip=ppo", "rollout.updates_per_batch=3", "optim.updates=7", lam=1.2)
    assert made.outcome == RunOutcome("finished", 7)
    assert len(losses) == 7
    assert len(rollouts) == 3
    drift = [(call["student"] - call["logp_old_BT"]).abs().max().item() for call in losses]
    assert [d < 1e-9 for d in drift] == [True, False, False] * 2 + [True]
    assert min(d for d in drift if d > 1e-9) > 1e-3
    # No prompt is skipped between batches.
    assert numbers == list(range(18))


def test_a_run_is_the_same_whatever_samples_its_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("optim.updates=1", "evaluation.every=1")
    expected = run(*words)
    continuous, streams = SAMPLERS["continuous"], []

    def recording(*arguments: Any, **options: Any) -> Rollout:
        streams.append(options["stream"])
        return continuous(*arguments, **options)

    monkeypatch.setitem(SAMPLERS, "continuous", recording)
    found = run(*words, "rollout.backend=continuous")
    assert streams == [EVALUATION_STREAM, TRAIN_STREAM, EVALUATION_STREAM]
    assert untimed(found) == untimed(expected)
    assert torch.equal(found.head, expected.head)


@pytest.mark.parametrize("estimator", ["sampled", "full"])
def test_two_runs_are_bitwise_equal(estimator: str) -> None:
    first, second = (
        run(f"optim.estimator={estimator}", *ATTENTIVE, trio=attentive()) for _ in range(2)
    )
    assert torch.equal(first.head, second.head)
    # As text: a NaN is equal to a NaN.
    assert repr(untimed(first)) == repr(untimed(second))
    assert repr(untimed(first)) != repr(untimed(run("seed=1", *ATTENTIVE, trio=attentive())))


def test_teacher_and_base_stay_frozen() -> None:
    trio = chains()
    before = [markov.head(trio.teacher), markov.head(trio.base)]
    made = run(trio=trio)
    assert torch.equal(markov.head(trio.teacher), before[0])
    assert torch.equal(markov.head(trio.base), before[1])
    assert not torch.equal(made.head, before[1])


# ---- what it reports ------------------------------------------------------------------------


def test_reports_come_every_so_often_and_at_the_end() -> None:
    made = run("optim.updates=7", "evaluation.every=3")
    assert made.outcome == RunOutcome("finished", 7)
    assert [update for update, _ in made.reports] == [0, 3, 6, 7]
    assert made.advances == [1, 2, 3, 4, 5, 6, 7]
    assert [metrics["eval/prompts"] for _, metrics in made.reports] == [4, 4, 4, 7]
    assert set(made.reports[0][1]) == NAMES
    for _, metrics in made.reports[1:]:
        assert set(metrics) == NAMES_AFTER_UPDATES
        assert all(math.isfinite(value) for value in metrics.values()), metrics


def token_means(rollout: Rollout, values: Tensor) -> float:
    return float(values[rollout.mask_BT].mean())


def test_metrics_of_one_update_are_means_over_its_tokens(rollouts: list[Rollout]) -> None:
    # A student surer than the teacher: closing has ratio .3/.05 = 6, so the clip drops it.
    trio = markov.trio(
        markov.chain([0.7], torch.float64), markov.chain([0.95], torch.float64, opens=0.9)
    )
    made = run("optim.updates=1", "engine.micro_batch=4", lam=1.4, trio=trio)
    (rollout,) = rollouts
    student, teacher = (of_tokens(logp(m, rollout), rollout) for m in (trio.base, trio.teacher))
    advantage = 1.4 * teacher - student - 0.4 * student
    mask, ids = rollout.mask_BT, rollout.completion_BT
    clipped = (teacher - student > math.log(5.0)) & mask
    assert made.last["train/advantage_mean"] == pytest.approx(token_means(rollout, advantage))
    assert made.last["train/kl_teacher"] == pytest.approx(token_means(rollout, student - teacher))
    assert made.last["train/clip_fraction/all"] == pytest.approx(float(clipped.sum() / mask.sum()))
    opened = ids == 4
    text = mask & (torch.cumsum(opened, 1) > 0) & ~opened
    # The token that closes is a text position; those after it are not.
    after_end = torch.cumsum((ids == 5) | (ids == 3), 1) - ((ids == 5) | (ids == 3)).long()
    text &= after_end == 0
    assert clipped[text].sum() > 0
    fraction = float(clipped[text].float().mean())
    assert made.last["train/clip_fraction/text"] == pytest.approx(fraction)
    assert made.last["train/clip_fraction/brace"] == 0.0
    loss = -(advantage * student)[mask & ~clipped].sum() / mask.sum()
    assert made.last["train/loss"] == pytest.approx(float(loss))


def test_the_full_estimator_reports_the_exact_divergence(rollouts: list[Rollout]) -> None:
    trio = chains()
    made = run("optim.updates=1", "optim.estimator=full", "clip=none_", lam=1.0, trio=trio)
    (rollout,) = rollouts
    student, teacher = logp(trio.base, rollout), logp(trio.teacher, rollout)
    exact = token_means(rollout, (student.exp() * (student - teacher)).sum(-1))
    assert made.last["train/kl_teacher"] == pytest.approx(exact)
    # At lam = 1 without a clip that divergence is the loss.
    assert made.last["train/loss"] == pytest.approx(exact)


def test_the_sampled_divergence_estimates_the_exact_one() -> None:
    size = ("rollout.prompts_per_update=800", "data.train=800", "optim.updates=1")
    sampled, full = (
        run(*size, f"optim.estimator={name}", splits=markov.splits(train=800), lam=1.0)
        for name in ("sampled", "full")
    )
    exact = full.last["train/kl_teacher"]
    assert exact > 0.1
    assert sampled.last["train/kl_teacher"] == pytest.approx(exact, rel=0.1)


def test_distillation_brings_the_student_to_the_teacher() -> None:
    made = run("optim.updates=60", "evaluation.every=20", "optim.lr=0.05", lam=1.0)
    divergence = [metrics["train/kl_teacher"] for _, metrics in made.reports[1:]]
    assert divergence[-1] < 0.25 * divergence[0]
    assert abs(made.last["train/residual_mean"]) < 0.2


def test_a_meter_averages_between_flushes() -> None:
    meter = RunningMeans()
    meter.add("a", 3.0, 2)
    meter.add("a", 5.0, 2)
    meter.add("b", 1.0, 0)
    meter.seconds["score"] += 0.5
    assert meter.flush() == {"a": 2.0, "time/score_s": 0.5}
    assert meter.flush() == {}
    meter.add("a", 1.0, 1)
    assert meter.flush() == {"a": 1.0}


# ---- how it ends ----------------------------------------------------------------------------


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_value_that_is_not_finite_ends_the_run_at_once(poison: float) -> None:
    def spoil(trio: Trio, update: int) -> None:
        if update == 3:
            trio.teacher.get_output_embeddings().weight[0, 0] = poison

    made = run(on_advance=spoil)
    assert (made.outcome.status, made.outcome.update) == ("diverged", 3)
    assert made.outcome.reason is not None
    assert "update 3" in made.outcome.reason
    assert made.advances == [1, 2, 3]
    assert [update for update, _ in made.reports] == [0, 2]
    # The student is where the last sound update left it.
    assert torch.equal(made.head, run("optim.updates=3", "evaluation.every=5").head)


def test_a_spoiled_student_ends_the_run_at_once() -> None:
    def spoil(trio: Trio, update: int) -> None:
        if update == 4:
            with torch.no_grad():
                trio.student.get_output_embeddings().weight[0, 0] = math.nan

    made = run(on_advance=spoil)
    assert (made.outcome.status, made.outcome.update) == ("diverged", 4)
    assert made.advances == [1, 2, 3, 4]


def test_a_run_that_stays_under_the_floor_has_collapsed() -> None:
    low = ("evaluation.collapse_floor=0.999", "evaluation.collapse_patience=2", "data.test=40")
    many = ("evaluation.prompts=20", "evaluation.final_prompts=30")
    stopped, full_length = (
        run(*low, *many, f"evaluation.stop_when_collapsed={stop}", splits=markov.splits(test=40))
        for stop in ("true", "false")
    )
    assert (stopped.outcome.status, stopped.outcome.update) == ("collapsed", 2)
    assert stopped.outcome.collapsed_at == 2
    assert stopped.outcome.reason is not None
    assert "0.999" in stopped.outcome.reason
    assert [update for update, _ in stopped.reports] == [0, 2]
    # The last evaluation of a stopped run is a final one, and loses nothing of the updates.
    assert stopped.last["eval/prompts"] == 30
    assert set(stopped.last) == NAMES_AFTER_UPDATES
    assert full_length.outcome.status == "collapsed"
    assert full_length.outcome.update == 6
    assert full_length.outcome.collapsed_at == 2
    assert [update for update, _ in full_length.reports] == [0, 2, 4, 6]
    trained = ("train/clip_fraction/text", "train/kl_teacher", "train/grad_norm")
    for name in trained:
        assert stopped.last[name] == full_length.reports[1][1][name]


def test_only_evaluations_running_count_as_a_collapse(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = iter([0.1, 0.1, 0.3, 0.1, 0.1, 0.1, 0.9, 0.9])
    original = measuring.answer_metrics
    monkeypatch.setattr(
        measuring,
        "answer_metrics",
        lambda *arguments: original(*arguments) | {"eval/parse_rate": next(rates)},
    )
    made = run(
        *("evaluation.every=1", "evaluation.collapse_floor=0.3", "optim.updates=7"),
        *("evaluation.collapse_patience=3", "evaluation.stop_when_collapsed=false"),
    )
    assert made.outcome.collapsed_at == 5
    assert made.outcome.status == "collapsed"
    assert made.last["eval/parse_rate"] == 0.9


@pytest.mark.parametrize(
    ("rates", "collapsed_at"),
    [
        # A weak start on its way up, which passes the floor late.
        ([0.02, 0.05, 0.06, 0.12, 0.2, 0.5], None),
        # One that never rises, and one that rises and stays low.
        ([0.02, 0.02, 0.01], 2),
        ([0.02, 0.05, 0.04, 0.05, 0.03], 4),
        ([0.5, 0.1, 0.2, 0.25], 3),
    ],
)
def test_a_rate_that_still_rises_is_no_collapse(
    rates: list[float], collapsed_at: int | None
) -> None:
    settings = markov.config(
        "evaluation.collapse_floor=0.3", "evaluation.collapse_patience=3"
    ).evaluation
    at = LoopState()
    for update, rate in enumerate(rates):
        at.update = update
        at.note(rate, settings)
        at = LoopState.of(at.plain())
    assert at.collapsed_at == collapsed_at


# ---- the cliff ------------------------------------------------------------------------------


def _around_the_cliff(clip: str, multiple: float) -> dict[str, float]:
    """The last evaluation of a run at a multiple of lambda*(.8, .4, 2)."""
    made = run(
        *("optim.estimator=full", "optim.updates=120", "lam.warmup_updates=40", f"clip={clip}"),
        *("evaluation.every=120", "rollout.prompts_per_update=12", "rollout.max_new_tokens=40"),
        *("data.test=64", "evaluation.prompts=16", "evaluation.final_prompts=64"),
        lam=multiple * lambda_star(0.8, 0.4, 2.0),
        trio=markov.trio(markov.chain([0.8], opens=0.999), markov.chain([0.4], opens=0.999)),
        splits=markov.splits(16, 1, 64),
    )
    return made.last


@pytest.mark.slow
def test_the_loop_has_its_cliff_at_the_threshold() -> None:
    """Below lambda* the student settles at its fixed point; above, the clip lets it run away."""
    below, above = (_around_the_cliff("c2", multiple) for multiple in (0.9, 1.1))
    assert abs(below["train/residual_mean"]) < 0.1
    assert below["train/tail_ratio/text"] < 2.0 < above["train/tail_ratio/text"]
    assert (below["train/beyond_zc"], above["train/beyond_zc"]) == (0.0, 1.0)
    assert above["train/residual_mean"] > 1.0
    assert below["eval/parse_rate"] > 0.7
    assert above["eval/parse_rate"] < 0.4


@pytest.mark.slow
def test_without_a_clip_the_loop_has_no_cliff_there() -> None:
    unclipped = _around_the_cliff("none_", 1.1)
    assert abs(unclipped["train/residual_mean"]) < 0.1
    assert unclipped["eval/parse_rate"] > 0.7


FORBIDDEN_RULES = [
    ("optim.estimator=sampled",),
    ("optim.estimator=sampled", "clip=two_sided"),
    ("optim.estimator=sampled", "clip=ppo", "rollout.updates_per_batch=2"),
    ("optim.estimator=full",),
    ("optim.estimator=full", "optim.topk=3"),
]


@pytest.mark.parametrize("words", FORBIDDEN_RULES, ids=" ".join)
def test_a_run_of_models_that_forbid_an_entry_is_the_run_without_it(words: tuple[str, ...]) -> None:
    """The padding token has mass e^-60 in these chains; forbidden it has none."""
    plain = run(*words)
    trio = assemble(*(forbid(model, [0]) for model in (chains().student, chains().teacher)), CODEC)
    markov.train_head_only(trio.student)
    trio.student.get_output_embeddings().bias.requires_grad_(False)
    forbidding = run(*words, trio=trio)
    assert forbidding.outcome == plain.outcome == RunOutcome("finished", 6)
    for (_, a), (_, b) in zip(untimed(forbidding), untimed(plain), strict=True):
        assert a == pytest.approx(b, rel=1e-6, abs=1e-9, nan_ok=True)
    torch.testing.assert_close(forbidding.head, plain.head)


@pytest.mark.parametrize("estimator", ["sampled", "full"])
def test_a_teacher_that_forbids_what_the_student_says_is_no_diverged_run(estimator: str) -> None:
    close = markov.tokens(3).index(markov.CLOSE)
    trio = chains()
    forbid(trio.teacher, [close])
    with pytest.raises(ModelError, match=f"the teacher forbids token {close} "):
        run(f"optim.estimator={estimator}", trio=trio)
