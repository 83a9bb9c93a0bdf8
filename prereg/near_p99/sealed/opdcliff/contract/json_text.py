"""The one JSON value that a text consists of, read without any repair."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from opdcliff.contract.verdict import FailureCode

JSON_WHITESPACE = " \t\n\r"

# Far above any answer that fits a token budget; it keeps the time to refuse a runaway small.
MAX_CHARS = 100_000

# The string branch is possessive and may end without its quote, so the scan stays linear.
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]', re.DOTALL)
_SURROGATE = re.compile("[\ud800-\udfff]")


class Oddity(Enum):
    """What JSON text may hold and no contract takes."""

    REPEATED_KEY = auto()
    NOT_FINITE = auto()


@dataclass(frozen=True)
class Read:
    """A JSON value with the oddities that were met in it."""

    value: Any
    oddities: frozenset[Oddity]


@dataclass(frozen=True)
class _Decoded:
    read: Read
    end: int


def holds_surrogate(text: str) -> bool:
    """Whether a text holds what UTF-8 cannot encode, as broken bytes of an answer do."""
    return _SURROGATE.search(text) is not None


def read_only_value(text: str, *, max_depth: int, numbers: bool) -> Read | FailureCode:
    """The one JSON value that `text` consists of, or the code that stands in its way.

    numbers: whether they are converted; else each is 0, and none is too large. A number beyond
    the range of double precision is not finite.
    """
    if len(text) > MAX_CHARS or holds_surrogate(text):
        return FailureCode.NOT_JSON
    start = len(text) - len(text.lstrip(JSON_WHITESPACE))
    decoded = _decode(text, start, max_depth, numbers)
    if decoded is None:
        brace = text.find("{", start + 1)
        wrapped = brace >= 0 and _decode(text, brace, max_depth, numbers) is not None
        return FailureCode.EXTRA_TEXT if wrapped else FailureCode.NOT_JSON
    if (start, decoded.end) != (0, len(text)):
        return FailureCode.EXTRA_TEXT
    return decoded.read


def _decode(text: str, start: int, max_depth: int, numbers: bool) -> _Decoded | None:
    """The JSON value that begins exactly at `start`, or None if there is no complete one."""
    if _too_deep(text, start, max_depth):
        return None
    oddities: set[Oddity] = set()

    def build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        built = dict(pairs)
        if len(built) < len(pairs):
            oddities.add(Oddity.REPEATED_KEY)
        return built

    def not_finite(_literal: str) -> None:
        oddities.add(Oddity.NOT_FINITE)

    def number(of: Callable[[str], float]) -> Callable[[str], float]:
        def convert(literal: str) -> float:
            try:
                value = of(literal)
                if math.isfinite(float(value)):
                    return value
            except (ValueError, OverflowError):
                pass
            oddities.add(Oddity.NOT_FINITE)
            return 0

        return convert

    # Oddities are noted, not raised: text that turns out not to be JSON later on is not_json.
    decoder = json.JSONDecoder(
        object_pairs_hook=build_object,
        parse_constant=not_finite,
        parse_int=number(int) if numbers else _any_number,
        parse_float=number(float) if numbers else _any_number,
    )
    try:
        value, end = decoder.raw_decode(text, start)
    except json.JSONDecodeError:
        return None
    return _Decoded(Read(value, frozenset(oddities)), end)


def _any_number(_literal: str) -> int:
    return 0


def _too_deep(text: str, start: int, max_depth: int) -> bool:
    """Whether the array or object that begins at `start` nests deeper than `max_depth`."""
    if not text.startswith(("[", "{"), start):
        return False
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(text, start):
        if match[0] in ("[", "{"):
            depth += 1
        elif match[0] in ("]", "}"):
            depth -= 1
        if depth > max_depth:
            return True
        if depth == 0:
            return False
    return False
