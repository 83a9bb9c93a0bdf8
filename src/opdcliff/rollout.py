"""Sampling answers with Hugging Face `generate`, reproducibly for any batching.

Every row brings its own uniform numbers, drawn from (seed, stream, running number of the prompt);
a token is the inverse of the cumulative distribution at its number. So an answer depends on the
model, the prompt and those numbers alone: not on the other rows, the ranks or a global generator,
and a resumed run samples what an uninterrupted one would. In bfloat16 the logits themselves vary
with the shape of the batch, so there it takes the same batches for the same answers [M].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
)

# Streams keep training, evaluation and calibration samples apart under one seed.
TRAIN_STREAM, EVALUATION_STREAM, CALIBRATION_STREAM, FORCED_STREAM = 11, 12, 13, 14


@dataclass(frozen=True)
class Rollout:
    """Sampled answers, aligned at their first token.

    ids_BL: prompt (left-padded) and answer (right-padded); attention_BL: 1 on real tokens.
    mask_BT: 1 on answer tokens, the end token included; T is the longest answer of the batch.
    ended_B: whether the answer reached the end token.
    """

    ids_BL: Tensor
    attention_BL: Tensor
    mask_BT: Tensor
    ended_B: Tensor

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


class InverseCdfSampler(LogitsProcessor):  # type: ignore[misc]
    """Turns greedy decoding into sampling: all but the drawn token are set to -inf.

    Draws from softmax(logits / temperature), optionally without the `banned` tokens. The
    cumulative sum runs in float64: float32 loses the tail of a 150k vocabulary.
    """

    def __init__(
        self, uniform_BT: Tensor, prompt_length: int, temperature: float, banned_V: Tensor | None
    ) -> None:
        self._uniform_BT = uniform_BT
        self._prompt_length = prompt_length
        self._temperature = temperature
        self._banned_V = banned_V

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        step = input_ids.shape[1] - self._prompt_length
        logits_BV = scores.double() / self._temperature
        if self._banned_V is not None:
            logits_BV = logits_BV.masked_fill(self._banned_V, -torch.inf)
        cdf_BV = torch.softmax(logits_BV, dim=-1).cumsum(-1)
        # Scaled by the total, so that rounding in the sum cannot put the draw beyond the end.
        draw_B1 = self._uniform_BT[:, step : step + 1] * cdf_BV[:, -1:]
        # NaN logits draw the last token: the loss is to report them, not an index error here.
        token_B1 = torch.searchsorted(cdf_BV, draw_B1, right=True).clamp(max=cdf_BV.shape[1] - 1)
        return torch.full_like(scores, -torch.inf).scatter(1, token_B1, 0.0)


@torch.no_grad()
def sample(
    model: PreTrainedModel,
    prompt_BL: Tensor,
    attention_BL: Tensor,
    *,
    numbers: Sequence[int],
    seed: int,
    stream: int,
    max_new_tokens: int,
    temperature: float,
    tokenizer: Any,
    banned_V: Tensor | None = None,
) -> Rollout:
    """Sample one answer per prompt until all have ended or `max_new_tokens` is reached.

    The model's own generation settings (top-k, top-p, temperature) are not used: the answers must
    come from the distribution they are scored under. The model's training mode is restored.
    """
    device = next(model.parameters()).device
    uniform_BT = uniforms(numbers, max_new_tokens, seed, stream).to(device)
    sampler = InverseCdfSampler(uniform_BT, prompt_BL.shape[1], temperature, banned_V)
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        use_cache=True,
    )
    was_training = model.training
    model.eval()
    # `generate` reads defaults from the model's own generation config; ours must win in full.
    own, model.generation_config = model.generation_config, settings
    try:
        ids_BL = model.generate(
            prompt_BL.to(device),
            attention_mask=attention_BL.to(device),
            generation_config=settings,
            logits_processor=LogitsProcessorList([sampler]),
        )
    finally:
        model.generation_config = own
        model.train(was_training)
    return _as_rollout(ids_BL, attention_BL.to(device), tokenizer.eos_token_id)


def _as_rollout(ids_BL: Tensor, prompt_attention_BL: Tensor, eos_id: int) -> Rollout:
    completion_BT = ids_BL[:, prompt_attention_BL.shape[1] :]
    is_end_BT = completion_BT == eos_id
    # An answer token is one with no end token before it.
    mask_BT = (is_end_BT.long().cumsum(-1) - is_end_BT.long()) == 0
    return Rollout(
        ids_BL=ids_BL,
        attention_BL=torch.cat([prompt_attention_BL, mask_BT.long()], dim=1),
        mask_BT=mask_BT,
        ended_B=is_end_BT.any(-1),
    )
