"""What grading costs: an estimate before, what was spent, and a stop before a limit is passed.

Before a request is sent, the most that it can cost is set aside: its bytes as tokens (at most as
many tokens as bytes, and after the first replies what those took per byte, and a quarter more), and
`grade.answer_tokens` of answer. What it did cost takes that place when the reply is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from opdcliff.grading.cache import Entry
from opdcliff.grading.questions import Question

_MILLION = 1_000_000
# For the estimate before anything was sent: about what titles in English take, and an answer.
_BYTES_PER_TOKEN = 4.0
_ANSWER_PER_CANDIDATE, _ANSWER_FRAME = 5, 3
_MARGIN = 1.25


@dataclass(frozen=True)
class Tokens:
    """Tokens sent and answered."""

    sent: int = 0
    answered: int = 0

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(self.sent + other.sent, self.answered + other.answered)


@dataclass(frozen=True)
class Prices:
    """Price of a million tokens sent and answered; None where a price is not known."""

    sent: float | None
    answered: float | None

    def cost(self, tokens: Tokens) -> float | None:
        """What tokens cost; None where a price is not known."""
        if self.sent is None or self.answered is None:
            return None
        return (tokens.sent * self.sent + tokens.answered * self.answered) / _MILLION

    def words(self, tokens: Tokens) -> str:
        """The cost in words."""
        cost = self.cost(tokens)
        return "cost not known (no prices)" if cost is None else f"cost {cost:.4g}"


def estimate(questions: Sequence[Question]) -> Tokens:
    """About what these requests will take: a guess from bytes, not a bound."""
    answered = sum(_ANSWER_PER_CANDIDATE * len(q.labels) + _ANSWER_FRAME for q in questions)
    return Tokens(round(sum(q.size for q in questions) / _BYTES_PER_TOKEN), answered)


def spent_on(entries: Iterable[Entry]) -> Tokens:
    """Tokens of replies, lost attempts included."""
    return sum(
        (Tokens(e.tokens_in + e.lost_in, e.tokens_out + e.lost_out) for e in entries), Tokens()
    )


class Budget:
    """What may still be spent. limit: None for any amount; else prices are known."""

    def __init__(self, prices: Prices, limit: float | None, spent: Tokens) -> None:
        self._prices, self._limit = prices, limit
        self.spent = spent
        self._aside: dict[str, Tokens] = {}
        self._per_byte: float | None = None

    def most(self, question: Question) -> Tokens:
        """The most tokens that a request can take."""
        per_byte = 1.0 if self._per_byte is None else min(1.0, self._per_byte * _MARGIN)
        return Tokens(int(question.size * per_byte) + 1, question.most_answered)

    def set_aside(self, question: Question) -> bool:
        """Whether the request fits under the limit with all that is under way; if so, count it."""
        most = self.most(question)
        if self._limit is not None:
            total = sum(self._aside.values(), self.spent + most)
            cost = self._prices.cost(total)
            if cost is None or cost > self._limit:
                return False
        self._aside[question.key] = most
        return True

    @property
    def under_way(self) -> bool:
        """Whether anything is set aside that may come back as less."""
        return bool(self._aside)

    def settle(self, question: Question, entry: Entry) -> None:
        """Put what a request took in the place of what was set aside."""
        self._aside.pop(question.key, None)
        self.spent += spent_on([entry])
        if not entry.assumed and entry.tokens_in:
            self._per_byte = max(self._per_byte or 0.0, entry.tokens_in / question.size)

    def release(self, question: Question) -> None:
        """Forget a request that was not sent after all."""
        self._aside.pop(question.key, None)
