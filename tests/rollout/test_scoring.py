"""Completion log-probs: chunked = whole, padding, temperature, memory, models with odd heads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    ModernBertDecoderConfig,
    ModernBertDecoderForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from opdcliff.errors import ConfigError
from opdcliff.rollout.backends import sample
from opdcliff.rollout.draws import TRAIN_STREAM
from opdcliff.rollout.scoring import (
    ScoringModule,
    completion_logp,
    has_plain_head,
    iter_full_logp,
)
from whole_logp import completion_full_logp

SHAPE = {
    "vocab_size": 53,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
PLAIN = ["qwen3", "qwen3_tied", "llama"]
SCALED = ["gemma2", "granite", "cohere"]


def build(name: str, dtype: torch.dtype | None = None, **changes: Any) -> PreTrainedModel:
    # Gemma 2 has eager attention only, which in float64 gives NaN on rows that are padding.
    dtype = dtype or (torch.float32 if name == "gemma2" else torch.float64)
    shape = SHAPE | changes
    torch.manual_seed(0)
    model: PreTrainedModel = {
        "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**shape)),
        "qwen3_tied": lambda: Qwen3ForCausalLM(Qwen3Config(**shape, tie_word_embeddings=True)),
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**shape)),
        "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**shape, final_logit_softcapping=2.0)),
        "granite": lambda: GraniteForCausalLM(GraniteConfig(**shape, logits_scaling=3.0)),
        "cohere": lambda: CohereForCausalLM(CohereConfig(**shape, logit_scale=0.25)),
    }[name]()
    with torch.no_grad():  # The library's initial weights give almost flat distributions.
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.to(dtype)


def batch(length: int = 12, pads: tuple[int, ...] = (0, 3, 5)) -> tuple[Tensor, Tensor]:
    """Three rows: left pads of the given widths, and the last one also ends in two pads."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 53, (len(pads), length), generator=generator)
    attention = (torch.arange(length) >= torch.tensor(pads)[:, None]).long()
    attention[-1, -2:] = 0
    return ids * attention, attention


def expected_logp(
    model: PreTrainedModel, ids: Tensor, attention: Tensor, length: int, temperature: float = 1.0
) -> Tensor:
    """BTV log-probs row by row, each row without its padding, through the model's own forward."""
    rows = []
    for row, real in zip(ids, attention.bool(), strict=True):
        start = int(real.int().argmax())
        logits = model(input_ids=row[None, start:]).logits[0, -length - 1 : -1]
        rows.append((logits / temperature).log_softmax(-1))
    return torch.stack(rows)


def gradients(model: PreTrainedModel, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters())))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("name", PLAIN + SCALED)
def test_scores_equal_the_models_own_forward(name: str, temperature: float) -> None:
    model = build(name)
    ids, attention = batch()
    real = attention[:, -6:].bool()
    expected = expected_logp(model, ids, attention, 6, temperature)
    full = completion_full_logp(model, ids, attention, 6, temperature=temperature)
    torch.testing.assert_close(full[real], expected[real])
    token = expected.gather(-1, ids[:, -6:, None]).squeeze(-1)
    for chunk in (1, 5, 18, 100):
        got = completion_logp(model, ids, attention, 6, temperature=temperature, chunk_tokens=chunk)
        torch.testing.assert_close(got[real], token[real])
        assert got.isfinite().all()


@pytest.mark.parametrize("name", PLAIN + SCALED)
def test_gradients_equal_the_unchunked_ones(name: str) -> None:
    model = build(name)
    ids, attention = batch()
    weight = torch.randn(3, 6) * attention[:, -6:]
    expected = expected_logp(model, ids, attention, 6).gather(-1, ids[:, -6:, None]).squeeze(-1)
    whole = gradients(model, (weight * expected).sum())
    for chunk in (5, 100):
        got = completion_logp(model, ids, attention, 6, temperature=1.0, chunk_tokens=chunk)
        for a, b in zip(gradients(model, (weight * got).sum()), whole, strict=True):
            torch.testing.assert_close(a, b)
    full = completion_full_logp(model, ids, attention, 6, temperature=1.0)
    token = full.gather(-1, ids[:, -6:, None]).squeeze(-1)
    for a, b in zip(gradients(model, (weight * token).sum()), whole, strict=True):
        torch.testing.assert_close(a, b)
    assert max(g.abs().max() for g in whole) > 0


