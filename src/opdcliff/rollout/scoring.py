"""Log-probs of completion tokens under a causal language model, without keeping all its logits.

Axes in names: B batch, L prompt + completion, T completion tokens (the last T of L), V vocabulary,
D hidden size, X what the head reads (D, or V where the model has no plain head), N = B*T flattened
completion tokens (row b, token t is n = b*T + t), n one chunk.
Prompts are padded on the left, completions on the right; `attention_BL` is 1 on real tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from opdcliff.errors import ConfigError
from opdcliff.rollout.heads import float32_logits, log_softmax
from opdcliff.rollout.positions import require_even

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

# Logits of a chunk of `completion_loss`, on the CPU and elsewhere; a loss over the vocabulary holds
# about ten tensors of that many numbers at once. On the CPU 64 MiB in float32: what has over 32
# glibc gives back to the system at once, while smaller blocks left holes in its heap that grew with
# the chunks, to 9 GB where less than 1 was in use. On a GPU 128 MiB: every chunk reads the head's
# weight and writes a gradient of it, so that few tokens in a chunk would cost time.
CPU_CHUNK_LOGITS, CHUNK_LOGITS = 2**24, 2**25


class ChunkLoss(Protocol):
    """A loss over the vocabulary, of some of the completion tokens."""

    def __call__(self, logp_nV: Tensor, *beside_n: Tensor) -> tuple[Tensor, ...]:
        """The loss of these tokens, a scalar to be summed; then values per token, each of shape n.

        logp_nV: log-probs with gradient. beside_n: the chunk's rows of what is known per token.
        """
        ...


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
    (see `has_plain_head` for the exception). Logits are float32 or wider (`heads`). A token that
    the model forbids (logit -inf) has log-prob -inf, and no gradient where a loss gives it none.
    Values at padding positions mean nothing, and are not NaN.
    Raises ConfigError for a temperature that is not positive.
    """
    _check(temperature)
    target_N = ids_BL[:, -completion_length:].flatten()
    features_NX = completion_features(model, ids_BL, attention_BL, completion_length).flatten(0, 1)
    head = _head(model)
    logp = [
        _again(_chunk_logp, head, features_NX[part], target_N[part], temperature)
        for part in _parts(len(features_NX), chunk_tokens)
    ]
    return torch.cat(logp).view(-1, completion_length)


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
    """Log-probs of the whole vocabulary at each completion token, nats, without gradient.

    temperature, precision and errors: as in `completion_logp`.

    Yields (slice, logp_nV): the slice indexes the N = B*T completion tokens flattened row by row,
    so a BT tensor meets its chunk as `x_BT.flatten()[slice]`.
    """
    _check(temperature)
    features_NX = completion_features(model, ids_BL, attention_BL, completion_length).flatten(0, 1)
    for part in _parts(len(features_NX), chunk_tokens):
        yield part, features_logp(model, features_NX[part], temperature)


