"""Logits and log-probs in float32, however narrow the model and large its vocabulary.

Axes in names: n completion tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Entries from which on log-probs are made by `_TailedLogSoftmax`. The CPU kernel of torch adds what
# is under the last digit of 1 to the likeliest entry's 1, in as many sums as a register has: of
# 151,936 entries 1 - p = 1e-4 came out 5.5% low. Smaller vocabularies keep torch's, so that
# recorded runs are repeatable to the bit.
LARGE = 2**14
# Elements of a head's weight that are widened at a time.
_BLOCK = 2**24


def float32_logits(head: nn.Module, features_nX: Tensor) -> Tensor:
    """Logits of a head, float32 or as wide as the model.

    A narrow linear head would round each logit: by .06 at 30 in bfloat16, which is as much in nats.
    Here products of narrow numbers are summed and kept in float32; gradients are as narrow as
    before. A head of another kind is widened behind it.
    """
    wide = torch.promote_types(features_nX.dtype, torch.float32)
    own = type(head) is not nn.Linear or "forward" in vars(head)
    if own or features_nX.dtype == wide:
        given_nV: Tensor = head(features_nX)
        return given_nV.to(torch.promote_types(given_nV.dtype, torch.float32))
    # Called as a module, since ZeRO-3 gathers its weight then.
    vars(head)["forward"] = partial(_wide_linear, head)
    try:
        logits_nV: Tensor = head(features_nX)
    finally:
        del vars(head)["forward"]
    return logits_nV


def log_softmax(logits_nV: Tensor, temperature: float) -> Tensor:
    """log softmax(logits / temperature) over the last axis, with the tail of a large vocabulary."""
    if logits_nV.dtype != torch.float32 or logits_nV.shape[-1] < LARGE:
        # Not logit - logsumexp, which rounds log p away where p is close to 1.
        return F.log_softmax(logits_nV / temperature, dim=-1)
    apply: Any = _TailedLogSoftmax.apply
    logp_nV: Tensor = apply(logits_nV, temperature)
    return logp_nV


def _wide_linear(head: Any, features_nD: Tensor) -> Tensor:
    apply: Any = _WideLinear.apply
    logits_nV: Tensor = apply(features_nD.flatten(0, -2), head.weight)
    logits_nV = logits_nV.view(*features_nD.shape[:-1], -1)
    return logits_nV if head.bias is None else logits_nV + head.bias


class _WideLinear(torch.autograd.Function):
    """features @ weight.T in float32, of narrow features and weight."""

    @staticmethod
    def forward(ctx: Any, features_nD: Tensor, weight_VD: Tensor) -> Tensor:
        ctx.save_for_backward(features_nD, weight_VD)
        wide_nD = features_nD.float()
        rows = max(1, _BLOCK // weight_VD.shape[1])
        logits_nV = wide_nD.new_empty(len(features_nD), len(weight_VD))
        for start in range(0, len(weight_VD), rows):
            block = slice(start, start + rows)
            torch.mm(wide_nD, weight_VD[block].float().t(), out=logits_nV[:, block])
        return logits_nV

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        features_nD, weight_VD = ctx.saved_tensors
        (gradient_nV,) = gradients
        narrow_nV = gradient_nV.to(weight_VD.dtype)
        of_features, of_weight = ctx.needs_input_grad
        return (
            narrow_nV @ weight_VD if of_features else None,
            narrow_nV.t() @ features_nD if of_weight else None,
        )


class _TailedLogSoftmax(torch.autograd.Function):
    """x_a - x_k - log(1 + sum_{a != k} exp(x_a - x_k)), k the largest: the tail is summed alone."""

    @staticmethod
    def forward(ctx: Any, logits_nV: Tensor, temperature: float) -> Tensor:
        most_n1, index_n1 = logits_nV.max(-1, keepdim=True)
        logp_nV = (logits_nV - most_n1).div_(temperature)
        tail_n1 = logp_nV.exp().scatter_(-1, index_n1, 0.0).sum(-1, keepdim=True)
        logp_nV -= tail_n1.log1p_()
        ctx.save_for_backward(logp_nV)
        ctx.temperature = temperature
        return logp_nV

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (logp_nV,) = ctx.saved_tensors
        (gradient_nV,) = gradients
        of_logits_nV = torch._log_softmax_backward_data(gradient_nV, logp_nV, -1, logp_nV.dtype)
        return of_logits_nV.div_(ctx.temperature), None
