"""Which class each token position of an answer belongs to, and which next tokens are viable.

A character-level prefix machine follows the contract: a state stands for a prefix that can still
become an accepted answer, None for one that cannot. Every class has its own teacher and base mass
(p, b) on its modal set, so its own threshold (docs/theory.md, point 10) [D].

The machine and `Contract.parse` agree on every text, with two exceptions: keys and ids must be
spelled literally (an escaped spelling such as "\\u0041" for "A" is dead here, although it parses),
and the machine does not count characters (MAX_CHARS of the parser).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum, StrEnum, auto

from opdcliff.contract.parse import JSON_WHITESPACE, RANKING, Contract
from opdcliff.errors import DataError


class TokenClass(StrEnum):
    """What a position expects, given the live prefix before it.

    brace      the opening brace.
    key        a key string: its opening quote, its letters or its closing quote.
    separator  a colon, comma or bracket, or the quote that opens the reason.
    id         an id string: its opening quote, its characters or its closing quote.
    text       inside the reason string: the text goes on, or its closing quote ends it.
    close      the final closing brace.
    eos        the object is complete: EOS and nothing else.
    """

    BRACE = "brace"
    KEY = "key"
    SEPARATOR = "separator"
    ID = "id"
    TEXT = "text"
    CLOSE = "close"
    EOS = "eos"


# Classes whose tail an accepted answer needs: only by leaving the modal set (closing the string)
# does it end. A runaway of any other class only makes a viable continuation more certain, so only
# these classes can bind (docs/theory.md, points 10 and 11) [D].
TAIL_NEEDED: frozenset[TokenClass] = frozenset({TokenClass.TEXT})


class _Phase(Enum):
    START = auto()
    KEY_OPEN = auto()
    KEY = auto()
    COLON = auto()
    VALUE = auto()
    ID_OPEN = auto()
    ID = auto()
    AFTER_ID = auto()
    TEXT = auto()
    ESCAPE = auto()
    HEX = auto()
    AFTER_VALUE = auto()
    COMPLETE = auto()


_CLASS_OF_PHASE = {
    _Phase.START: TokenClass.BRACE,
    _Phase.KEY_OPEN: TokenClass.KEY,
    _Phase.KEY: TokenClass.KEY,
    _Phase.COLON: TokenClass.SEPARATOR,
    _Phase.VALUE: TokenClass.SEPARATOR,
    _Phase.ID_OPEN: TokenClass.ID,
    _Phase.ID: TokenClass.ID,
    _Phase.AFTER_ID: TokenClass.SEPARATOR,
    _Phase.TEXT: TokenClass.TEXT,
    _Phase.ESCAPE: TokenClass.TEXT,
    _Phase.HEX: TokenClass.TEXT,
    _Phase.COMPLETE: TokenClass.EOS,
}
_TAKES_WHITESPACE = {
    _Phase.KEY_OPEN,
    _Phase.COLON,
    _Phase.VALUE,
    _Phase.ID_OPEN,
    _Phase.AFTER_ID,
    _Phase.AFTER_VALUE,
}
# What a JSON string may hold unescaped, but for surrogates, which no UTF-8 text has.
_PLAIN = re.compile('[^"\\\\\x00-\x1f\ud800-\udfff]*')


@dataclass(frozen=True, slots=True)
class PrefixState:
    """A live prefix, reduced to what its continuations depend on; hashable.

    keys_left, ids_left: keys and candidate ids not yet used. key: the key whose value begins next.
    fragment: the part already spelled of a key or id. hex_left: digits a \\u escape still needs.
    """

    phase: _Phase
    keys_left: frozenset[str]
    ids_left: frozenset[str]
    key: str = ""
    fragment: str = ""
    hex_left: int = 0


def start(contract: Contract, candidates: Sequence[str]) -> PrefixState:
    """The state of the empty prefix. DataError if ids are absent, repeated or need an escape."""
    ids = frozenset(candidates)
    plain = all(candidate and _PLAIN.fullmatch(candidate) for candidate in ids)
    if not ids or len(ids) < len(candidates) or not plain:
        raise DataError(
            f"candidates={list(candidates)}: ids must be distinct, non-empty and free of quotes, "
            "backslashes and control characters; rename them"
        )
    return PrefixState(_Phase.START, frozenset(contract.keys), ids)


def advance(state: PrefixState, text: str) -> PrefixState | None:
    """The state after appending `text`, or None if the prefix can no longer be completed."""
    current: PrefixState | None = state
    position = 0
    while current is not None and position < len(text):
        if current.phase is _Phase.TEXT:
            plain = _PLAIN.match(text, position)
            position = plain.end() if plain else position
            if position == len(text):
                break
        current = _step(current, text[position])
        position += 1
    return current


def token_class(state: PrefixState) -> TokenClass:
    """The class of the position that follows the prefix."""
    if state.phase is _Phase.AFTER_VALUE:
        return TokenClass.SEPARATOR if state.keys_left else TokenClass.CLOSE
    return _CLASS_OF_PHASE[state.phase]


def is_complete(state: PrefixState) -> bool:
    """Whether the prefix is a whole answer, after which only the end token may come."""
    return state.phase is _Phase.COMPLETE


def live_states(
    contract: Contract, candidates: Sequence[str], token_texts: Sequence[str | None]
) -> list[PrefixState | None]:
    """The state before each token of one answer; None once the prefix is dead or has ended.

    token_texts: decoded tokens in order; None stands for EOS, which ends the answer.
    """
    states: list[PrefixState | None] = []
    state: PrefixState | None = start(contract, candidates)
    for text in token_texts:
        states.append(state)
        if state is not None:
            state = None if text is None else advance(state, text)
    return states


def _step(state: PrefixState, char: str) -> PrefixState | None:
    """The state after one more character."""
    phase = state.phase
    if phase in _TAKES_WHITESPACE and char in JSON_WHITESPACE:
        return state
    if phase in (_Phase.KEY, _Phase.ID):
        return _spell(state, char)
    if phase in (_Phase.TEXT, _Phase.ESCAPE, _Phase.HEX):
        return _in_text(state, char)
    after = _after_punctuation(state, char)
    if after is None:
        return None
    return replace(state, phase=after, key=state.key if after is _Phase.VALUE else "")


def _after_punctuation(state: PrefixState, char: str) -> _Phase | None:
    """The phase after a punctuation character outside of strings, None where it is not allowed."""
    match state.phase, char:
        case _Phase.START, "{":
            return _Phase.KEY_OPEN
        case _Phase.KEY_OPEN, '"':
            return _Phase.KEY
        case _Phase.COLON, ":":
            return _Phase.VALUE
        case _Phase.VALUE, "[" if state.key == RANKING:
            return _Phase.ID_OPEN
        case _Phase.VALUE, '"' if state.key != RANKING:
            return _Phase.TEXT
        case _Phase.ID_OPEN, '"':
            return _Phase.ID
        case _Phase.AFTER_ID, "," if state.ids_left:
            return _Phase.ID_OPEN
        case _Phase.AFTER_ID, "]" if not state.ids_left:
            return _Phase.AFTER_VALUE
        case _Phase.AFTER_VALUE, "," if state.keys_left:
            return _Phase.KEY_OPEN
        case _Phase.AFTER_VALUE, "}" if not state.keys_left:
            return _Phase.COMPLETE
    return None


def _spell(state: PrefixState, char: str) -> PrefixState | None:
    """One character of a key or id: its closing quote, or a further part of an unused one."""
    spelling_key = state.phase is _Phase.KEY
    unused = state.keys_left if spelling_key else state.ids_left
    if char != '"':
        fragment = state.fragment + char
        viable = any(name.startswith(fragment) for name in unused)
        return replace(state, fragment=fragment) if viable else None
    if state.fragment not in unused:
        return None
    left = unused - {state.fragment}
    if spelling_key:
        return replace(state, phase=_Phase.COLON, keys_left=left, key=state.fragment, fragment="")
    return replace(state, phase=_Phase.AFTER_ID, ids_left=left, fragment="")


def _in_text(state: PrefixState, char: str) -> PrefixState | None:
    """One character inside the reason string."""
    if state.phase is _Phase.TEXT:
        if char == '"':
            return replace(state, phase=_Phase.AFTER_VALUE)
        if char == "\\":
            return replace(state, phase=_Phase.ESCAPE)
        return state if _PLAIN.fullmatch(char) else None
    if state.phase is _Phase.ESCAPE:
        if char == "u":
            return replace(state, phase=_Phase.HEX, hex_left=4)
        return replace(state, phase=_Phase.TEXT) if char in '"\\/bfnrt' else None
    if char not in "0123456789abcdefABCDEF":
        return None
    left = state.hex_left - 1
    return replace(state, phase=_Phase.HEX if left else _Phase.TEXT, hex_left=left)
