"""What a contract says of the positions of an answer: class, place in the value, modal set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from opdcliff.contract.token_classes import TokenClass
from opdcliff.contract.verdict import Asked


@dataclass(frozen=True)
class Place:
    """Where a position stands.

    path: of the value it belongs to, `$.items[*].name`; empty for rankings, whose classes have one
    place each. part: which of several like it in one answer, so that offsets begin anew in each.
    """

    token_class: TokenClass
    path: str = ""
    part: str = ""

    @property
    def name(self) -> str:
        """Class and path, as tables have them."""
        return f"{self.token_class.value} {self.path}".strip()


@dataclass(frozen=True, eq=False)
class Modal:
    """The modal set of a position.

    members: rising token ids, read-only; one array per set while it is kept. tail_needed: whether
    an accepted answer needs what is not in it (docs/theory.md, points 11 and 23).
    """

    members: NDArray[np.int64]
    tail_needed: bool


class Labels(Protocol):
    """Labels of answers that are given as token ids. A state stands for a live prefix."""

    def states_of(self, asked: Asked, token_ids: Sequence[int]) -> list[Any]:
        """The state before each token; None once the prefix is dead or has ended."""
        ...

    def states_from(self, state: Any, token_ids: Sequence[int]) -> list[Any]:
        """`states_of` what follows a prefix at `state`."""
        ...

    def place(self, state: Any) -> Place:
        """Class and place of the position that follows the prefix."""
        ...

    def modal(self, state: Any) -> Modal:
        """Its modal set."""
        ...

    def is_complete(self, state: Any) -> bool:
        """Whether the prefix is a whole answer."""
        ...

    def is_open_text(self, state: Any) -> bool:
        """Whether the prefix ends inside free text that has no bound, between whole characters."""
        ...

    @property
    def follows_all(self) -> bool:
        """Whether every accepted answer is live to its end, in whatever way it is written."""
        ...
