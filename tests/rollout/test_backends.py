"""The seam of backends: no part of an identity, and each samples what `generate` samples."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import ContinuousBatchingConfig, GenerationConfig, PreTrainedModel

from opdcliff.errors import ConfigError
from opdcliff.models.tokens.train_bpe import pad_left
from opdcliff.records.identity import OPD, cell_identity
from opdcliff.rollout import continuous
from opdcliff.rollout.backends import SAMPLERS, sample
from opdcliff.rollout.draws import Rollout
from opdcliff.settings.checks import load, science, science_of
from opdcliff.settings.compose import compose_one
from tiny_rollout import EOS, PAD, PROMPTS, SETTINGS, VOCABULARY, tiny_model

MODEL = tiny_model()
COUNT = 40


def sampled(
    backend: str,
    prompts: list[list[int]] | None = None,
    model: PreTrainedModel = MODEL,
    **changes: Any,
) -> Rollout:
    given = [PROMPTS[n % len(PROMPTS)] for n in range(COUNT)] if prompts is None else prompts
    options = {"numbers": list(range(len(given)))} | SETTINGS | changes
    return sample(model, *pad_left(given, PAD), backend=backend, **options)


def assert_same(*arguments: Any, **changes: Any) -> Rollout:
    expected = sampled("reference", *arguments, **changes)
    found = sampled("continuous", *arguments, **changes)
    for name in ("ids_BL", "attention_BL", "mask_BT", "ended_B"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    return found


# ---- the setting ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_backend_is_an_option_and_a_value_on_top_of_others(name: str) -> None:
    assert load(compose_one([f"rollout={name}"])).rollout.backend == name
    config = load(compose_one(["rollout=staleness", f"rollout.backend={name}"]))
    assert (config.rollout.backend, config.rollout.updates_per_batch) == (name, 4)


def test_a_backend_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(ConfigError) as caught:
        load(compose_one(["rollout.backend=sglang"]))
    assert "rollout.backend=sglang is not allowed" in str(caught.value)
    assert str(caught.value).endswith(" | ".join(SAMPLERS))


@pytest.mark.parametrize(
    ("words", "identity"),
    [
        # Those of before there was a choice: a grid started again must find its cells.
        ([], "db1fe6e9bf3450068c7e467d155494b8ea2dd885238c5c2c7605c0ddae866588"),
        (
            ["rollout=staleness", "clip=ppo"],
            "5cafbe4468a0558ad6d2aa6fb8b3952c2028b5e8da196e3bc70d1e0b888895c1",
        ),
        (["rollout=paper"], "f6a81e3b48829d1cee75e59e27b7c171c967378af432a891a758d17526f97e14"),
        (["rollout=graph"], "f6a81e3b48829d1cee75e59e27b7c171c967378af432a891a758d17526f97e14"),
        (
            ["rollout=continuous"],
            "db1fe6e9bf3450068c7e467d155494b8ea2dd885238c5c2c7605c0ddae866588",
        ),
    ],
)
def test_the_backend_is_no_part_of_an_identity(words: list[str], identity: str) -> None:
    settings = science(load(compose_one(words)))
    assert "backend" not in settings["rollout"]
    assert cell_identity(settings, lam=1.5, seed=0, kind=OPD, models="0" * 64) == identity
    # Nor do records miss it that were written before.
    plain = dict(settings, lam=settings["lam"] | {"of_threshold": None})
    plain["data"] = settings["data"] | {"path": None, "rubric": None, "study_seeds": []}
    plain["evaluation"] = settings["evaluation"] | {"stop_when_collapsed": True}
    assert science_of(plain) == settings


# ---- continuous batching ----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_same_seed_gives_the_same_samples(dtype: torch.dtype) -> None:
    rollout = assert_same(model=tiny_model().to(dtype))
    assert len({tuple(answer) for answer in rollout.answers()}) > COUNT // 2
    assert {True, False} == set(rollout.ended_B.tolist())


@pytest.mark.parametrize(
    "changes",
    [
        {"banned_V": torch.arange(VOCABULARY) == EOS},
        {"banned_V": torch.arange(VOCABULARY) != EOS},
        {"banned_V": torch.isin(torch.arange(VOCABULARY), torch.tensor([0, 4, 10]))},
        {"max_new_tokens": 1, "temperature": 1.3, "seed": 8, "stream": 12},
        {"numbers": list(range(COUNT))[::-1]},
    ],
    ids=["no end", "only ends", "some banned", "one token", "other numbers"],
)
def test_every_argument_means_the_same(changes: dict[str, Any]) -> None:
    assert_same(**changes)


def test_pads_and_ends_inside_a_prompt_are_tokens_like_others() -> None:
    assert_same([[4, PAD, 5, PAD], [3, 2, 6, 8, 7, 7], [PAD, 9], [EOS, 5, EOS], [4, EOS]])


def test_a_small_cache_makes_requests_wait_and_start_again_but_changes_no_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[int] = []

    class Counting(continuous.RequestDraws):
        def prepare_tensor_args(self, requests_with_new_token: list[Any]) -> torch.Tensor:
            read.extend(r.query_length for r in requests_with_new_token)
            return super().prepare_tensor_args(requests_with_new_token)

    def small(**options: Any) -> ContinuousBatchingConfig:
        return ContinuousBatchingConfig(**options | {"num_blocks": 12})

    monkeypatch.setattr(continuous, "RequestDraws", Counting)
    monkeypatch.setattr(continuous, "ContinuousBatchingConfig", small)
    for name, value in (("PAGE_TOKENS", 4), ("IN_FLIGHT", 16), ("BATCH_TOKENS", 16)):
        monkeypatch.setattr(continuous, name, value)
    prompts = [[5], [6, 7], [2] * 3, [9, 8, 7]] * 6
    assert_same(prompts, banned_V=torch.arange(VOCABULARY) == EOS)
    # Longer than any prompt: a request read its own answer again.
    assert max(read) > 3


def test_long_prompts_are_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("IN_FLIGHT", 3), ("BATCH_TOKENS", 5)):
        monkeypatch.setattr(continuous, name, value)
    assert_same([[2 + (n + i) % 9 for i in range(3 * n + 1)] for n in range(6)])


def test_in_bfloat16_a_call_repeats_itself() -> None:
    model = tiny_model().bfloat16()
    first = sampled("continuous", model=model)
    assert first.answers() == sampled("continuous", model=model).answers()


def test_logits_that_are_not_numbers_are_left_to_the_loss() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.lm_head.weight[:] = torch.nan
    assert sampled("continuous", PROMPTS, model).lengths() == [12] * len(PROMPTS)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_and_the_global_generator_are_left_as_they_were(training: bool) -> None:
    # In float64 this attention makes NaN of padding, under `generate`.
    model = tiny_model(dropout=0.9).float().train(training)
    model.set_attn_implementation("eager")
    own = GenerationConfig(do_sample=True, top_k=1, eos_token_id=[2, 3, 4], max_new_tokens=2)
    model.generation_config = own
    before = torch.get_rng_state()
    assert_same(model=model)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(module.training is training for module in model.modules())
    assert model.config._attn_implementation == "eager"
    assert model.generation_config is own
    assert all(p.grad is None for p in model.parameters())


def fail(*_: Any) -> None:
    raise RuntimeError("no room\nfor it")


def test_what_fails_in_the_loop_is_one_line_and_leaves_the_model_alone() -> None:
    model = tiny_model().train()
    handle = model.model.register_forward_pre_hook(fail)
    with pytest.raises(ConfigError) as caught:
        sampled("continuous", model=model)
    assert "no room for it; set rollout.backend=reference" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert model.training
    handle.remove()
    assert_same(model=model)


def test_a_cache_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(continuous, "MEMORY_SHARE", 1e-9)
    with pytest.raises(ConfigError, match=r"more than available memory .*; set rollout\.backend="):
        sampled("continuous")


def test_an_attention_that_has_no_pages_is_refused() -> None:
    model = tiny_model()
    model.set_attn_implementation("flex_attention")
    with pytest.raises(ConfigError, match="flex_attention is not supported"):
        sampled("continuous", model=model)


def test_a_sampler_that_is_not_called_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Uncounted(continuous.RequestDraws):
        def __call__(self, scores: torch.Tensor, tensor_arg: torch.Tensor) -> torch.Tensor:
            return scores

    monkeypatch.setattr(continuous, "RequestDraws", Uncounted)
    with pytest.raises(ConfigError, match="did not call our sampler"):
        sampled("continuous")


def test_both_end_at_any_of_the_end_tokens() -> None:
    rollout = assert_same(end_ids=(EOS, 4))
    assert {answer[-1] for answer in rollout.answers() if answer[-1] in (EOS, 4)} == {EOS, 4}
