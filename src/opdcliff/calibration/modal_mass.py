"""Modal masses: how much probability a model puts on the modal class at each answer position.

Calibration reads p (teacher) and b (base) from them; training runs log the student's q against
both. Masses are kept as logits, log(mass / tail), because p and q come close to 1.
Axes in names: B batch, T completion tokens, V vocabulary, S distinct modal sets, n one chunk.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from opdcliff.contract import Labels, Place, TokenClass
from opdcliff.data import Example
from opdcliff.rollout import Rollout, iter_full_logp

CLASSES: tuple[TokenClass, ...] = tuple(TokenClass)
CODE: dict[TokenClass, int] = {name: code for code, name in enumerate(CLASSES)}
NO_CLASS = -1


@dataclass(frozen=True)
class Positions:
    """The labelled positions of a rollout.

    class_BT: index into `CLASSES`, NO_CLASS after the answer broke or ended.
    offset_BT: running number of the position inside its place, from 0, per answer.
    set_BT: which of `sets` is the modal set of the position.
    tail_BT: whether an accepted answer needs what is not in its set.
    place_BT: which of `places` it has: a class, and where the answer is no ranking its path.
    sets: token ids of each distinct modal set; masks over the vocabulary are made from them for a
        few positions at a time.
    """

    class_BT: Tensor
    offset_BT: Tensor
    set_BT: Tensor
    tail_BT: Tensor
    place_BT: Tensor
    sets: Sequence[NDArray[np.int64]]
    places: Sequence[str]

    def of_class(self, name: TokenClass) -> Tensor:
        """Boolean (B, T): positions of one class."""
        return self.class_BT == CODE[name]


def answer_states(
    rollout: Rollout, examples: Sequence[Example], labels: Labels
) -> list[list[Any | None]]:
    """The state before each token of every answer; None where it is dead or has ended."""
    return [
        labels.states_of(example, answer)
        for example, answer in zip(examples, rollout.answers(), strict=True)
    ]


def label_classes(rollout: Rollout, examples: Sequence[Example], labels: Labels | None) -> Tensor:
    """`class_BT` of `label` alone, which takes no modal set: what an update needs to log.

    NO_CLASS everywhere for a contract without classes.
    """
    codes = np.full(tuple(rollout.mask_BT.shape), NO_CLASS, dtype=np.int64)
    if labels is None:
        return torch.from_numpy(codes).to(rollout.ids_BL.device)
    for b, states in enumerate(answer_states(rollout, examples, labels)):
        for t, state in enumerate(states):
            if state is None:
                break
            codes[b, t] = CODE[labels.place(state).token_class]
    return torch.from_numpy(codes).to(rollout.ids_BL.device)


def label(rollout: Rollout, examples: Sequence[Example], labels: Labels) -> Positions:
    """Class, place, offset and modal set of every live position of a rollout."""
    return label_states(answer_states(rollout, examples, labels), rollout, labels)


def label_states(
    states_of: Sequence[Sequence[Any | None]], rollout: Rollout, labels: Labels
) -> Positions:
    """`label` of answers whose states are known: one list for every row of `rollout`."""
    shape = tuple(rollout.mask_BT.shape)
    codes, offsets, rows, where = (np.full(shape, NO_CLASS, dtype=np.int64) for _ in range(4))
    tails = np.zeros(shape, dtype=np.bool_)
    sets: list[NDArray[np.int64]] = []
    row_of: dict[int, int] = {}
    places: dict[str, int] = {}
    for b, states in enumerate(states_of):
        seen: Counter[Place] = Counter()
        for t, state in enumerate(states):
            if state is None:
                break
            place, modal = labels.place(state), labels.modal(state)
            # One array stands for one set while `sets` holds on to it, so its identity is a key.
            if id(modal.members) not in row_of:
                row_of[id(modal.members)] = len(sets)
                sets.append(modal.members)
            codes[b, t], rows[b, t] = CODE[place.token_class], row_of[id(modal.members)]
            offsets[b, t], tails[b, t] = seen[place], modal.tail_needed
            where[b, t] = places.setdefault(place.name, len(places))
            seen[place] += 1
    device = rollout.ids_BL.device
    class_BT, offset_BT, set_BT, tail_BT, place_BT = (
        torch.from_numpy(array).to(device) for array in (codes, offsets, rows, tails, where)
    )
    return Positions(class_BT, offset_BT, set_BT, tail_BT, place_BT, sets, [*places])


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
        live_nV = logp_nV[live_n]
        modal_nV = _modal_masks(positions.sets, set_N[part][live_n], live_nV)
        inside = live_nV.masked_fill(~modal_nV, -torch.inf).logsumexp(-1)
        outside = live_nV.masked_fill(modal_nV, -torch.inf).logsumexp(-1)
        values_n = result_N[part].clone()
        values_n[live_n] = (inside - outside).float()
        result_N[part] = values_n
    return result_N.view(shape)


def _modal_masks(sets: Sequence[NDArray[np.int64]], set_n: Tensor, like_nV: Tensor) -> Tensor:
    """Boolean (n, V): the modal set of each position. Outputs beyond the tokenizer are tail."""
    used, row_n = torch.unique(set_n, return_inverse=True)
    mask_UV = torch.zeros(len(used), like_nV.shape[-1], dtype=torch.bool, device=like_nV.device)
    for row, number in zip(mask_UV, used.tolist(), strict=True):
        # Copied, as a tensor cannot share a read-only array.
        row[torch.from_numpy(sets[number].copy()).to(row.device)] = True
    return mask_UV[row_n]
