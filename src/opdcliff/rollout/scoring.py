"""Log-probs of completion tokens under a causal language model, without keeping all its logits.

Axes in names: B batch, L prompt + completion, T completion tokens (the last T of L), V vocabulary,
D hidden size, N = B*T flattened completion tokens (row b, token t is n = b*T + t), n one chunk.
Prompts are padded on the left, completions on the right; `attention_BL` is 1 on real tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from opdcliff.errors import ConfigError

# What a causal LM of the transformers library may do to hidden states or logits around its head,
# by configuration field, and the values under which nothing is done.
_HEAD_FIELDS: dict[str, tuple[Any, ...]] = {
    "final_logit_softcapping": (None,),
    "logits_soft_cap": (None,),
    "output_logit_soft_cap": (None,),
    "logit_scale": (None, 1.0),
    "logits_scaling": (None, 1.0),
    "lm_head_multiplier": (None, 1.0),
    "logits_mup_width_multiplier": (None, 1.0),
    "unpadded_vocab_size": (None,),
}


def has_plain_head(model: PreTrainedModel) -> bool:
    """True if the logits are exactly `lm_head(base_model(...).last_hidden_state)`.

    False for a model that scales or caps its logits by a configuration field (Gemma 2, Cohere,
    Granite, ...) or whose head is more than the module `lm_head` (BERT-like decoders). Such models
    are scored through their own forward, which keeps the logits of all completion positions.
    A new architecture that changes logits in a way not listed here must be added to the list.
    """
    head = model.get_output_embeddings()
    if head is None or head is not getattr(model, "lm_head", None) or model.base_model is model:
        return False
    config = model.config.get_text_config()
    return all(getattr(config, name, None) in neutral for name, neutral in _HEAD_FIELDS.items())


def completion_logp(
    model: PreTrainedModel,
    ids_BL: Tensor,
    attention_BL: Tensor,
    completion_length: int,
    *,
    temperature: float,
    chunk_tokens: int,
) -> Tensor:
    """Log-prob of each completion token given everything before it, shape BT, nats.

    log softmax(logits / temperature)[token]; `temperature` > 0 is that of the rollouts.
    The backbone runs once; the head runs on `chunk_tokens` positions at a time and, where a
    gradient is wanted, again in the backward pass, so that at most [chunk_tokens, V] logits exist
    (see `has_plain_head` for the exception). Logits are float32 before the softmax, or wider if
    the model is. A token that the model forbids (logit -inf) has log-prob -inf, and no gradient
    where a loss gives it none. Values at padding positions mean nothing, and are not NaN.
    Raises ConfigError for a temperature that is not positive.
    """
    target_N = ids_BL[:, -completion_length:].flatten()
    chunks = _map_chunks(
        model,
        ids_BL,
        attention_BL,
        completion_length,
        temperature=temperature,
        chunk_tokens=chunk_tokens,
        target_N=target_N,
    )
    return torch.cat([logp_n for _, logp_n in chunks]).view(-1, completion_length)


def completion_full_logp(
    model: PreTrainedModel,
    ids_BL: Tensor,
    attention_BL: Tensor,
    completion_length: int,
    *,
    temperature: float,
) -> Tensor:
    """Log-probs of the whole vocabulary at each completion position, shape BTV, nats.

    For small vocabularies: it holds B*T*V floats, and as many again for the gradient.
    `temperature`, precision and errors as in `completion_logp`.
    """
    batch = ids_BL.shape[0]
    ((_, logp_NV),) = _map_chunks(
        model,
        ids_BL,
        attention_BL,
        completion_length,
        temperature=temperature,
        chunk_tokens=batch * completion_length,
        target_N=None,
    )
    return logp_NV.view(batch, completion_length, -1)


@torch.no_grad()
def iter_full_logp(
    model: PreTrainedModel,
    ids_BL: Tensor,
    attention_BL: Tensor,
    completion_length: int,
    *,
    temperature: float,
    chunk_tokens: int,
) -> Iterator[tuple[slice, Tensor]]:
    """`completion_full_logp` for large vocabularies: chunks of it, without gradient.

    Yields (slice, logp_nV): the slice indexes the N = B*T completion tokens flattened row by row,
    so a BT tensor meets its chunk as `x_BT.flatten()[slice]`.
    """
    yield from _map_chunks(
        model,
        ids_BL,
        attention_BL,
        completion_length,
        temperature=temperature,
        chunk_tokens=chunk_tokens,
        target_N=None,
    )


class ScoringModule(nn.Module):
    """A causal LM whose forward returns completion log-probs, for engines that wrap one module.

    Wrapping this instead of the model keeps the chunked head inside the forward that DDP and
    DeepSpeed see. Parameters of the model keep their names behind the prefix `model.`.
    Under ZeRO-3 every rank must pass the same B*T: each chunk gathers the head's weight anew.
    temperature, chunk_tokens: as in `completion_logp`.
    """

    def __init__(self, model: PreTrainedModel, temperature: float, chunk_tokens: int) -> None:
        super().__init__()
        self.model = model
        self.temperature = temperature
        self.chunk_tokens = chunk_tokens

    def forward(
        self, ids_BL: Tensor, attention_BL: Tensor, completion_length: int, full: bool = False
    ) -> Tensor:
        """`completion_full_logp` (shape BTV) if `full`, else `completion_logp` (shape BT)."""
        inputs = (self.model, ids_BL, attention_BL, completion_length)
        if full:
            return completion_full_logp(*inputs, temperature=self.temperature)
        return completion_logp(
            *inputs, temperature=self.temperature, chunk_tokens=self.chunk_tokens
        )


def _map_chunks(
    model: PreTrainedModel,
    ids_BL: Tensor,
    attention_BL: Tensor,
    completion_length: int,
    *,
    temperature: float,
    chunk_tokens: int,
    target_N: Tensor | None,
) -> Iterator[tuple[slice, Tensor]]:
    """Chunks of log-probs: of the targets if given, else of the whole vocabulary."""
    if not temperature > 0:
        raise ConfigError(
            f"scoring temperature {temperature}: it must be > 0 and equal to the sampling one"
        )
    plain = has_plain_head(model)
    features_BLX = _features(model, ids_BL, attention_BL, completion_length, plain)
    # Position i predicts token i + 1, hence the shift by one against the completion itself.
    features_NX = features_BLX[:, -completion_length - 1 : -1].flatten(0, 1)
    head = model.get_output_embeddings() if plain else nn.Identity()
    for start in range(0, features_NX.shape[0], chunk_tokens):
        part = slice(start, start + chunk_tokens)
        target_n = None if target_N is None else target_N[part]
        inputs = (head, features_NX[part], target_n, temperature)
        if target_N is not None and torch.is_grad_enabled():
            # The head draws no random numbers, so there is no generator state to restore.
            logp = checkpoint(_chunk_logp, *inputs, use_reentrant=False, preserve_rng_state=False)
        else:
            logp = _chunk_logp(*inputs)
        yield part, logp


def _features(
    model: PreTrainedModel, ids_BL: Tensor, attention_BL: Tensor, length: int, plain: bool
) -> Tensor:
    """Hidden states (D last) for a plain head, else logits (V last), of the last tokens."""
    inputs = {
        "input_ids": ids_BL,
        "attention_mask": attention_BL,
        # Counted from the first real token: left padding must not shift the positions.
        "position_ids": (attention_BL.long().cumsum(-1) - 1).clamp(min=0),
        "use_cache": False,
    }
    features: Tensor = (
        model.base_model(**inputs).last_hidden_state
        if plain
        else model(**inputs, logits_to_keep=length + 1).logits
    )
    return features


def _chunk_logp(
    head: nn.Module, features_nX: Tensor, target_n: Tensor | None, temperature: float
) -> Tensor:
    logits_nV = head(features_nX)
    logits_nV = logits_nV.to(torch.promote_types(logits_nV.dtype, torch.float32))
    # log_softmax, not logit - logsumexp: the latter rounds log p away where p is close to 1.
    logp_nV = F.log_softmax(logits_nV / temperature, dim=-1)
    return logp_nV if target_n is None else logp_nV.gather(-1, target_n[:, None]).squeeze(-1)
