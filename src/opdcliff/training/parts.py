"""Splitting a rollout batch into parts of answers of like length, so that little padding is run.

Axes in names: B batch, L prompt + completion, T completion tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from opdcliff.rollout import Rollout

# What a part costs beside its tokens, in tokens: the passes over a tiny model take so much longer
# when they are split [M: docs/performance.md]. Large models feel less of it, and lose nothing much.
PART_TOKENS = 512


def like_lengths(lengths: Sequence[int], most: int, *, overhead: int) -> list[list[int]]:
    """Rows in parts of at most `most`, that cost least in all: rows x longest + overhead a part.

    Parts hold rows of neighbouring length, the shortest first; rows of a part keep their order.
    """
    order = sorted(range(len(lengths)), key=lambda row: (lengths[row], row))
    # best[n]: least cost of the n shortest rows, and where their last part starts.
    best: list[tuple[int, int]] = [(0, 0)]
    for end in range(1, len(order) + 1):
        longest = lengths[order[end - 1]]
        starts = range(max(0, end - most), end)
        best.append(min((best[at][0] + (end - at) * longest + overhead, at) for at in starts))
    parts, end = [], len(order)
    while end:
        start = best[end][1]
        parts.append(sorted(order[start:end]))
        end = start
    return parts[::-1]


def parts_of(rollout: Rollout, most: int, *, ranks: int) -> list[Tensor]:
    """The parts of a rollout batch as row numbers, each of at most `most` rows.

    With several ranks every part but the last has `most` rows: all ranks must make as many passes,
    over as many rows, or one would wait for ever for the others in a collective.
    """
    left = rollout.attention_BL.shape[1] - rollout.mask_BT.shape[1]
    prompt_B = rollout.attention_BL[:, :left].sum(-1)
    lengths = (prompt_B + rollout.mask_BT.sum(-1)).tolist()
    if ranks == 1:
        parts = like_lengths(lengths, most, overhead=PART_TOKENS)
    else:
        order = sorted(range(len(lengths)), key=lambda row: (lengths[row], row))
        parts = [sorted(order[at : at + most]) for at in range(0, len(order), most)]
    return [torch.tensor(rows, device=rollout.ids_BL.device) for rows in parts]


def by_parts(
    rollout: Rollout, parts: Sequence[Tensor], score: Callable[[Rollout], Tensor]
) -> Tensor:
    """What `score` gives for each part (BT or BTX), put together for the batch; 0 elsewhere."""
    if len(parts) == 1:
        return score(rollout)
    whole: Tensor | None = None
    for rows in parts:
        values = score(cut(rollout, rows))
        if whole is None:
            whole = values.new_zeros(*rollout.mask_BT.shape, *values.shape[2:])
        whole[rows, : values.shape[1]] = values
    assert whole is not None, "a batch has rows"
    return whole


def unchanged(rollout: Rollout) -> Rollout:
    """The rollout as it is: for models that no other rank waits for."""
    return rollout


def cut(rollout: Rollout, rows: Tensor) -> Rollout:
    """These rows without the columns that are padding in all of them, on either side."""
    attention_BL, mask_BT = rollout.attention_BL[rows], rollout.mask_BT[rows]
    width = attention_BL.shape[1] - mask_BT.shape[1]
    left = width - int(attention_BL[:, :width].sum(-1).max())
    length = int(mask_BT.sum(-1).max())
    return Rollout(
        rollout.ids_BL[rows, left : width + length],
        attention_BL[:, left : width + length],
        mask_BT[:, :length],
        rollout.ended_B[rows],
        rollout.compiled,
        None if rollout.logp_BT is None else rollout.logp_BT[rows, :length],
    )
