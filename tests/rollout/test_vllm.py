"""The seam to vLLM, against a stand-in that keeps weights of its own and samples with them."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

import fake_vllm
from opdcliff.errors import ConfigError
from opdcliff.models import decoding
from opdcliff.models.decoding import prepare_decoding, without_compiled
from opdcliff.models.tokens.train_bpe import pad_left
from opdcliff.paths import StudyPaths
from opdcliff.records.identity import OPD, cell_identity
from opdcliff.rollout import vllm, vllm_engine
from opdcliff.rollout.backends import sample
from opdcliff.rollout.draws import Rollout
from opdcliff.rollout.scoring import completion_logp
from opdcliff.settings.checks import load, science, science_of
from opdcliff.settings.compose import compose_one
from opdcliff.training.parts import cut
from tiny_rollout import EOS, PAD, PROMPTS, SETTINGS, tiny_model

COUNT = 24


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[fake_vllm.LLM]:
    return fake_vllm.install(monkeypatch)


def student(**options: Any) -> PreTrainedModel:
    return tiny_model(**options).float()


def sampled(
    model: PreTrainedModel, prompts: list[list[int]] | None = None, **changes: Any
) -> Rollout:
    given = [PROMPTS[n % len(PROMPTS)] for n in range(COUNT)] if prompts is None else prompts
    options = {"numbers": list(range(len(given)))} | SETTINGS | changes
    return sample(model, *pad_left(given, PAD), backend="vllm", **options)


def ratios(model: PreTrainedModel, rollout: Rollout) -> torch.Tensor:
    """log pi_train/pi_rollout of the answer tokens."""
    assert rollout.logp_BT is not None
    own_BT = completion_logp(
        model,
        rollout.ids_BL,
        rollout.attention_BL,
        rollout.mask_BT.shape[1],
        temperature=SETTINGS["temperature"],
        chunk_tokens=64,
    ).detach()
    return (own_BT - rollout.logp_BT)[rollout.mask_BT]


# ---- tokens in, tokens out --------------------------------------------------------------------


def test_prompts_go_in_as_ids_without_padding_and_answers_come_out_as_ids(
    fake: type[fake_vllm.LLM],
) -> None:
    prompts = [[4, PAD, 5, PAD], [3, 2, 6, 8, 7, 7], [PAD, 9], [EOS, 5, EOS], [4, EOS]]
    rollout = sampled(student(), prompts)
    (engine,) = fake.started
    assert [ids for ids, _ in engine.asked] == prompts
    width = rollout.ids_BL.shape[1] - rollout.mask_BT.shape[1]
    for row, ids in enumerate(prompts):
        assert rollout.ids_BL[row, :width][rollout.attention_BL[row, :width].bool()].tolist() == ids


def test_answers_are_ragged_and_end_after_an_end_token_or_at_the_limit(
    fake: type[fake_vllm.LLM],
) -> None:
    rollout = sampled(student(), end_ids=(EOS, 4))
    limit = SETTINGS["max_new_tokens"]
    assert len(set(rollout.lengths())) > 3
    for answer, ended in zip(rollout.answers(), rollout.ended_B.tolist(), strict=True):
        assert not {EOS, 4} & set(answer[:-1])
        assert ended == (answer[-1] in (EOS, 4))
        assert ended or len(answer) == limit
    assert {answer[-1] for answer in rollout.answers()} >= {EOS, 4}
    asked = {(wish.max_tokens, *(wish.stop_token_ids or [])) for _, wish in fake.started[0].asked}
    assert asked == {(limit, EOS, 4)}


def test_log_probs_are_those_of_the_tokens_and_zero_beyond_them(
    fake: type[fake_vllm.LLM],
) -> None:
    model = student()
    rollout = sampled(model)
    assert rollout.logp_BT is not None
    assert rollout.logp_BT.shape == rollout.mask_BT.shape
    assert not rollout.logp_BT[~rollout.mask_BT].any()
    assert ratios(model, rollout).abs().max() < 1e-5
    rows = torch.tensor([3, 0, 5])
    part = cut(rollout, rows)
    assert part.logp_BT is not None
    assert torch.equal(part.logp_BT, rollout.logp_BT[rows, : part.mask_BT.shape[1]])


def test_an_answer_hangs_on_seed_stream_and_number_alone(fake: type[fake_vllm.LLM]) -> None:
    model = student()
    whole = sampled(model).answers()
    assert sampled(model).answers() == whole
    some = [17, 3, 8]
    prompts = [PROMPTS[n % len(PROMPTS)] for n in some]
    assert sampled(model, prompts, numbers=some).answers() == [whole[n] for n in some]
    for change in ({"seed": 4}, {"stream": 12}, {"numbers": range(COUNT, 2 * COUNT)}):
        assert sampled(model, **change).answers() != whole
    assert len(set(vllm.seeds(range(500), 3, 11))) == 500


# ---- weights ----------------------------------------------------------------------------------


def test_weights_are_handed_over_at_every_call_and_a_changed_student_answers_otherwise(
    fake: type[fake_vllm.LLM],
) -> None:
    model = student()
    before = sampled(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    after = sampled(model)
    (engine,) = fake.started
    assert engine.pushes == 2
    assert after.answers() != before.answers()
    assert ratios(model, after).abs().max() < 1e-5
    # Of the older weights they would be off.
    assert ratios(model, before).abs().max() > 0.1


def test_one_engine_serves_models_of_one_shape_and_another_shape_has_its_own(
    fake: type[fake_vllm.LLM],
) -> None:
    first, second = student(), student()
    with torch.no_grad():
        second.lm_head.weight.mul_(-1.0)
    one, two = sampled(first), sampled(second)
    assert len(fake.started) == 1
    assert max(ratios(m, r).abs().max() for m, r in ((first, one), (second, two))) < 1e-5
    sampled(student(vocabulary=13))
    assert len(fake.started) == 2


def test_a_head_tied_to_the_embedding_is_handed_over_too(fake: type[fake_vllm.LLM]) -> None:
    model = student()
    model.config.tie_word_embeddings = True
    model.tie_weights()
    assert model.lm_head.weight is model.get_input_embeddings().weight
    rollout = sampled(model)
    assert (
        fake.started[0].model.lm_head.weight is not fake.started[0].model.model.embed_tokens.weight
    )
    assert ratios(model, rollout).abs().max() < 1e-5


def test_an_engine_gets_its_share_of_the_device_and_nothing_that_cuts_the_distribution(
    fake: type[fake_vllm.LLM],
) -> None:
    vllm_engine.offer_memory(0.45)
    sampled(student().bfloat16())
    given = fake.started[0].given
    assert (given["gpu_memory_utilization"], given["dtype"]) == (0.45, "bfloat16")
    assert given["logprobs_mode"] == "processed_logprobs"
    assert given["generation_config"] == "vllm"
    assert given["enable_prefix_caching"] is False
    assert given["distributed_executor_backend"] == "uni"


def test_weights_that_do_not_arrive_are_noticed(
    fake: type[fake_vllm.LLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake, "unknown", "lm_head.weight")
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"nats off .* does not draw with the weights"):
            sampled(student())


@pytest.mark.parametrize("training", [True, False])
def test_model_and_global_generators_are_left_as_they_were(
    fake: type[fake_vllm.LLM], training: bool
) -> None:
    model = student(dropout=0.9).train(training)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    sampled(model)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]
    assert all(module.training is training for module in model.modules())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


# ---- refusals ---------------------------------------------------------------------------------


def test_without_the_package_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_engine.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError) as caught:
        sampled(student())
    assert "needs vLLM, which is not installed here" in str(caught.value)
    assert str(caught.value).endswith("or set rollout.backend=compiled")
    with pytest.raises(ConfigError, match="not installed here"):
        prepare_decoding(load(compose_one(["rollout=vllm"])), StudyPaths(), Path("unread"), 1)


def with_adapter() -> PreTrainedModel:
    model = student()
    model.peft_config = {}
    return model


def scaled_by_length() -> PreTrainedModel:
    model = student()
    model.config.rope_parameters = {
        "rope_type": "dynamic",
        "factor": 2.0,
        "rope_theta": 1e4,
    }
    return model


def with_bias() -> PreTrainedModel:
    model = student()
    model.lm_head.bias = torch.nn.Parameter(torch.ones(11))
    return model


@pytest.mark.parametrize(
    ("model", "changes", "reason"),
    [
        (with_adapter, {}, "an adapter is on the model"),
        (tiny_model, {}, "has no float64"),
        (student, {"temperature": 0.005}, "temperature=0.005 at 0.01; set rollout.temperature to"),
        (student, {"banned_V": torch.arange(11) == EOS}, "tokens are banned"),
        (scaled_by_length, {}, "scales positions by length"),
        (with_bias, {}, "a head with a bias"),
        (student, {"max_new_tokens": 122}, "129 tokens, and the engine has room for 128; raise"),
    ],
)
def test_what_cannot_be_right_is_refused_in_one_line(
    fake: type[fake_vllm.LLM], model: Any, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        sampled(model(), **changes)
    assert str(caught.value).startswith("rollout.backend=vllm cannot sample: ")
    assert "\n" not in str(caught.value)


def test_an_answer_that_something_else_ended_is_refused(
    fake: type[fake_vllm.LLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake, "cut", 3)
    with pytest.raises(ConfigError, match="ended an answer before its end"):
        sampled(student(), end_ids=(99,))


def test_a_build_for_another_device_is_refused(
    fake: type[fake_vllm.LLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake_vllm.Platform, "device_type", "cuda")
    with pytest.raises(ConfigError, match="built for cuda and the model is on cpu"):
        sampled(student())


def test_an_engine_that_does_not_start_is_one_line(
    fake: type[fake_vllm.LLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: Any, **__: Any) -> None:
        raise ValueError("no room\nfor keys")

    monkeypatch.setattr(fake, "__init__", no_room)
    with pytest.raises(ConfigError, match=r"did not start \(no room for keys\)"):
        sampled(student())


def test_other_heads_are_refused_before_an_engine_starts(fake: type[fake_vllm.LLM]) -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=11, n_embd=8, n_layer=1, n_head=1))
    model.get_output_embeddings = lambda: None
    with pytest.raises(ConfigError, match="a head with a bias, or none"):
        sampled(model)
    assert not fake.started


# ---- the setting ------------------------------------------------------------------------------


def identity(*words: str) -> str:
    settings = science(load(compose_one(list(words))))
    return cell_identity(settings, lam=1.5, seed=0, kind=OPD, models="0" * 64)


def test_an_engine_with_draws_of_its_own_is_part_of_an_identity() -> None:
    plain = identity("optim.estimator=sampled")
    drawn = identity("optim.estimator=sampled", "rollout.backend=vllm")
    capped = identity("optim.estimator=sampled", "rollout.backend=vllm", "rollout.engine_cap=2.0")
    assert len({plain, drawn, capped}) == 3
    # How much of a device it takes changes nothing.
    words = ("optim.estimator=sampled", "rollout.backend=vllm", "rollout.engine_memory=0.5")
    assert identity(*words) == drawn
    assert identity("optim.estimator=sampled", "rollout.engine_memory=0.5") == plain


def test_records_from_before_there_was_an_engine_keep_their_identity() -> None:
    config = load(compose_one([]))
    settings = science(config)
    assert not {"backend", "engine_memory", "engine_cap"} & set(settings["rollout"])
    plain = dict(settings, lam=settings["lam"] | {"of_threshold": None})
    plain["data"] = settings["data"] | {"path": None, "rubric": None, "study_seeds": []}
    plain["evaluation"] = settings["evaluation"] | {"stop_when_collapsed": True}
    assert science_of(plain) == settings


def test_the_record_says_that_the_engine_drew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "engine_version", lambda: "vllm 0.32.0")
    config = load(compose_one(["rollout=vllm"]))
    told = prepare_decoding(config, StudyPaths(), Path("unread"), 1).told()
    assert told["backend"] == "vllm"
    assert told["reason"] == (
        "vllm 0.32.0 drew with numbers of its own: other backends draw other tokens"
    )
    # What is measured once and kept does not hang on what is installed.
    assert without_compiled(config.rollout) == replace(config.rollout, backend="reference")
