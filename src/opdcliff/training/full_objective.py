"""The full estimator: the exact expectation of the policy gradient over the vocabulary.

Axes in names: B batch, T completion tokens, n some of the B*T, L prompt + completion, V vocabulary,
K kept vocabulary entries, X what a head reads (hidden states, or logits where it is not plain).
Models, log-probs and A as in `objective`. The loss is one function, of any tokens (`full_loss`);
an update takes it a chunk of tokens at a time (`ChunkObjective`), so that log-probs of the whole
vocabulary exist for one chunk only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from opdcliff.errors import ConfigError
from opdcliff.rollout import Rollout, completion_features, features_logp, has_plain_head
from opdcliff.theory import ClipRule
from opdcliff.training.forbidden import dead_entries, settle, zeroed
from opdcliff.training.objective import LossOutput, clip_weight, extrapolated_advantage
from opdcliff.training.parts import by_parts


class FoldedLogp(NamedTuple):
    """Log-probs over K kept entries and one remainder entry, from `fold_topk`."""

    student_BTK: Tensor
    teacher_BTK: Tensor
    base_BTK: Tensor | None
    index_BTK: Tensor


def full_loss(
    logp_student_BTV: Tensor,
    logp_teacher_BTV: Tensor,
    logp_base_BTV: Tensor | None,
    mask_BT: Tensor,
    *,
    lam: float,
    rule: ClipRule,
    strength: float | None,
    token_count: int,
    index_BTK: Tensor | None = None,
) -> LossOutput:
    """Loss whose gradient is the exact expectation of the sampled one over the next token.

    grad L = -(1/N) sum_t sum_a pi_S(a) w(a) A(a) grad log pi_S(a), with w from `clip_weight` for
    each vocabulary entry. The value is -(1/N) sum_t sum_a pi_S(a) w(a) A(a): at lam = 1 without
    a clip it is the reverse KL(pi_S || pi_T) per token.

    mask_BT, token_count, forbidden entries: as in `sampled_loss`. Entries may also be those of
    `fold_topk`, with its `index_BTK` for errors. For BT stands any common shape, as n of a chunk:
    the losses of the parts of a batch sum to its loss.
    Raises ConfigError: no base at lam != 1, a rule on pi_theta/pi_old.
    Raises ModelError: teacher or base forbids an entry that counts.
    Source: [M] docs/theory.md, point 13.
    """
    held_BTV = logp_student_BTV.exp()
    mass_BTV = held_BTV.detach()
    dead_BTV = dead_entries(logp_student_BTV)
    detached_BTV = zeroed(logp_student_BTV.detach(), dead_BTV)
    logp_teacher_BTV, logp_base_BTV = (
        zeroed(logp_teacher_BTV, dead_BTV),
        zeroed(logp_base_BTV, dead_BTV),
    )
    advantage_BTV = extrapolated_advantage(logp_teacher_BTV, detached_BTV, logp_base_BTV, lam)
    log_ratio_BTV = logp_teacher_BTV.detach() - detached_BTV
    weight_BTV = clip_weight(rule, strength, log_ratio_BTV)
    padding_BT = ~mask_BT.bool()
    advantage_BTV, log_ratio_BTV = settle(
        advantage_BTV,
        log_ratio_BTV,
        weight_BTV,
        logp_teacher_BTV,
        logp_base_BTV,
        ~padding_BT[..., None],
        lam=lam,
        index=None if index_BTK is None else F.pad(index_BTK, (0, 1), value=-1),
        sampled=False,
    )
    clipped_BT = (mass_BTV * (weight_BTV < 1.0)).sum(-1)
    # In place from here on: these are large, none is a caller's, and none is needed again.
    coefficient_BTV = weight_BTV.mul_(advantage_BTV).masked_fill_(padding_BT[..., None], 0.0)
    return LossOutput(
        -(coefficient_BTV * held_BTV).sum() / token_count,
        advantage_BTV.mul_(mass_BTV).sum(-1).masked_fill(padding_BT, 0.0),
        clipped_BT.masked_fill(padding_BT, 0.0),
        -log_ratio_BTV.mul_(mass_BTV).sum(-1).masked_fill(padding_BT, 0.0),
    )


def fold_topk(
    logp_student_BTV: Tensor, logp_teacher_BTV: Tensor, logp_base_BTV: Tensor | None, keep: int
) -> FoldedLogp:
    """Keep the `keep` entries with the largest pi_T + pi_S and fold the others into one.

    The last of the keep + 1 entries holds, for each model, the log of its left-over mass. From
    there on the remainder is treated as one token: one ratio, one clip decision, one advantage.
    That is exact for the kept entries, and for the remainder where the three models agree on its
    inner shape; tail tokens inside it are no longer clipped one by one.
    The student's gradient flows through the remainder too. A remainder of forbidden entries alone
    is forbidden (-inf), with a gradient of 0.
    index_BTK: vocabulary ids of the kept entries, shape [B, T, keep], largest first.
    Raises ConfigError unless 1 <= keep < V: at keep = V there is nothing to fold.
    Source: [D] docs/theory.md, point 13.
    """
    vocabulary = logp_student_BTV.shape[-1]
    if not 1 <= keep < vocabulary:
        raise ConfigError(
            f"keep={keep} of {vocabulary} vocabulary entries: allowed are 1 to {vocabulary - 1}; "
            "for the whole vocabulary call full_loss without folding"
        )
    joint_BTV = torch.logaddexp(logp_student_BTV.detach(), logp_teacher_BTV.detach())
    index_BTK = joint_BTV.topk(keep, dim=-1).indices

    def fold(logp_BTV: Tensor) -> Tensor:
        rest_BTV = logp_BTV.scatter(-1, index_BTK, -math.inf)
        # The gradient of a logsumexp over nothing is NaN, so it is taken over zeros instead.
        empty_BT1 = rest_BTV.detach().amax(-1, keepdim=True).isneginf()
        if empty_BT1.any():
            rest_BTV = rest_BTV.masked_fill(empty_BT1, 0.0)
        rest_BT1 = rest_BTV.logsumexp(-1, keepdim=True).masked_fill(empty_BT1, -math.inf)
        return torch.cat([logp_BTV.gather(-1, index_BTK), rest_BT1], dim=-1)

    base_BTK = None if logp_base_BTV is None else fold(logp_base_BTV)
    return FoldedLogp(fold(logp_student_BTV), fold(logp_teacher_BTV), base_BTK, index_BTK)


@dataclass(frozen=True)
class Frozen:
    """A frozen model over one rollout batch: what its head makes log-probs of.

    level: pads answers as the model is run on them (`Engine.level`). kept_BTX: hidden states of all
    answers; None for a model without a plain head, whose features are logits: those are made again
    for the answers at hand, and never exist for the whole batch.
    """

    model: PreTrainedModel
    level: Callable[[Rollout], Rollout]
    kept_BTX: Tensor | None

    @classmethod
    def of(
        cls,
        model: PreTrainedModel,
        rollout: Rollout,
        parts: Sequence[Tensor],
        level: Callable[[Rollout], Rollout],
    ) -> Frozen:
        """Run the backbone over the parts of a batch, if what it gives can be kept."""
        made = cls(model, level, None)
        if not has_plain_head(model):
            return made
        return replace(made, kept_BTX=by_parts(rollout, parts, made.run))

    @torch.no_grad()
    def run(self, part: Rollout) -> Tensor:
        """The model's features of some answers, shape BTX."""
        even, length = self.level(part), part.mask_BT.shape[1]
        features_BTX = completion_features(
            self.model, even.ids_BL, even.attention_BL, even.mask_BT.shape[1]
        )
        # A copy, beside which those of the prompts need not be kept.
        return features_BTX[:, :length].contiguous()

    def features(self, rows: Tensor, part: Rollout) -> Tensor:
        """The features of a part, which are these rows of the batch; shape BTX."""
        if self.kept_BTX is None:
            return self.run(part)
        return self.kept_BTX[rows, : part.mask_BT.shape[1]]