def test_more_left_padding_changes_nothing() -> None:
    model = build("qwen3")
    ids, attention = batch(pads=(0, 0, 0))
    options: dict[str, Any] = {"temperature": 1.0, "chunk_tokens": 4}
    plain = completion_logp(model, ids, attention, 6, **options)
    wider = (torch.nn.functional.pad(x, (7, 0)) for x in (ids, attention))
    torch.testing.assert_close(completion_logp(model, *wider, 6, **options), plain)


def test_chunks_of_the_vocabulary_join_to_the_whole() -> None:
    model = build("llama")
    ids, attention = batch()
    chunks = list(iter_full_logp(model, ids, attention, 6, temperature=1.0, chunk_tokens=4))
    assert [part.start for part, _ in chunks] == [0, 4, 8, 12, 16]
    assert not any(logp.requires_grad for _, logp in chunks)
    whole = completion_full_logp(model, ids, attention, 6, temperature=1.0)
    assert whole.requires_grad
    for part, logp in chunks:
        torch.testing.assert_close(logp, whole.detach().flatten(0, 1)[part])


def test_half_precision_logits_are_normalized_in_float32() -> None:
    model = build("qwen3", torch.bfloat16)
    ids, attention = batch()
    full = completion_full_logp(model, ids, attention, 6, temperature=1.0)
    assert full.dtype == torch.float32
    torch.testing.assert_close(full.exp().sum(-1), torch.ones(3, 6), rtol=0, atol=1e-6)
    sampled = completion_logp(model, ids, attention, 6, temperature=1.0, chunk_tokens=4)
    assert sampled.dtype == torch.float32


def test_log_prob_of_a_nearly_certain_token_keeps_its_digits() -> None:
    """Logits near 100: logit - logsumexp in float32 would be off by about 4e-6."""
    model = build("qwen3", torch.float32)
    ids, attention = batch(pads=(0, 0, 0))
    exact, rounded = (
        completion_full_logp(model.to(dtype), ids, attention, 6, temperature=0.03).amax(-1).double()
        for dtype in (torch.float64, torch.float32)
    )
    certain = (exact > -1e-3) & (exact < -1e-7)
    assert certain.sum() >= 5
    torch.testing.assert_close(rounded[certain], exact[certain], rtol=0, atol=3e-7)


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_a_temperature_that_is_not_positive_is_refused(temperature: float) -> None:
    model = build("qwen3")
    with pytest.raises(ConfigError, match="must be > 0"):
        completion_logp(model, *batch(), 6, temperature=temperature, chunk_tokens=4)


@pytest.mark.parametrize("name", PLAIN + SCALED)
def test_models_that_change_their_logits_are_recognized(name: str) -> None:
    assert has_plain_head(build(name)) == (name in PLAIN)


def test_a_head_of_several_modules_goes_through_the_models_own_forward() -> None:
    shape = {name: SHAPE[name] for name in ("vocab_size", "hidden_size", "intermediate_size")}
    special = dict.fromkeys(("pad_token_id", "cls_token_id", "sep_token_id"), 0)
    config = ModernBertDecoderConfig(
        **shape,
        **special,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(0)
    model = ModernBertDecoderForCausalLM(config).double().eval()
    ids, attention = batch(pads=(0, 0, 0))
    attention[:] = 1
    assert model.get_output_embeddings() is not None
    assert not has_plain_head(model)
    got = completion_full_logp(model, ids, attention, 6, temperature=1.0)
    torch.testing.assert_close(got, expected_logp(model, ids, attention, 6))


def test_neutral_scaling_keeps_the_chunked_path() -> None:
    assert has_plain_head(GraniteForCausalLM(GraniteConfig(**SHAPE, logits_scaling=1.0)))


LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [4.0, 3.0, 2.0, 1.5],
    "factor": 4.0,
    "original_max_position_embeddings": 16,
}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}


