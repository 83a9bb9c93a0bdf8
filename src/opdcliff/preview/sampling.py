"""Sampling answers of the settled student: teacher and base decode in step, mixed at every token.

All rows go through both models at once, whatever their lambda and clip, so a whole curve costs two
decodes. Draws are those of `rollout`: at lambda = 1 without a clip the answers are the teacher's
own, token by token.

Axes in names: R rows that still run, V vocabulary, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache

from opdcliff.preview.settled import settled
from opdcliff.rollout import Rollout, as_rollout, draw_tokens, is_end
from opdcliff.theory import ClipRule

# Rows are dropped once half of those that are left have ended, down to so many.
_LEAST_ROWS = 4


@dataclass(frozen=True)
class SettledAnswers:
    """Answers of the settled student, and what was gone on their way.

    lost_BT: the teacher's mass on entries that are gone, at each token that was drawn. gone_BT: the
    entry of them that the teacher gives most; -1 where none is gone. kl_BT: log-prob of each drawn
    token less the teacher's, whose mean is the KL to the teacher, nats a token. 0 behind the end.
    """

    rollout: Rollout
    lost_BT: Tensor
    gone_BT: Tensor
    kl_BT: Tensor

    def rows(self, part: slice) -> SettledAnswers:
        """Those of some rows."""
        whole = self.rollout
        rollout = Rollout(
            whole.ids_BL[part], whole.attention_BL[part], whole.mask_BT[part], whole.ended_B[part]
        )
        return SettledAnswers(rollout, self.lost_BT[part], self.gone_BT[part], self.kl_BT[part])


@torch.no_grad()
def sample_settled(
    teacher: PreTrainedModel,
    base: PreTrainedModel,
    prompt_BL: Tensor,
    attention_BL: Tensor,
    *,
    lam_B1: Tensor,
    strength_B1: Tensor,
    rule: ClipRule,
    margin: float,
    rare: float = 0.0,
    uniform_BT: Tensor,
    temperature: float,
    end_ids: Sequence[int],
    pad_id: int,
    advance: Callable[[int], None] = lambda steps: None,
) -> SettledAnswers:
    """One answer per row, until all have ended or the uniform numbers are used up.

    prompt_BL, attention_BL: left-padded; where there are more rows of lam_B1, the prompts are those
    of each block of as many rows, and are read once. lam_B1, strength_B1, rare: see `settled`.
    advance: told the steps made. The models are left in the mode they were in.
    """
    device = next(teacher.parameters()).device
    rows, limit = uniform_BT.shape
    modes = [(model, model.training) for model in (teacher, base)]
    for model, _ in modes:
        model.eval()
    blocks = rows // len(prompt_BL)
    state = _Rows(
        torch.arange(rows, device=device),
        prompt_BL.to(device),
        attention_BL.to(device),
        blocks,
        lam_B1.to(device, torch.float64),
        strength_B1.to(device, torch.float64),
        (DynamicCache(), DynamicCache()),
    )
    uniform_BT = uniform_BT.to(device)
    completion_BT = prompt_BL.new_full((rows, limit), pad_id).to(device)
    lost_BT = torch.zeros(rows, limit, device=device)
    gone_BT = torch.full((rows, limit), -1, dtype=torch.long, device=device)
    kl_BT = torch.zeros(rows, limit, device=device)
    try:
        for step in range(limit):
            teacher_RV, base_RV = state.read((teacher, base), temperature)
            settled_RV, absent_RV = settled(
                teacher_RV,
                base_RV,
                state.lam_R1,
                rule=rule,
                strength_R1=state.strength_R1,
                margin=margin,
                rare=rare,
            )
            drawn_R1 = draw_tokens(settled_RV, uniform_BT[state.row_R, step, None], 1.0, None)
            mass_RV = teacher_RV.exp() * absent_RV
            running_R1 = ~state.ended_R1
            lost_BT[state.row_R, step] = (mass_RV.sum(-1) * running_R1[:, 0]).float()
            most_R = torch.where(absent_RV.any(-1) & running_R1[:, 0], mass_RV.argmax(-1), -1)
            gone_BT[state.row_R, step] = most_R
            surer_R1 = settled_RV.gather(-1, drawn_R1) - teacher_RV.gather(-1, drawn_R1)
            kl_BT[state.row_R, step] = (surer_R1 * running_R1)[:, 0].float()
            drawn_R1 = torch.where(running_R1, drawn_R1, pad_id)
            completion_BT[state.row_R, step] = drawn_R1[:, 0]
            advance(step + 1)
            if state.take(drawn_R1, end_ids):
                break
    finally:
        for model, training in modes:
            model.train(training)
    done = step + 1
    rollout = as_rollout(
        prompt_BL.repeat(blocks, 1).to(device),
        attention_BL.repeat(blocks, 1).to(device),
        completion_BT[:, :done],
        end_ids,
    )
    return SettledAnswers(rollout, lost_BT[:, :done], gone_BT[:, :done], kl_BT[:, :done])


class _Rows:
    """The rows that still run: what the models read next, and what they keep."""

    def __init__(
        self,
        row_R: Tensor,
        ids_RL: Tensor,
        attention_RL: Tensor,
        blocks: int,
        lam_R1: Tensor,
        strength_R1: Tensor,
        caches: tuple[DynamicCache, DynamicCache],
    ) -> None:
        self.row_R, self.lam_R1, self.strength_R1 = row_R, lam_R1, strength_R1
        self.ended_R1 = torch.zeros_like(lam_R1, dtype=torch.bool)
        self._next_RL, self._attention_RL, self._caches = ids_RL, attention_RL, caches
        self._blocks = blocks

    def read(
        self, models: tuple[PreTrainedModel, PreTrainedModel], temperature: float
    ) -> tuple[Tensor, Tensor]:
        """Log-probs of the next token under both models, shape RV, float64."""
        length = self._next_RL.shape[1]
        places_RL = (self._attention_RL.long().cumsum(-1) - 1).clamp(min=0)[:, -length:]
        logp = []
        for model, cache in zip(models, self._caches, strict=True):
            out = model(
                input_ids=self._next_RL,
                attention_mask=self._attention_RL,
                position_ids=places_RL,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            logp.append(torch.log_softmax(out.logits[:, -1].double() / temperature, dim=-1))
        if self._blocks > 1:
            logp = [each.repeat(self._blocks, 1) for each in logp]
            self._spread()
        return logp[0], logp[1]

    def _spread(self) -> None:
        """From here on every block has its own copy of what was read of the prompts."""
        prompts = torch.arange(len(self._attention_RL), device=self.row_R.device)
        self._attention_RL = self._attention_RL.repeat(self._blocks, 1)
        for cache in self._caches:
            cache.batch_select_indices(prompts.repeat(self._blocks))
        self._blocks = 1

    def take(self, drawn_R1: Tensor, end_ids: Sequence[int]) -> bool:
        """Append the drawn tokens; drop ended rows now and then. True once all have ended."""
        self.ended_R1 = self.ended_R1 | is_end(drawn_R1, end_ids)
        self._next_RL = drawn_R1
        self._attention_RL = torch.cat(
            [self._attention_RL, self._attention_RL.new_ones(len(drawn_R1), 1)], dim=1
        )
        running = (~self.ended_R1[:, 0]).nonzero()[:, 0]
        if not len(running):
            return True
        if 2 * len(running) <= len(self.row_R) and len(self.row_R) > _LEAST_ROWS:
            for name in ("row_R", "lam_R1", "strength_R1", "ended_R1", "_next_RL", "_attention_RL"):
                setattr(self, name, getattr(self, name)[running])
            for cache in self._caches:
                cache.batch_select_indices(running)
        return False
