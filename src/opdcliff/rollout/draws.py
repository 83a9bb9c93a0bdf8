"""What every backend of sampling shares: streams, uniform numbers, the draw, the rollout.

Every row brings its own uniform numbers, drawn from (seed, stream, running number of the prompt);
a token is the inverse of the cumulative distribution at its number. So an answer depends on the
model, the prompt and those numbers alone: not on the other rows, the ranks or a global generator,
and a resumed run samples what an uninterrupted one would. In bfloat16 the logits themselves vary
with the shape of the batch, so there it takes the same batches for the same answers [M].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# Streams keep training, evaluation and calibration samples apart under one seed.
TRAIN_STREAM, EVALUATION_STREAM, CALIBRATION_STREAM, FORCED_STREAM = 11, 12, 13, 14
TEACHER_STREAM = 15


@dataclass(frozen=True)
class Rollout:
    """Sampled answers, aligned at their first token.

    ids_BL: prompt (left-padded) and answer (right-padded); attention_BL: 1 on real tokens.
    mask_BT: 1 on answer tokens, the end token included; T is the longest answer of the batch.
    ended_B: whether the answer reached the end token. compiled: whether a step drew it.
    logp_BT: log-probs of the answers under an engine with weights of its own that drew them, at the
    temperature of sampling, nats; None where the model itself was sampled.
    """

    ids_BL: Tensor
    attention_BL: Tensor
    mask_BT: Tensor
    ended_B: Tensor
    compiled: bool = False
    logp_BT: Tensor | None = None

    @property
    def completion_BT(self) -> Tensor:
        """Answer tokens, shape (B, T)."""
        return self.ids_BL[:, -self.mask_BT.shape[1] :]

    def lengths(self) -> list[int]:
        """Tokens per answer, the end token included."""
        return [int(n) for n in self.mask_BT.sum(-1).tolist()]

    def answers(self) -> list[list[int]]:
        """Token ids of each answer, the end token included if it was reached."""
        rows = self.completion_BT.tolist()
        return [row[:length] for row, length in zip(rows, self.lengths(), strict=True)]


def uniforms(numbers: Sequence[int], length: int, seed: int, stream: int) -> Tensor:
    """Uniform numbers in [0, 1), shape (B, length), one generator per running number."""
    rows = [np.random.default_rng([seed, stream, n]).random(length) for n in numbers]
    return torch.from_numpy(np.stack(rows))


def draw_tokens(
    scores_BV: Tensor, uniform_B1: Tensor, temperature: float | Tensor, banned_V: Tensor | None
) -> Tensor:
    """Tokens at the uniform numbers, drawn from softmax(scores / temperature); shape (B, 1).

    Banned tokens and those that the model forbids (-inf) have no part in it. The cumulative sum
    runs in float64: float32 loses the tail of a 150k vocabulary.
    """
    logits_BV = scores_BV.double() / temperature
    if banned_V is not None:
        logits_BV = logits_BV.masked_fill(banned_V, -torch.inf)
    cdf_BV = torch.softmax(logits_BV, dim=-1).cumsum(-1)
    # Scaled by the total, so that rounding in the sum cannot put the draw beyond the end.
    draw_B1 = uniform_B1 * cdf_BV[:, -1:]
    # NaN logits draw the last token: the loss is to report them, not an index error here.
    return torch.searchsorted(cdf_BV, draw_B1, right=True).clamp(max=cdf_BV.shape[1] - 1)


def as_rollout(
    prompt_BL: Tensor,
    prompt_attention_BL: Tensor,
    completion_BT: Tensor,
    end_ids: Sequence[int],
) -> Rollout:
    """Prompts and completions put together; what follows a first end token is no answer."""
    is_end_BT = is_end(completion_BT, end_ids)
    # An answer token is one with no end token before it.
    mask_BT = (is_end_BT.long().cumsum(-1) - is_end_BT.long()) == 0
    return Rollout(
        ids_BL=torch.cat([prompt_BL, completion_BT], dim=1),
        attention_BL=torch.cat([prompt_attention_BL, mask_BT.long()], dim=1),
        mask_BT=mask_BT,
        ended_B=is_end_BT.any(-1),
    )


def is_end(ids: Tensor, end_ids: Sequence[int]) -> Tensor:
    """True on ids that end an answer; shape of `ids`."""
    return torch.isin(ids, ids.new_tensor(list(end_ids)))
