"""A vocabulary as the grammar engine needs it, and what each token is to a loop."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opdcliff.contract.engine import engine
from opdcliff.contract.forms.wrapper import FENCE, NO_WRAPPER, THINK
from opdcliff.contract.grammar.tracker import CLOSES, WHITESPACE
from opdcliff.errors import DataError

_BACKSLASH, _QUOTE = 0x5C, 0x22
_DIGITS = frozenset(b"0123456789+-.eE")
# Escapes of any character are JSON; the engine leaves them out unless told.
_OPTIONS = {"x-guidance": {"json_allow_general_unicode_escapes": True}}


@dataclass(frozen=True)
class Vocabulary:
    """token_bytes: what each id adds to an answer; None for special and unused ids."""

    token_bytes: tuple[bytes | None, ...]

    @cached_property
    def tokenizer(self) -> Any:
        """The engine's; its end token is an id of its own, so that none of ours is text.

        One entry more than the vocabulary, which is dropped from every mask.
        """
        found = engine()
        return found.LLTokenizer(found.TokenizerWrapper(_Table(self.token_bytes)))

    def mask(self, matcher: Any) -> NDArray[np.bool_]:
        """Which tokens may come next, shape (vocabulary,)."""
        bits = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
        flags = np.unpackbits(bits, bitorder="little")[: len(self.token_bytes)]
        return flags.view(np.bool_) & self._is_text

    @cached_property
    def _is_text(self) -> NDArray[np.bool_]:
        return self._flags(lambda data: len(data) > 0)

    @cached_property
    def stays_in_string(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Tokens that leave a string open: from between characters, and from behind a backslash."""
        return self._flags(lambda d: _stays(d, False)), self._flags(lambda d: _stays(d, True))

    @cached_property
    def in_number(self) -> NDArray[np.bool_]:
        """Tokens of characters of numbers alone."""
        return self._flags(lambda data: bool(data) and set(data) <= _DIGITS)

    @cached_property
    def comma(self) -> int | None:
        """The token that is a comma alone, if there is one."""
        return self.token_bytes.index(b",") if b"," in self.token_bytes else None

    @cached_property
    def blank(self) -> NDArray[np.bool_]:
        """Tokens of whitespace alone."""
        return self._flags(lambda data: bool(data) and not data.strip(WHITESPACE))

    def stays_in_thought(self, before: bytes) -> NDArray[np.bool_]:
        """Tokens that do not close thoughts; before: the last bytes of those."""
        if before not in self._thoughts:
            self._thoughts[before] = self._flags(lambda data: CLOSES not in before + data)
        return self._thoughts[before]

    @cached_property
    def _thoughts(self) -> dict[bytes, NDArray[np.bool_]]:
        return {}

    def opens_with(self, characters: bytes) -> NDArray[np.bool_]:
        """Tokens whose first character but whitespace is one of these."""
        return self._flags(lambda data: data.lstrip(WHITESPACE)[:1] in _singles(characters))

    def _flags(self, of: Callable[[bytes], bool]) -> NDArray[np.bool_]:
        return np.array(
            [data is not None and of(data) for data in self.token_bytes], dtype=np.bool_
        )


class _Table:
    """What the engine asks of a tokenizer."""

    def __init__(self, token_bytes: Sequence[bytes | None]) -> None:
        self.bos_token_id = None
        self.eos_token_id = len(token_bytes)
        # An entry without bytes, as special ones are, is never allowed.
        self.tokens = [*(data or b"" for data in token_bytes), b"<end>"]
        self.special_token_ids = [
            *(i for i, data in enumerate(token_bytes) if data is None),
            self.eos_token_id,
        ]

    def __call__(self, text: object) -> list[int]:
        # Answers come as ids; nothing is encoded.
        return []


def _stays(data: bytes, escaped: bool) -> bool:
    for byte in data:
        if byte == _QUOTE and not escaped:
            return False
        escaped = byte == _BACKSLASH and not escaped
    return True


def _singles(characters: bytes) -> set[bytes]:
    return {bytes([byte]) for byte in characters}


# What the value stands in, in the engine's dialect; a second tag is no thought.
_WRAPPED = {
    NO_WRAPPER: "start: answer",
    FENCE: 'start: "```json\\n" answer "\\n```"',
    THINK: (
        "start: THOUGHTS answer\n"
        r"THOUGHTS: /<think>(.|\n)*<\/think>\n\n/ "
        r"& ~/<think>(.|\n)*<\/?think>(.|\n)*<\/think>\n\n/"
    ),
}


@lru_cache(1024)
def grammar_of(form: str, wrapper: str = NO_WRAPPER) -> str:
    """The engine's grammar of a schema in a wrapper.

    Raises:
        DataError: naming what the engine does not support in it.
    """
    schema = json.loads(form)
    if schema is False:
        raise DataError("the schema takes nothing")
    # A schema may be true.
    plain = schema if isinstance(schema, dict) else {}
    # Without forcing every way to cut what has to follow into tokens is live, not one alone.
    grammar: str = engine().LLMatcher.grammar_from_lark(
        f'%llguidance {{"no_forcing": true}}\n{_WRAPPED[wrapper]}\n'
        f"answer: %json {json.dumps(plain | _OPTIONS)}"
    )
    wrong, said = engine().LLMatcher.validate_grammar_with_warnings(grammar)
    if wrong:
        words = said[0].partition("failed to compile JSON schema: ")[2] or said[0]
        # Behind that the engine shows the grammar.
        line = " ".join(words.partition("\n   1 | ")[0].split())[:200]
        raise DataError(f"the grammar engine does not follow the schema: {line}")
    return grammar
