"""Which class each token position of an answer belongs to, and which next tokens are viable.

A prefix machine over the bytes of an answer follows the contract: a state stands for a prefix that
can still become an accepted answer, None for one that cannot. Bytes, because a token may end inside
a character. Every class has its own teacher and base mass (p, b) on its modal set, so its own
threshold (docs/theory.md, point 10) [D].

The machine and `RankingContract.parse` agree on the bytes of every answer, but that the machine
does not count characters (MAX_CHARS of the parser).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum, StrEnum, auto

from opdcliff.contract.json_text import JSON_WHITESPACE
from opdcliff.contract.parse import RANKING, RankingContract
from opdcliff.contract.spelling import PLAIN, QUOTE, possible_in_name, step_name, step_text
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

    Of answers to a schema brace, key, separator and eos, wherever they stand, and:

    enum_or_const  a value that the schema lists.
    string_text    inside a string that it does not list.
    number         the digits of such a number.
    literal        true, false or null.
    whitespace     behind whitespace: more of it, or what it stands before.
    thought        inside a block of thoughts before the value.
    wrapper        the characters of a fence, or of the tags around thoughts.
    """

    BRACE = "brace"
    KEY = "key"
    SEPARATOR = "separator"
    ID = "id"
    TEXT = "text"
    CLOSE = "close"
    EOS = "eos"
    ENUM = "enum_or_const"
    STRING = "string_text"
    NUMBER = "number"
    LITERAL = "literal"
    WHITESPACE = "whitespace"
    THOUGHT = "thought"
    WRAPPER = "wrapper"


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
_WHITESPACE = JSON_WHITESPACE.encode()
_PUNCTUATION = _WHITESPACE + b'{}[]:,"'
_RANKING = RANKING.encode()


@dataclass(frozen=True, slots=True)
class PrefixState:
    """A live prefix, reduced to what its continuations depend on; hashable.

    keys_left, ids_left: keys and candidate ids not yet used, as UTF-8. key: the key whose value
    begins next. fragment: the part already spelled of a key or id. begun: the part of an escape or
    of a character that is not whole yet (`spelling`).
    """

    phase: _Phase
    keys_left: frozenset[bytes]
    ids_left: frozenset[bytes]
    key: bytes = b""
    fragment: bytes = b""
    begun: bytes = b""


def start(contract: RankingContract, candidates: Sequence[str]) -> PrefixState:
    """The state of the empty prefix. DataError if ids are absent, repeated or empty."""
    ids = frozenset(candidate.encode() for candidate in candidates)
    if not ids or len(ids) < len(candidates) or b"" in ids:
        raise DataError(
            f"candidates={list(candidates)}: ids must be distinct and non-empty; rename them"
        )
    return PrefixState(_Phase.START, frozenset(key.encode() for key in contract.keys), ids)


def advance(state: PrefixState, data: bytes) -> PrefixState | None:
    """The state after appending `data`, or None if the prefix can no longer be completed."""
    current: PrefixState | None = state
    position = 0
    while current is not None and position < len(data):
        if in_plain_text(current):
            plain = PLAIN.match(data, position)
            position = plain.end() if plain else position
            if position == len(data):
                break
        current = step(current, data[position])
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


def in_plain_text(state: PrefixState) -> bool:
    """Whether the prefix ends inside the reason, between whole characters."""
    return state.phase is _Phase.TEXT and not state.begun


def live_states(
    first: PrefixState, token_bytes: Sequence[bytes | None]
) -> list[PrefixState | None]:
    """The state before each token that follows `first`; None once it is dead or has ended.

    token_bytes: of the tokens in order; None stands for an end token or another that is
    no text, which ends the answer.
    """
    states: list[PrefixState | None] = []
    state: PrefixState | None = first
    for data in token_bytes:
        states.append(state)
        if state is not None:
            state = None if data is None else advance(state, data)
    return states


def step(state: PrefixState, byte: int) -> PrefixState | None:
    """The state after one more byte."""
    phase = state.phase
    if phase in _TAKES_WHITESPACE and byte in _WHITESPACE:
        return state
    if phase is _Phase.TEXT:
        if byte == QUOTE and not state.begun:
            return replace(state, phase=_Phase.AFTER_VALUE)
        begun = step_text(state.begun, byte)
        if begun is None or begun == state.begun:
            return None if begun is None else state
        return replace(state, begun=begun)
    if phase in (_Phase.KEY, _Phase.ID):
        return _spell(state, byte)
    after = _after_punctuation(state, chr(byte))
    if after is None:
        return None
    return replace(state, phase=after, key=state.key if after is _Phase.VALUE else b"")


def possible_bytes(state: PrefixState) -> bytes | None:
    """Bytes among which are all that `step` takes at `state`; None where nearly all are taken."""
    if state.phase is _Phase.TEXT:
        return None
    if state.phase in (_Phase.KEY, _Phase.ID):
        unused = state.keys_left if state.phase is _Phase.KEY else state.ids_left
        return possible_in_name(unused, state.fragment, state.begun)
    return _PUNCTUATION


def _after_punctuation(state: PrefixState, char: str) -> _Phase | None:
    """The phase after a punctuation character outside of strings, None where it is not allowed."""
    match state.phase, char:
        case _Phase.START, "{":
            return _Phase.KEY_OPEN
        case _Phase.KEY_OPEN, '"':
            return _Phase.KEY
        case _Phase.COLON, ":":
            return _Phase.VALUE
        case _Phase.VALUE, "[" if state.key == _RANKING:
            return _Phase.ID_OPEN
        case _Phase.VALUE, '"' if state.key != _RANKING:
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


def _spell(state: PrefixState, byte: int) -> PrefixState | None:
    """One byte of a key or id: its closing quote, or a further part of an unused one."""
    spelling_key = state.phase is _Phase.KEY
    unused = state.keys_left if spelling_key else state.ids_left
    if byte != QUOTE or state.begun:
        spelled = step_name(unused, state.fragment, state.begun, byte)
        return spelled and replace(state, fragment=spelled[0], begun=spelled[1])
    if state.fragment not in unused:
        return None
    left = unused - {state.fragment}
    if spelling_key:
        return replace(state, phase=_Phase.COLON, keys_left=left, key=state.fragment, fragment=b"")
    return replace(state, phase=_Phase.AFTER_ID, ids_left=left, fragment=b"")
