"""Answers whose text is not allowed to close, so that every offset is measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from opdcliff.calibration.modal_mass import Positions, label_states
from opdcliff.contract import Labels
from opdcliff.models import Trio, pad_left
from opdcliff.rollout import FORCED_STREAM, Rollout, sample
from opdcliff.settings import CalibrationConfig, RolloutConfig

# Quote, backslash and control characters: what does not stand in a JSON string as it is.
_NOT_GOING_ON = frozenset([*range(0x20), *b'"\\'])


def open_texts(
    states_of: Sequence[Sequence[Any | None]], labels: Labels
) -> dict[int, tuple[int, Any]]:
    """For each answer that opened a text: tokens up to the first one, and the state there.

    A token may open the text with the first part of an escape or a character; the text is open
    after the other.
    """
    opened = {}
    for b, states in enumerate(states_of):
        for t, state in enumerate(states):
            if state is not None and labels.is_open_text(state):
                opened[b] = (t, state)
                break
    return opened


def force_on(
    trio: Trio,
    natural: Rollout,
    opened: dict[int, tuple[int, Any]],
    config: CalibrationConfig,
    how: RolloutConfig,
) -> Rollout:
    """Continue each opened text for `forced_words` tokens without letting it close."""
    width = natural.ids_BL.shape[1] - natural.mask_BT.shape[1]
    rows = []
    for b, (t, _) in opened.items():
        row = natural.ids_BL[b, : width + t]
        rows.append(row[natural.attention_BL[b, : width + t].bool()].tolist())
    prompt_BL, attention_BL = pad_left(rows, trio.codec.pad_id)
    outputs = trio.base.config.get_text_config().vocab_size
    banned_V = torch.ones(outputs, dtype=torch.bool, device=trio.base.device)
    stays = [data is not None and _goes_on(data) for data in trio.codec.token_bytes]
    banned_V[: len(stays)] = ~torch.tensor(stays, device=trio.base.device)
    banned_V[list(trio.codec.end_ids)] = True
    return sample(
        trio.base,
        prompt_BL,
        attention_BL,
        numbers=list(opened),
        stream=FORCED_STREAM,
        max_new_tokens=config.forced_words,
        banned_V=banned_V,
        seed=config.seed,
        temperature=how.temperature,
        end_ids=trio.codec.end_ids,
        pad_id=trio.codec.pad_id,
        backend=how.backend,
    )


def _goes_on(data: bytes) -> bool:
    """Whether text goes on with these bytes: no quote, no escape, no control character.

    Pieces of characters go on: a text of many-byte characters could not be continued without.
    """
    return not set(data) & _NOT_GOING_ON


def forced_positions(
    forced: Rollout, opened: dict[int, tuple[int, Any]], labels: Labels
) -> Positions:
    """A forced continuation is text from offset 0 on, while its pieces spell characters."""
    states_of = []
    for (_, state), answer in zip(opened.values(), forced.answers(), strict=True):
        states_of.append(labels.states_from(state, answer))
    return label_states(states_of, forced, labels)
