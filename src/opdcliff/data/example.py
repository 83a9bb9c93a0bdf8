"""The one shape every data set is reduced to: a prompt, and what its answer is judged by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

CANDIDATE_LABELS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def candidate_ids(count: int) -> tuple[str, ...]:
    """The ids a prompt gives its candidates: `A`, `B`, ... in prompt order."""
    if not 2 <= count <= len(CANDIDATE_LABELS):
        raise ValueError(f"count={count}: a list needs 2 to {len(CANDIDATE_LABELS)} candidates")
    return tuple(CANDIDATE_LABELS[:count])


@dataclass(frozen=True)
class Example:
    """One problem: a ranking, or an answer of any other contract.

    prompt: text given to the model, ending where the answer begins.
    messages: (role, content) of a conversation instead; `prompt` is then a transcript of it.
    candidates: the K candidate ids in prompt order (`candidate_ids(K)`); empty where none are
        ranked.
    grades: relevance of each candidate, integers >= 0, aligned with `candidates`.
    key: stable identity of the example inside its data set (for hashing and joins).
    form: what the contract is made of for this prompt (`Contract.read_form`); empty for rankings.
    """

    prompt: str
    candidates: tuple[str, ...]
    grades: tuple[int, ...]
    key: str
    messages: tuple[tuple[str, str], ...] = ()
    form: str = ""

    def __post_init__(self) -> None:
        if len(self.candidates) != len(self.grades):
            raise ValueError(
                f"example {self.key}: {len(self.candidates)} candidates, {len(self.grades)} grades"
            )


@dataclass(frozen=True)
class Splits:
    """Disjoint parts of a data set: models see `train`, p and b `calibration`, onset `test`.

    titles: item titles that reference answers take their reasons from; empty where the reasons are
        filler words.
    """

    train: Sequence[Example]
    calibration: Sequence[Example]
    test: Sequence[Example]
    titles: tuple[str, ...] = ()

    def forms(self) -> set[str]:
        """What the contracts of all examples are made of."""
        return {e.form for part in (self.train, self.calibration, self.test) for e in part}