@pytest.mark.parametrize(("rope", "known"), [(LONG, 64), (DYNAMIC, 16)])
def test_rows_that_positions_would_make_depend_on_each_other_are_refused(
    rope: dict[str, Any], known: int
) -> None:
    """Past 16 tokens the library scales the positions of all rows by the longest."""
    model = build("llama", rope_parameters=rope, max_position_embeddings=known)
    options: dict[str, Any] = {"temperature": 1.0, "chunk_tokens": 64}
    generator = torch.Generator().manual_seed(1)
    ids, attention = torch.randint(3, 53, (2, 20), generator=generator), torch.ones(2, 20).long()
    # Rows of 16 and 9 tokens; more padding changes nothing.
    attention[0, :4], attention[1, :11] = 0, 0
    together = completion_logp(model, ids, attention, 6, **options)[1]
    alone = completion_logp(model, ids[1:], attention[1:], 6, **options)[0]
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-9)
    attention[0, 3] = 1
    inputs = {"input_ids": ids, "position_ids": (attention.cumsum(-1) - 1).clamp(min=0)}
    with torch.no_grad():
        beside = model(**inputs, attention_mask=attention).logits[1]
        without = model(**{k: v[1:] for k, v in inputs.items()}, attention_mask=attention[1:])
    assert (beside - without.logits[0])[11:].abs().max() > 0.01
    with pytest.raises(ConfigError, match="more than 16 tokens, and one of 17 is asked for"):
        completion_logp(model, ids, attention, 6, **options)
    limits = {"max_new_tokens": 8, "temperature": 1.0, "end_ids": (2,), "pad_id": 0}
    draws = {"numbers": range(2), "seed": 0, "stream": TRAIN_STREAM}
    assert len(sample(model, ids[:, :8], attention[:, :8], **limits, **draws).lengths()) == 2
    with pytest.raises(ConfigError, match=r"one of 17 is asked for.*lower rollout\.max_new_tokens"):
        sample(model, ids[:, :8], attention[:, :8], **limits | {"max_new_tokens": 12}, **draws)


class LargestTensor(TorchDispatchMode):
    """Records the number of elements of the largest tensor any operation returns."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, Tensor):
                self.numel = max(self.numel, value.numel())
        return result


@pytest.mark.parametrize("name", PLAIN)
def test_no_tensor_of_all_logits_is_ever_made(name: str) -> None:
    model = build(name, vocab_size=997)
    ids, attention = batch(length=40, pads=(0, 3, 5, 1))
    tokens = 4 * 30
    largest = {}
    for chunk in (8, tokens):
        with LargestTensor() as record:
            logp = completion_logp(model, ids, attention, 30, temperature=1.0, chunk_tokens=chunk)
            logp.sum().backward()
        largest[chunk] = record.numel
    # 997 x 16 parameters of the head are the largest thing left beside 8 x 997 logits.
    assert largest == {8: 997 * 16, tokens: 997 * tokens}


def test_logits_are_recomputed_not_kept_between_forward_and_backward() -> None:
    model = build("qwen3", vocab_size=997)
    ids, attention = batch(length=40, pads=(0, 3, 5, 1))
    saved = []

    def remember(tensor: Tensor) -> Tensor:
        saved.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        completion_logp(model, ids, attention, 30, temperature=1.0, chunk_tokens=8)
    assert max(saved) < 8 * 997


def test_scoring_module_scores_and_names_parameters_after_the_model() -> None:
    model = build("qwen3")
    ids, attention = batch()
    module = ScoringModule(model, temperature=0.7, chunk_tokens=4)
    sampled = completion_logp(model, ids, attention, 6, temperature=0.7, chunk_tokens=4)
    assert torch.equal(module(ids, attention, 6), sampled)

    def loss(logp_nV: Tensor, *beside_n: Tensor) -> tuple[Tensor, ...]:
        (token_n,) = beside_n
        logp_n = logp_nV.gather(-1, token_n[:, None]).squeeze(-1)
        return logp_n.sum(), logp_n

    total, per_token = module(ids, attention, 6, loss, [ids[:, -6:]])
    assert torch.equal(per_token, sampled)
    torch.testing.assert_close(total, sampled.sum())
    names = {f"model.{name}" for name, _ in model.named_parameters()}
    assert {name for name, _ in module.named_parameters()} == names
