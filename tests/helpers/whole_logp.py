"""Log-probs of the vocabulary at all completion tokens at once: what chunks are held against."""

from __future__ import annotations

from torch import Tensor
from transformers import PreTrainedModel

from opdcliff.rollout.scoring import completion_features, features_logp


def completion_full_logp(
    model: PreTrainedModel,
    ids_BL: Tensor,
    attention_BL: Tensor,
    completion_length: int,
    *,
    temperature: float,
) -> Tensor:
    """Shape BTV, nats, with gradient; arguments as those of `completion_logp`."""
    features_BTX = completion_features(model, ids_BL, attention_BL, completion_length)
    return features_logp(model, features_BTX, temperature)
