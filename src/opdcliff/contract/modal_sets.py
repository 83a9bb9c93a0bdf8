"""The modal set of a position over a vocabulary: which next tokens keep an answer on its way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from opdcliff.contract.parse import Contract
from opdcliff.contract.token_classes import (
    PrefixState,
    TokenClass,
    advance,
    is_complete,
    live_states,
    token_class,
)


class ModalSets:
    """For a vocabulary, the tokens that belong to the modal class at a state.

    text: tokens that keep the string open; its tail closes the string or breaks the answer.
    eos: EOS alone. All others: tokens after which the prefix is still live (`advance`).

    token_texts: decoded text of every token id; None or "" for special and unused ids, which are
    never modal but for EOS. A piece of a multi-byte character (decoded as U+FFFD) counts as text.
    """

    def __init__(self, contract: Contract, token_texts: Sequence[str | None], eos_id: int) -> None:
        self._contract = contract
        self.texts = [None if i == eos_id else text or None for i, text in enumerate(token_texts)]
        self._eos_id = eos_id
        self._masks: dict[PrefixState, NDArray[np.bool_]] = {}
        self._by_first: dict[str, list[int]] = {}
        for token_id, text in enumerate(self.texts):
            if text is not None:
                self._by_first.setdefault(text[0], []).append(token_id)

    def states(
        self, candidates: Sequence[str], token_ids: Sequence[int]
    ) -> list[PrefixState | None]:
        """`live_states` of an answer given as token ids; a special token ends it.

        So does an id beyond the tokenizer: some models have more outputs than entries.
        """
        known = len(self.texts)
        texts = [self.texts[i] if i < known else None for i in token_ids]
        return live_states(self._contract, candidates, texts)

    def mask(self, state: PrefixState) -> NDArray[np.bool_]:
        """Modal set at `state`: read-only booleans, shape [vocabulary]; computed once per state."""
        key = _cache_key(state)
        if key not in self._masks:
            self._masks[key] = self._compute(key)
        return self._masks[key]

    def _compute(self, state: PrefixState) -> NDArray[np.bool_]:
        mask = np.zeros(len(self.texts), dtype=np.bool_)
        mask[self._eos_id] = self._is_modal(state, self._eos_id)
        # Tokens with one first character live or die together on it: most groups end here.
        for first, token_ids in self._by_first.items():
            if advance(state, first) is not None:
                mask[token_ids] = [self._is_modal(state, token_id) for token_id in token_ids]
        mask.flags.writeable = False
        return mask

    def _is_modal(self, state: PrefixState, token_id: int) -> bool:
        text = self.texts[token_id]
        if text is None:
            return token_id == self._eos_id and is_complete(state)
        after = advance(state, text)
        if after is None:
            return False
        return token_class(state) is not TokenClass.TEXT or token_class(after) is TokenClass.TEXT


def _cache_key(state: PrefixState) -> PrefixState:
    """The state, or for class text its escape situation alone: staying in the string needs no more.

    Sound because the string, once left, is never entered again.
    """
    if token_class(state) is not TokenClass.TEXT:
        return state
    return replace(state, keys_left=frozenset(), ids_left=frozenset())