def loss_chunks(tokens: int, vocabulary: int, chunk_tokens: int, *, cpu: bool) -> tuple[int, bool]:
    """How `completion_loss` goes about N = tokens: tokens in a chunk, and whether chunks run twice.

    A chunk has as many tokens as `CHUNK_LOGITS` allows, at most chunk_tokens. Where all N have no
    more logits than that, everything is kept and nothing runs twice.
    """
    most = CPU_CHUNK_LOGITS if cpu else CHUNK_LOGITS
    size = min(chunk_tokens, max(1, most // vocabulary))
    return min(size, tokens), tokens * vocabulary > most


def completion_loss(
    model: PreTrainedModel,
    ids_BL: Tensor,
    attention_BL: Tensor,
    completion_length: int,
    loss: ChunkLoss,
    beside: Sequence[Tensor],
    *,
    temperature: float,
    chunk_tokens: int,
) -> tuple[Tensor, ...]:
    """A loss over the vocabulary at every completion token: its sum, and its values per token (BT).

    The backbone runs once. Head and `loss` run chunk by chunk and, where the logits are many, again
    in the backward pass, so that tensors with V entries exist for the tokens of one chunk only
    (`loss_chunks`; see `has_plain_head` for the exception).

    beside: what the loss needs to know of each token, each of shape BT or BTX; without gradient.
    chunk_tokens: at most so many in a chunk. temperature, precision, errors: as `completion_logp`.
    """
    _check(temperature)
    features_NX = completion_features(model, ids_BL, attention_BL, completion_length).flatten(0, 1)
    vocabulary = model.config.get_text_config().vocab_size
    size, twice = loss_chunks(
        len(features_NX), vocabulary, chunk_tokens, cpu=features_NX.device.type == "cpu"
    )
    run = _again if twice else _once
    beside_N = [tensor.flatten(0, 1) for tensor in beside]
    head, losses, values = _head(model), [], []
    for part in _parts(len(features_NX), size):
        beside_n = (tensor[part] for tensor in beside_N)
        chunk_loss, *chunk_values = run(
            _chunk_loss, loss, head, features_NX[part], temperature, *beside_n
        )
        losses.append(chunk_loss)
        values.append(chunk_values)
    per_token = [torch.cat(chunks) for chunks in zip(*values, strict=True)]
    return torch.stack(losses).sum(), *(value.view(-1, completion_length) for value in per_token)


def completion_features(
    model: PreTrainedModel, ids_BL: Tensor, attention_BL: Tensor, completion_length: int
) -> Tensor:
    """What `features_logp` makes log-probs of each completion token of, shape BTX.

    Hidden states before the head (X = D); logits (X = V) where the model has no plain head.
    Raises ConfigError for rows whose scores would depend on each other (`positions`).
    """
    require_even(model, attention_BL)
    inputs = {
        "input_ids": ids_BL,
        "attention_mask": attention_BL,
        # Counted from the first real token: left padding must not shift the positions.
        "position_ids": (attention_BL.long().cumsum(-1) - 1).clamp(min=0),
        "use_cache": False,
    }
    features_BLX: Tensor = (
        model.base_model(**inputs).last_hidden_state
        if has_plain_head(model)
        else model(**inputs, logits_to_keep=completion_length + 1).logits
    )
    # Position i predicts token i + 1, hence the shift by one against the completion itself.
    return features_BLX[:, -completion_length - 1 : -1]


def features_logp(model: PreTrainedModel, features_nX: Tensor, temperature: float) -> Tensor:
    """Log-probs of the whole vocabulary from `completion_features`, shape nV, nats."""
    return _chunk_logp(_head(model), features_nX, None, temperature)


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
        self,
        ids_BL: Tensor,
        attention_BL: Tensor,
        completion_length: int,
        loss: ChunkLoss | None = None,
        beside: Sequence[Tensor] = (),
    ) -> Tensor | tuple[Tensor, ...]:
        """`completion_logp` (shape BT), or `completion_loss` if a loss is given."""
        inputs = (self.model, ids_BL, attention_BL, completion_length)
        options: dict[str, Any] = {
            "temperature": self.temperature,
            "chunk_tokens": self.chunk_tokens,
        }
        if loss is None:
            return completion_logp(*inputs, **options)
        return completion_loss(*inputs, loss, beside, **options)


def _check(temperature: float) -> None:
    if not temperature > 0:
        raise ConfigError(
            f"scoring temperature {temperature}: it must be > 0 and equal to the sampling one"
        )


def _head(model: PreTrainedModel) -> nn.Module:
    return model.get_output_embeddings() if has_plain_head(model) else nn.Identity()


def _parts(count: int, size: int) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, start + size)


def _again(function: Any, *inputs: Any) -> Any:
    """The function's value; where a gradient is wanted, it is run again in the backward pass."""
    if not torch.is_grad_enabled():
        return function(*inputs)
    # The head draws no random numbers, so there is no generator state to restore.
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)


def _once(function: Any, *inputs: Any) -> Any:
    return function(*inputs)


def _chunk_loss(
    loss: ChunkLoss, head: nn.Module, features_nX: Tensor, temperature: float, *beside_n: Tensor
) -> tuple[Tensor, ...]:
    return loss(_chunk_logp(head, features_nX, None, temperature), *beside_n)


def _chunk_logp(
    head: nn.Module, features_nX: Tensor, target_n: Tensor | None, temperature: float
) -> Tensor:
    logp_nV = log_softmax(float32_logits(head, features_nX), temperature)
    return logp_nV if target_n is None else logp_nV.gather(-1, target_n[:, None]).squeeze(-1)
