"""Judging answers, their metrics, and the masses of the student against theory."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

import markov
from opdcliff.contract.parse import RANKING_WITH_REASON, FailureCode, ParseResult
from opdcliff.models.trio import Trio, assemble
from opdcliff.rollout.draws import Rollout
from opdcliff.theory.threshold import clip_safe_logit, logit
from opdcliff.training.evaluation import answers as answers_module
from opdcliff.training.evaluation.masses import class_metrics, measure_masses
from opdcliff.training.evaluation.metrics import Judged, answer_metrics, judge

VOCABULARY = [
    *(markov.PAD, markov.EOS, "p", '{"ranking":["', "A", "B", "Z", '","', '"],"reason":"'),
    *(" soft", '"}', '"]}', '"],"reason":[]}'),
]
TOKENIZER = markov.word_tokenizer(VOCABULARY)
CODEC = markov.codec_of(TOKENIZER)
START, REASON, END = '{"ranking":["', '"],"reason":"', markov.EOS
ANSWERS: dict[tuple[str, ...], FailureCode | None] = {
    (START, "B", '","', "A", REASON, " soft", '"}', END): None,
    (START, "A", '","', "B", REASON, '"}', END): None,
    (START, "A", '","', "B", REASON, " soft", " soft"): FailureCode.TRUNCATED,
    (START, "A", '","', "B", REASON, '"}'): FailureCode.TRUNCATED,
    (" soft", END): FailureCode.NOT_JSON,
    (END,): FailureCode.NOT_JSON,
    (START, "A", '","', "B", REASON, '"}', " soft", END): FailureCode.EXTRA_TEXT,
    (START, "A", '","', "B", '"]}', END): FailureCode.SCHEMA,
    (START, "A", '","', "B", '"],"reason":[]}', END): FailureCode.TYPE,
    (START, "A", '","', "B", '","', "A", REASON, '"}', END): FailureCode.COUNT,
    (START, "A", '","', "A", REASON, '"}', END): FailureCode.DUPLICATE,
    (START, "A", '","', "Z", REASON, '"}', END): FailureCode.UNKNOWN_ID,
    (START, "B", REASON, '"}', END): FailureCode.MISSING,
}


@pytest.fixture(scope="module")
def judged() -> list[Judged]:
    rollout = markov.rollout(TOKENIZER, ["p"] * len(ANSWERS), list(ANSWERS))
    examples = [markov.example(i, grades=(1, 3)) for i in range(len(ANSWERS))]
    return judge(rollout, examples, RANKING_WITH_REASON, CODEC)


# ---- answers --------------------------------------------------------------------------------


def test_every_answer_gets_its_verdict(judged: list[Judged]) -> None:
    assert [j.verdict.failure for j in judged] == list(ANSWERS.values())
    assert [j.verdict.ok for j in judged] == [code is None for code in ANSWERS.values()]
    assert [j.length for j in judged] == [len(answer) for answer in ANSWERS]
    # Grades in ranked order: B is worth 3.
    assert [j.grades for j in judged] == [(3, 1), (1, 3)] + [None] * 11


def test_failures_and_parse_rate_sum_to_one(judged: list[Judged]) -> None:
    metrics = answer_metrics(judged, 1, "exp", RANKING_WITH_REASON)
    rates = {code: metrics[f"eval/fail/{code.value}"] for code in FailureCode}
    assert metrics["eval/parse_rate"] == 2 / 13
    assert sum(rates.values()) + metrics["eval/parse_rate"] == pytest.approx(1.0, abs=1e-15)
    assert rates[FailureCode.TRUNCATED] == metrics["eval/truncated_rate"] == 2 / 13
    assert rates[FailureCode.NOT_JSON] == 2 / 13
    assert rates[FailureCode.MISSING] == 1 / 13
    assert metrics["eval/mean_length"] == np.mean([len(answer) for answer in ANSWERS])
    assert metrics["eval/prompts"] == 13


def test_ndcg_over_parsed_and_over_all(judged: list[Judged]) -> None:
    metrics = answer_metrics(judged, 1, "exp", RANKING_WITH_REASON)
    # Of two answers the second ranks first what is worth 2^1 - 1 instead of 2^3 - 1.
    assert metrics["eval/ndcg1_parsed"] == pytest.approx((1 + 1 / 7) / 2)
    assert metrics["eval/ndcg1_all"] == pytest.approx((1 + 1 / 7) / 13)
    linear = answer_metrics(judged, 2, "linear", RANKING_WITH_REASON)
    second = (1 + 3 / math.log2(3)) / (3 + 1 / math.log2(3))
    assert linear["eval/ndcg2_parsed"] == pytest.approx((1 + second) / 2)


def test_without_a_parsed_answer_its_ndcg_is_not_a_number() -> None:
    refused = Judged(ParseResult(False, None, FailureCode.NOT_JSON), None, 4)
    metrics = answer_metrics([refused] * 3, 1, "exp", RANKING_WITH_REASON)
    assert metrics["eval/parse_rate"] == metrics["eval/ndcg1_all"] == 0.0
    assert math.isnan(metrics["eval/ndcg1_parsed"])


def test_answers_do_not_depend_on_the_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    model, codec = markov.chain([0.7] * 4), markov.codec_of(markov.tokenizer(4))
    numbered = [(7 * i, markov.example(i)) for i in range(8)]
    how = replace(markov.config().rollout, max_new_tokens=30, temperature=1.0)

    def answers(part: list[tuple[int, markov.Example]]) -> list[list[int]]:
        batches = answers_module.answers_in_batches(model, codec, part, how, seed=3)
        assert [e for examples, _ in batches for e in examples] == [e for _, e in part]
        return [answer for _, rollout in batches for answer in rollout.answers()]

    whole = answers(numbered)
    assert len({tuple(answer) for answer in whole}) > 3
    monkeypatch.setattr(answers_module, "EVALUATION_BATCH", 3)
    assert answers(numbered) == whole
    assert answers(numbered[5:]) == whole[5:]


def test_a_chain_parses_as_often_as_it_must() -> None:
    model = markov.chain([0.5] * 4, opens=0.9, ends=0.8)
    count = 3000
    metrics = answers_module.evaluate_model(
        model,
        markov.codec_of(markov.tokenizer(4)),
        [markov.example(i) for i in range(count)],
        RANKING_WITH_REASON,
        markov.config().evaluation,
        replace(markov.config().rollout, max_new_tokens=40, temperature=1.0),
        seed=0,
    )
    # Opened, left by the close token (nine in ten, not the control character), ended at once.
    expected = 0.9 * 0.9 * 0.8
    spread = math.sqrt(expected * (1 - expected) / count)
    assert abs(metrics["eval/parse_rate"] - expected) < 3 * spread
    assert metrics["eval/fail/extra_text"] == pytest.approx(0.9 * 0.9 * 0.2, abs=3 * spread)
    assert metrics["eval/ndcg1_parsed"] == 1.0
    assert metrics["eval/prompts"] == count


# ---- masses ---------------------------------------------------------------------------------

GO_P, GO_B = [0.9, 0.85, 0.9, 0.8], [0.5, 0.4, 0.45, 0.5]
GO_Q = [0.8, 0.99, 0.95, 0.5]


@pytest.fixture(scope="module")
def chains() -> Trio:
    trio = markov.trio(markov.chain(GO_P, opens=0.99), markov.chain(GO_B))
    trio.student = markov.chain(GO_Q, opens=0.98)
    return trio


def answers_of(trio: Trio, texts: list[list[str]]) -> Rollout:
    return markov.rollout(trio.codec.tokenizer, ["p"] * len(texts), texts)


def metrics_of(trio: Trio, rollout: Rollout, **changes: float | None) -> dict[str, float]:
    settings = {"lam": 1.0, "strength": 5.0} | changes
    masses = measure_masses(
        trio,
        rollout,
        [markov.example(i) for i in range(len(rollout.ended_B))],
        trio.codec.labels(RANKING_WITH_REASON),
        temperature=1.0,
        chunk_tokens=16,
    )
    return class_metrics(masses, **settings)


def test_known_masses_give_known_metrics(chains: Trio) -> None:
    words = [" w0", " w1", " w2", " w3"]
    texts = [
        [markov.OPEN, *words[:3]],
        [markov.OPEN, words[0], markov.CLOSE, markov.EOS],
        [markov.BREAK, markov.EOS],
    ]
    # The state after word i - 1 has mass go[i] on going on.
    offsets = [0, 1, 2, 0, 1]
    p, q, b = (np.array([go[i] for i in offsets]) for go in (GO_P, GO_Q, GO_B))
    metrics = metrics_of(chains, answers_of(chains, texts), lam=1.6, strength=3.0)
    ratios = (1 - p) / (1 - q)
    residuals = logit(q) - 1.6 * logit(p) + 0.6 * logit(b)
    assert metrics["train/tail_ratio/brace"] == pytest.approx(0.01 / 0.02, rel=1e-4)
    assert metrics["train/tail_ratio/text"] == pytest.approx(ratios.mean(), rel=1e-4)
    assert metrics["train/tail_ratio/eos"] == pytest.approx(1.0, rel=1e-4)
    assert metrics["train/residual_mean"] == pytest.approx(residuals.mean(), abs=1e-4)
    assert metrics["train/residual_sd"] == pytest.approx(residuals.std(), abs=1e-4)
    assert metrics["train/beyond_zc"] == pytest.approx((ratios > 3.0).mean()) == 0.4
    headrooms = clip_safe_logit(p, 3.0) - logit(q)
    low, middle, high = np.quantile(headrooms, [0.158655, 0.5, 0.841345])
    assert metrics["train/modal_logit"] == pytest.approx(np.median(logit(q)), abs=1e-4)
    assert metrics["train/headroom"] == pytest.approx(middle, abs=1e-4)
    assert metrics["train/headroom_spread"] == pytest.approx((high - low) / 2, abs=1e-4)
    assert set(metrics) == {
        *(f"train/tail_ratio/{name}" for name in ("brace", "text", "eos")),
        *("train/residual_mean", "train/residual_sd", "train/beyond_zc"),
        *("train/modal_logit", "train/headroom", "train/headroom_spread"),
    }


def test_without_a_strength_or_text_there_is_less_to_say(chains: Trio) -> None:
    rollout = answers_of(chains, [[markov.OPEN, " w0"]])
    unclipped = metrics_of(chains, rollout, strength=None)
    assert not {"train/beyond_zc", "train/headroom", "train/headroom_spread"} & set(unclipped)
    assert "train/residual_mean" in metrics_of(chains, rollout, strength=None)
    broken = answers_of(chains, [[markov.BREAK, markov.EOS]])
    assert set(metrics_of(chains, broken)) == {"train/tail_ratio/brace"}


def random_model(seed: int) -> PreTrainedModel:
    # Wide logits, with every token possible.
    model = markov.chain([0.5] * 4)
    torch.manual_seed(seed)
    with torch.no_grad():
        model.get_output_embeddings().weight.copy_(torch.randn(model.lm_head.weight.shape))
    return model


@pytest.mark.parametrize(("role", "lam"), [("base", 0.0), ("teacher", 1.0)])
def test_a_student_at_its_fixed_point_has_no_residual(role: str, lam: float) -> None:
    base, teacher = random_model(1), random_model(2)
    trio = assemble(base, teacher, markov.codec_of(markov.tokenizer(4)))
    trio.student = copy.deepcopy(getattr(trio, role))
    rollout = answers_of(trio, [[markov.OPEN, " w1", "p", " w0", markov.CLOSE, markov.EOS]] * 2)
    metrics = metrics_of(trio, rollout, lam=lam)
    assert metrics["train/residual_mean"] == metrics["train/residual_sd"] == 0.0
    other = metrics_of(trio, rollout, lam=lam + 0.5)
    assert abs(other["train/residual_mean"]) > 0.1
    if role == "teacher":
        ratios = [value for name, value in metrics.items() if "tail_ratio" in name]
        assert ratios == [1.0, 1.0, 1.0]
        assert metrics["train/beyond_zc"] == 0.0
