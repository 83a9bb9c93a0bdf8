"""Supervised fine-tuning on reference answers: it makes the teacher and the warm start."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from opdcliff.data import AnswerStyle, Example
from opdcliff.errors import ModelError
from opdcliff.models.batches import IGNORE, sft_batches
from opdcliff.models.load import positions_in
from opdcliff.models.tokens.codec import Codec
from opdcliff.settings import RoleConfig, SftConfig

# The learning rate ends at this share of its peak.
FINAL_LR_SHARE = 0.02


def answer_style(
    config: SftConfig, role: RoleConfig, *, with_reason: bool, titles: tuple[str, ...] = ()
) -> AnswerStyle:
    """The style of a role's reference answers; titles: see `AnswerStyle`."""
    return AnswerStyle(
        continue_mass=role.continue_mass,
        corrupt_rate=role.corrupt_rate,
        swap_rate=role.swap_rate,
        long_share=config.long_share,
        long_words=config.long_words,
        with_reason=with_reason,
        titles=titles,
    )


def fine_tune(
    model: PreTrainedModel,
    codec: Codec,
    examples: Sequence[Example],
    config: SftConfig,
    role: RoleConfig,
    *,
    seed: int,
    with_reason: bool,
    titles: tuple[str, ...] = (),
    advance: Callable[[int], None] = lambda step: None,
) -> float:
    """Train `model` in place on freshly drawn reference answers; returns the last step's loss.

    Minimises the mean cross-entropy of answer tokens (nats per token), with the token count taken
    over the whole batch. `advance` is told each finished step.

    Raises:
        ModelError: a gradient is NaN or infinite, or an answer is longer than the model knows;
            `model` is as the step before left it.
    """
    device = next(model.parameters()).device
    optimizer = torch.optim.AdamW(model.parameters(), lr=role.lr, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: _lr_share(step, role.steps, config.warmup_steps)
    )
    batches = sft_batches(
        codec,
        examples,
        answer_style(config, role, with_reason=with_reason, titles=titles),
        steps=role.steps,
        batch_size=config.batch_size,
        seed=seed,
    )
    model.train()
    loss = float("nan")
    for step, rows in enumerate(batches):
        _check_width(model, rows, step + 1)
        optimizer.zero_grad()
        loss = _accumulate(model, rows, codec.pad_id, device)
        norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip))
        if not math.isfinite(norm):
            raise ModelError(
                f"fine-tuning diverged at step {step + 1}: loss {loss}, gradient norm {norm}; "
                f"lower the lr of this role in sft (it is {role.lr})"
            )
        optimizer.step()
        schedule.step()
        advance(step + 1)
    model.eval()
    return loss


def _check_width(
    model: PreTrainedModel, rows: list[tuple[list[int], list[int]]], step: int
) -> None:
    # How long an answer is drawn is known only here.
    width, known = max(len(ids) for ids, _ in rows), positions_in(model.config)
    if known is not None and width > known:
        raise ModelError(
            f"a prompt with its reference answer of fine-tuning step {step} has {width} tokens and "
            f"the model knows {known} positions; lower sft.long_words, or raise "
            "model.arch.max_positions or choose a model with a longer context"
        )


def _accumulate(
    model: PreTrainedModel,
    rows: list[tuple[list[int], list[int]]],
    pad_id: int,
    device: torch.device,
) -> float:
    """Gradient of the batch's mean token loss, in two parts by length: long rows cost padding."""
    rows = sorted(rows, key=lambda row: len(row[0]))
    token_count = sum(label != IGNORE for _, labels in rows for label in labels[1:])
    split = len(rows) * 2 // 3
    total = 0.0
    for part in (rows[:split], rows[split:]):
        if part:
            loss = _summed_loss(model, part, pad_id, device) / token_count
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
    return total


def _summed_loss(
    model: PreTrainedModel,
    rows: list[tuple[list[int], list[int]]],
    pad_id: int,
    device: torch.device,
) -> Tensor:
    width = max(len(ids) for ids, _ in rows)
    ids_BL = torch.tensor([ids + [pad_id] * (width - len(ids)) for ids, _ in rows], device=device)
    labels_BL = torch.tensor(
        [labels + [IGNORE] * (width - len(labels)) for _, labels in rows], device=device
    )
    lengths_B1 = torch.tensor([[len(ids)] for ids, _ in rows], device=device)
    attention_BL = (torch.arange(width, device=device) < lengths_B1).long()
    logits_BLV = model(input_ids=ids_BL, attention_mask=attention_BL, use_cache=False).logits
    return F.cross_entropy(
        logits_BLV[:, :-1].flatten(0, 1).float(),
        labels_BL[:, 1:].flatten(),
        ignore_index=IGNORE,
        reduction="sum",
    )


def _lr_share(step: int, steps: int, warmup: int) -> float:
    rise = (step + 1) / max(1, warmup)
    fall = 1.0 - step / max(1, steps)
    return max(FINAL_LR_SHARE, min(1.0, rise, fall))
