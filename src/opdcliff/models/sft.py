"""Supervised fine-tuning on reference answers: it makes the teacher and the warm start."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from opdcliff.data import AnswerStyle, Example
from opdcliff.errors import ModelError
from opdcliff.models.batches import IGNORE, Rows, sft_batches
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


@dataclass(frozen=True)
class Descent:
    """AdamW whose learning rate rises over `warmup_steps` and then falls over the rest.

    advice: what to do if it diverges. micro_batch: rows of a pass; None makes two passes of a
    batch, by length.
    """

    steps: int
    lr: float
    warmup_steps: int
    weight_decay: float
    grad_clip: float
    advice: str
    micro_batch: int | None = None


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

    `advance` is told each finished step.

    Raises:
        ModelError: a gradient is NaN or infinite, or an answer is longer than the model knows;
            `model` is as the step before left it.
    """
    batches = sft_batches(
        codec,
        examples,
        answer_style(config, role, with_reason=with_reason, titles=titles),
        steps=role.steps,
        batch_size=config.batch_size,
        seed=seed,
    )
    how = Descent(
        steps=role.steps,
        lr=role.lr,
        warmup_steps=config.warmup_steps,
        weight_decay=config.weight_decay,
        grad_clip=config.grad_clip,
        advice=f"lower the lr of this role in sft (it is {role.lr})",
        micro_batch=config.micro_batch,
    )
    checked = (_fitting(model, rows, step) for step, rows in enumerate(batches, start=1))
    return descend(model, codec.pad_id, checked, how, advance)


def descend(
    model: PreTrainedModel,
    pad_id: int,
    batches: Iterable[Rows],
    how: Descent,
    advance: Callable[[int], None],
) -> float:
    """Train what of `model` takes a gradient, in place; returns the last step's loss.

    Minimises the mean cross-entropy of answer tokens (nats per token), with the token count taken
    over the whole batch. `advance` is told each finished step.

    Raises:
        ModelError: a gradient is NaN or infinite; `model` is as the step before left it.
    """
    device = next(model.parameters()).device
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=how.lr, weight_decay=how.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: _lr_share(step, how.steps, how.warmup_steps)
    )
    model.train()
    loss = float("nan")
    for step, rows in enumerate(batches):
        optimizer.zero_grad()
        loss = _accumulate(model, rows, pad_id, device, how.micro_batch)
        norm = float(torch.nn.utils.clip_grad_norm_(trained, how.grad_clip))
        if not math.isfinite(norm):
            raise ModelError(
                f"fine-tuning diverged at step {step + 1}: loss {loss}, gradient norm {norm}; "
                f"{how.advice}"
            )
        optimizer.step()
        schedule.step()
        advance(step + 1)
    model.eval()
    return loss


@torch.no_grad()
def mean_loss(model: PreTrainedModel, rows: Rows, pad_id: int, micro_batch: int) -> float:
    """Mean cross-entropy of all answer tokens of `rows`, nats per token, without a gradient."""
    device = next(model.parameters()).device
    parts = _parts(rows, micro_batch)
    total = sum(_summed_loss(model, part, pad_id, device).item() for part in parts)
    return total / loss_tokens(rows)


def loss_tokens(rows: Rows) -> int:
    """Tokens of `rows` that carry loss; a first one has nothing before it to be predicted from."""
    return sum(label != IGNORE for _, labels in rows for label in labels[1:])


def _fitting(model: PreTrainedModel, rows: Rows, step: int) -> Rows:
    # How long an answer is drawn is known only here.
    width, known = max(len(ids) for ids, _ in rows), positions_in(model.config)
    if known is not None and width > known:
        raise ModelError(
            f"a prompt with its reference answer of fine-tuning step {step} has {width} tokens and "
            f"the model knows {known} positions; lower sft.long_words, or raise "
            "model.arch.max_positions or choose a model with a longer context"
        )
    return rows


def _accumulate(
    model: PreTrainedModel,
    rows: Rows,
    pad_id: int,
    device: torch.device,
    micro_batch: int | None = None,
) -> float:
    """Gradient of the batch's mean token loss, in parts by length: long rows cost padding."""
    token_count = loss_tokens(rows)
    total = 0.0
    for part in _parts(rows, micro_batch):
        loss = _summed_loss(model, part, pad_id, device) / token_count
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    return total


def _parts(rows: Rows, micro_batch: int | None) -> list[Rows]:
    rows = sorted(rows, key=lambda row: len(row[0]))
    if micro_batch is not None:
        return [rows[i : i + micro_batch] for i in range(0, len(rows), micro_batch)]
    split = len(rows) * 2 // 3
    return [part for part in (rows[:split], rows[split:]) if part]


def _summed_loss(
    model: PreTrainedModel,
    rows: Rows,
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
