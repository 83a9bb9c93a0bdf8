"""Log-probs of narrow heads and of large vocabularies keep the digits that float32 has."""

from __future__ import annotations

import math

import pytest
import torch
from test_scoring import batch, build, expected_logp
from torch import Tensor, nn
from torch.nn import functional as F

from opdcliff.rollout import heads
from opdcliff.rollout.heads import float32_logits, log_softmax
from opdcliff.rollout.scoring import completion_logp

ENTRIES = 151_936


def _with_tail(tail: float, entries: int = ENTRIES) -> Tensor:
    """Float32 logits whose first entry has 1 - p = tail."""
    generator = torch.Generator().manual_seed(0)
    logits_V = torch.randn(entries, generator=generator, dtype=torch.float64) * 2
    logits_V[0] = -math.inf
    logits_V[0] = logits_V.logsumexp(0) + math.log((1 - tail) / tail)
    return logits_V.float()


@pytest.mark.parametrize("tail", [1e-1, 1e-2, 1e-4, 1e-6, 1e-8])
def test_the_likeliest_of_many_entries_keeps_its_tail(tail: float) -> None:
    logits_V = _with_tail(tail)
    found_V = log_softmax(logits_V[None], 0.9)[0].double()
    behind_V = (logits_V.double() - logits_V[0].double()) / 0.9
    odds = behind_V[1:].exp().sum()
    # In float64 too, the tail is to be summed alone.
    assert float(found_V[0] / -odds.log1p()) == pytest.approx(1.0, abs=1e-5)
    assert (found_V - (behind_V - odds.log1p())).abs().max() < 1e-5
    assert float(found_V.exp().sum()) == pytest.approx(1.0, abs=1e-6)


def test_gradients_of_large_and_small_vocabularies_are_those_of_log_softmax(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = torch.Generator().manual_seed(0)
    logits_nV = torch.randn(3, 40, generator=generator) * 4
    # Forbidden entries, two likeliest ones, and nothing but one entry.
    logits_nV[0, 3] = -math.inf
    logits_nV[1, 5] = logits_nV[1, 7] = 20.0
    logits_nV[2, 1:] = -math.inf
    weight_nV = torch.randn(3, 40, generator=generator)
    found = []
    for least in (10**9, 1):
        monkeypatch.setattr(heads, "LARGE", least)
        leaf_nV = logits_nV.clone().requires_grad_()
        logp_nV = log_softmax(leaf_nV, 0.7)
        kept = logp_nV.isfinite()
        (logp_nV[kept] * weight_nV[kept]).sum().backward()
        found.append((logp_nV.detach(), leaf_nV.grad))
    for plain, tailed in zip(*found, strict=True):
        torch.testing.assert_close(tailed, plain, rtol=1e-5, atol=1e-5)


def test_logits_that_are_not_numbers_stay_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "LARGE", 1)
    for bad in (math.nan, math.inf):
        logits_nV = torch.tensor([[0.0, bad, 1.0], [0.0, 1.0, 2.0]])
        found_nV = log_softmax(logits_nV, 1.0)
        assert found_nV[0].isnan().any()
        torch.testing.assert_close(found_nV[1], logits_nV[1].log_softmax(-1))


@pytest.mark.parametrize("bias", [False, True])
def test_a_bfloat16_head_gives_logits_that_are_not_rounded(
    bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Several blocks of its weight.
    monkeypatch.setattr(heads, "_BLOCK", 640)
    torch.manual_seed(0)
    head = nn.Linear(64, 50, bias=bias).bfloat16()
    with torch.no_grad():
        head.weight.normal_(std=1.0)
    features_nD = torch.randn(6, 64).mul_(4).bfloat16().requires_grad_()
    double = nn.Linear(64, 50, bias=bias).double()
    double.load_state_dict({k: v.double() for k, v in head.state_dict().items()})
    exact_nV = double(features_nD.detach().double())
    rounded_nV = head(features_nD)
    assert (rounded_nV - exact_nV).abs().max() > 0.05
    found_nV = float32_logits(head, features_nD)
    assert found_nV.dtype == torch.float32
    assert (found_nV - exact_nV).abs().max() < 1e-4
    # The module is as it was, and gradients are those of its own forward, as narrow.
    assert torch.equal(head(features_nD), rounded_nV)
    inputs = [features_nD, *head.parameters()]
    weight_nV = torch.randn(6, 50)
    expected = torch.autograd.grad((rounded_nV.float() * weight_nV).sum(), inputs)
    gradients = torch.autograd.grad((found_nV * weight_nV).sum(), inputs)
    for gradient, other in zip(gradients, expected, strict=True):
        assert gradient.dtype == torch.bfloat16
        torch.testing.assert_close(gradient, other, rtol=0.02, atol=0.02)


def test_scores_of_a_bfloat16_model_are_those_of_its_features_in_float32() -> None:
    model = build("qwen3", torch.bfloat16)
    ids, attention = batch(pads=(0, 0, 0))
    with torch.no_grad():
        model.lm_head.weight.mul_(8.0)
        found_BT = completion_logp(model, ids, attention, 6, temperature=1.0, chunk_tokens=5)
        hidden_BTD = model.model(input_ids=ids).last_hidden_state[:, -7:-1]
        logits_BTV = F.linear(hidden_BTD.double(), model.lm_head.weight.double())
        own_BTV = expected_logp(model, ids, attention, 6)
    token_BT1 = ids[:, -6:, None]
    exact_BT = logits_BTV.log_softmax(-1).gather(-1, token_BT1).squeeze(-1)
    real = attention[:, -6:].bool()
    assert (found_BT - exact_BT)[real].abs().max() < 1e-3
    own_BT = own_BTV.float().gather(-1, token_BT1).squeeze(-1)
    assert (own_BT - exact_BT)[real].abs().max() > 0.01
