"""Models that forbid some entries: a bias of -inf on their head."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedModel


def forbid(model: PreTrainedModel, entries: Sequence[int]) -> PreTrainedModel:
    """The same model, whose logits of those entries are -inf."""
    head = model.get_output_embeddings()
    bias = torch.zeros(head.weight.shape[0], dtype=head.weight.dtype)
    bias[list(entries)] = -math.inf
    head.bias = nn.Parameter(bias, requires_grad=False)
    return model
