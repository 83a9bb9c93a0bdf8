"""From a list to requests: which candidates, in which order, under which key.

The order is a function of (seed, user, repeat) alone, so that a request is the same when a call
goes on, and a candidate's place says nothing of its place in the list of a run.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from opdcliff.data import UserList
from opdcliff.grading.rubric import answer_schema, messages_of
from opdcliff.settings import GradeConfig
from opdcliff.storage import digest

LABELS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Question:
    """One request. items: the candidates, in the order of `labels`. body: what is sent.

    key: digest of endpoint, body and repeat; what was answered is found again by it.
    most_answered: the most tokens that an answer may have.
    """

    user: str
    repeat: int
    items: tuple[str, ...]
    labels: tuple[str, ...]
    body: dict[str, Any]
    schema: dict[str, Any]
    key: str
    most_answered: int

    @property
    def size(self) -> int:
        """Bytes of what is sent, as UTF-8; no tokenizer of bytes makes more tokens of them."""
        texts = [message["content"] for message in self.body["messages"]]
        extra = str(self.body.get("response_format", ""))
        return sum(len(text.encode("utf-8", "replace")) + 16 for text in texts) + len(extra)


def questions_of(
    one: UserList, rubric: str, settings: GradeConfig, *, repeat: int = 0
) -> list[Question]:
    """The requests that grade a list, each with at most `grade.candidates` of its candidates."""
    shown = list(zip(one.items, one.titles, strict=True))
    _rng(settings.seed, one.user, repeat).shuffle(shown)
    size = settings.candidates or len(shown)
    return [
        _question(one, shown[start : start + size], rubric, settings, repeat)
        for start in range(0, len(shown), size)
    ]


def rank_for_repeats(seed: int, user: str) -> int:
    """Lists of the smallest ranks are graded twice: a draw that does not depend on the others."""
    return _hash64("repeats", seed, user, 0)


def _question(
    one: UserList,
    shown: Sequence[tuple[str, str]],
    rubric: str,
    settings: GradeConfig,
    repeat: int,
) -> Question:
    labels = tuple(LABELS[: len(shown)])
    titles = [(label, title) for label, (_, title) in zip(labels, shown, strict=True)]
    schema = answer_schema(labels)
    body: dict[str, Any] = {
        "model": settings.model,
        "messages": messages_of(rubric, one.history, titles),
        "max_completion_tokens": settings.answer_tokens,
    }
    if settings.temperature is not None:
        body["temperature"] = settings.temperature
    if settings.answer_format == "schema":
        named = {"name": "grades", "strict": True, "schema": schema}
        body["response_format"] = {"type": "json_schema", "json_schema": named}
    elif settings.answer_format == "object":
        body["response_format"] = {"type": "json_object"}
    body |= settings.extra
    # Null takes a field away, which an endpoint may not know.
    body = {name: value for name, value in body.items() if value is not None}
    asked = {"endpoint": settings.base_url, "body": body, "schema": schema, "repeat": repeat}
    items = tuple(item for item, _ in shown)
    key = digest(asked, "grade-request")
    most = max(settings.answer_tokens, int(settings.extra.get("max_tokens") or 0))
    return Question(one.user, repeat, items, labels, body, schema, key, most)


def _rng(seed: int, user: str, repeat: int) -> random.Random:
    return random.Random(_hash64("order", seed, user, repeat))


def _hash64(purpose: str, seed: int, user: str, repeat: int) -> int:
    text = f"grading\n{purpose}\n{seed}\n{repeat}\n{user}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