@dataclass(frozen=True)
class ChunkObjective:
    """`full_loss` of a chunk of completion tokens: a `rollout.ChunkLoss`.

    Heads and softmax of teacher and base run here, on the tokens of the chunk. base: None at
    lam = 1, which reads none. topk: entries that `fold_topk` keeps, None to fold nothing.
    temperature: that of the rollouts. The others as in `full_loss`.
    """

    teacher: PreTrainedModel
    base: PreTrainedModel | None
    temperature: float
    topk: int | None
    lam: float
    rule: ClipRule
    strength: float | None
    token_count: int

    def __call__(self, logp_nV: Tensor, *beside_n: Tensor) -> LossOutput:
        """beside_n: mask_n, features of the teacher (nX), and of the base (nX) if there is one.

        Values of `LossOutput` have shape n here. Errors as in `full_loss` and `fold_topk`.
        """
        mask_n, teacher_nX, *others_nX = beside_n
        base_nV, index_nK = None, None
        with torch.no_grad():
            teacher_nV = features_logp(self.teacher, teacher_nX, self.temperature)
            if self.base is not None:
                (base_nX,) = others_nX
                base_nV = features_logp(self.base, base_nX, self.temperature)
        if self.topk is not None:
            logp_nV, teacher_nV, base_nV, index_nK = fold_topk(
                logp_nV, teacher_nV, base_nV, self.topk
            )
        return full_loss(
            logp_nV,
            teacher_nV,
            base_nV,
            mask_n,
            lam=self.lam,
            rule=self.rule,
            strength=self.strength,
            token_count=self.token_count,
            index_BTK=index_nK,
        )
