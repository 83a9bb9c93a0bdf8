"""Modal masses: how much probability a model puts on the modal class at each answer position.

Calibration reads p (teacher) and b (base) from them; training runs log the student's q against
both. Masses are kept as logits, log(mass / tail), because p and q come close to 1.
Axes in names: B batch, T completion tokens, V vocabulary, S distinct modal sets, n one chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from opdcliff.contract import ModalSets, TokenClass, token_class
from opdcliff.data import Example
from opdcliff.rollout import Rollout, iter_full_logp

CLASSES: tuple[TokenClass, ...] = tuple(TokenClass)
CODE: dict[TokenClass, int] = {name: code for code, name in enumerate(CLASSES)}
NO_CLASS = -1


@dataclass(frozen=True)
class Positions:
    """The labelled positions of a rollout.

    class_BT: index into `CLASSES`, NO_CLASS after the answer broke or ended.
    offset_BT: running number of the position inside its class, from 0, per answer.
    set_BT: row of `modal_SV` that holds the modal set of the position.
    modal_SV: one boolean row per distinct modal set.
    """

    class_BT: Tensor
    offset_BT: Tensor
    set_BT: Tensor
    modal_SV: Tensor

    def of_class(self, name: TokenClass) -> Tensor:
        """Boolean (B, T): positions of one class."""
        return self.class_BT == CODE[name]


def label(rollout: Rollout, examples: Sequence[Example], modal_sets: ModalSets) -> Positions:
    """Class, offset and modal set of every live position of a rollout."""
    shape = tuple(rollout.mask_BT.shape)
    codes, offsets, rows = (np.full(shape, NO_CLASS, dtype=np.int64) for _ in range(3))
    sets: list[NDArray[np.bool_]] = []
    row_of: dict[int, int] = {}
    for b, (example, answer) in enumerate(zip(examples, rollout.answers(), strict=True)):
        seen = [0] * len(CLASSES)
        for t, state in enumerate(modal_sets.states(example.candidates, answer)):
            if state is None:
                break
            code = CODE[token_class(state)]
            modal = modal_sets.mask(state)
            # `mask` returns the same cached array for the same set, so its identity is a key.
            if id(modal) not in row_of:
                row_of[id(modal)] = len(sets)
                sets.append(modal)
            codes[b, t], offsets[b, t], rows[b, t] = code, seen[code], row_of[id(modal)]
            seen[code] += 1
    device = rollout.ids_BL.device
    stacked = np.stack(sets) if sets else np.zeros((1, 1), dtype=np.bool_)
    return Positions(
        *(torch.from_numpy(array).to(device) for array in (codes, offsets, rows, stacked))
    )


@torch.no_grad()
def modal_logits(
    model: PreTrainedModel,
    rollout: Rollout,
    positions: Positions,
    *,
    temperature: float,
    chunk_tokens: int,
) -> Tensor:
    """logit of the modal mass at each position, shape (B, T), NaN where there is no class.

    logit m = log sum_{modal} pi(a) - log sum_{tail} pi(a), under softmax(logits / temperature).
    -inf where the model forbids all of the modal class, inf where it forbids the whole tail: masses
    of exactly 0 and 1.
    """
    shape = positions.set_BT.shape
    set_N = positions.set_BT.flatten()
    outputs = model.config.get_text_config().vocab_size
    # A model may have more outputs than its tokenizer has entries: those are tail.
    modal_SV = torch.nn.functional.pad(
        positions.modal_SV, (0, outputs - positions.modal_SV.shape[1])
    )
    result_N = torch.full(set_N.shape, torch.nan, device=set_N.device)
    chunks = iter_full_logp(
        model,
        rollout.ids_BL,
        rollout.attention_BL,
        shape[1],
        temperature=temperature,
        chunk_tokens=chunk_tokens,
    )
    for part, logp_nV in chunks:
        live_n = set_N[part] != NO_CLASS
        modal_nV = modal_SV[set_N[part][live_n]]
        live_nV = logp_nV[live_n]
        inside = live_nV.masked_fill(~modal_nV, -torch.inf).logsumexp(-1)
        outside = live_nV.masked_fill(modal_nV, -torch.inf).logsumexp(-1)
        values_n = result_N[part].clone()
        values_n[live_n] = (inside - outside).float()
        result_N[part] = values_n
    return result_N.view(shape)
