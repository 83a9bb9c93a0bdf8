"""Where in a JSON value, or in its wrapper, a prefix ends, byte by byte.

What may follow is the grammar engine's to say; this only names the position, so it is asked of live
prefixes alone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from enum import Enum, auto

from opdcliff.contract.forms.wrapper import FENCE, NO_WRAPPER, THINK

WHITESPACE = b" \t\n\r"
_QUOTE, _BACKSLASH = 0x22, 0x5C
_LITERALS = (b"true", b"false", b"null")


class Spot(Enum):
    """What the next byte belongs to.

    VALUE a value that begins. FIRST_ITEM, FIRST_KEY: what follows an opening bracket or brace.
    KEY_OPEN a key behind a comma. KEY, STRING, NUMBER, LITERAL: inside of one. COLON behind a key.
    BEHIND a value inside an array or object. DONE behind the whole value, also inside what closes a
    fence. FENCE, OPENING, THOUGHT, CLOSING: a fence before the value, and the tag that opens
    thoughts, the thoughts, and what closes them.
    """

    VALUE = auto()
    FIRST_ITEM = auto()
    FIRST_KEY = auto()
    KEY_OPEN = auto()
    KEY = auto()
    COLON = auto()
    STRING = auto()
    NUMBER = auto()
    LITERAL = auto()
    BEHIND = auto()
    DONE = auto()
    FENCE = auto()
    OPENING = auto()
    THOUGHT = auto()
    CLOSING = auto()


# Numbers of items, and keys, from the root on; the last one of an array counts up.
Step = int | str


@dataclass(frozen=True, slots=True)
class Position:
    """A prefix, reduced to its place.

    steps: to the container or value that the prefix is in. key: bytes of a key or literal that is
    begun, of a wrapper those still to come, of thoughts the last ones. escaped: inside a string,
    behind a backslash. blank: behind whitespace. open: the brackets and braces that are.
    """

    spot: Spot = Spot.VALUE
    steps: tuple[Step, ...] = ()
    key: bytes = b""
    escaped: bool = False
    blank: bool = False
    open: str = ""

    def after(self, data: bytes) -> Position:
        """The position behind more bytes of a live prefix."""
        current = self
        for byte in data:
            current = current._step(byte)
        return current

    def _step(self, byte: int) -> Position:
        match self.spot:
            case Spot.KEY | Spot.STRING:
                return self._in_string(byte)
            case Spot.DONE:
                return self
            case Spot.THOUGHT:
                last = (self.key + bytes([byte]))[-len(CLOSES) :]
                if last == CLOSES:
                    return Position(Spot.CLOSING, key=b"\n\n")
                return replace(self, key=last)
            case Spot.FENCE | Spot.OPENING | Spot.CLOSING if len(self.key) > 1:
                return replace(self, key=self.key[1:])
            case Spot.OPENING:
                return Position(Spot.THOUGHT)
            case Spot.FENCE | Spot.CLOSING:
                return START
            case Spot.NUMBER if byte not in b",]}" + WHITESPACE:
                return self
            case Spot.NUMBER:
                return self._behind()._step(byte)
            case Spot.LITERAL:
                word = self.key + bytes([byte])
                return self._behind() if word in _LITERALS else replace(self, key=word)
        if byte in WHITESPACE:
            return self if self.blank else replace(self, blank=True)
        return self._punctuation(chr(byte))

    def _in_string(self, byte: int) -> Position:
        if self.escaped or byte == _BACKSLASH or byte != _QUOTE:
            key = self.key + bytes([byte]) if self.spot is Spot.KEY else b""
            return replace(self, escaped=not self.escaped and byte == _BACKSLASH, key=key)
        if self.spot is Spot.STRING:
            return self._behind()
        name = str(json.loads(b'"' + self.key + b'"'))
        return Position(Spot.COLON, (*self.steps, name), open=self.open)

    def _behind(self) -> Position:
        """A value has ended; `steps` still lead to it."""
        if not self.open:
            return Position(Spot.DONE)
        return Position(Spot.BEHIND, self.steps, open=self.open)

    def _punctuation(self, char: str) -> Position:
        match char:
            case "{":
                return Position(Spot.FIRST_KEY, self._inside(), open=self.open + "{")
            case "[":
                return Position(Spot.FIRST_ITEM, self._inside(), open=self.open + "[")
            case "}" | "]":
                # An empty container has no step of its own to leave.
                empty = self.spot in (Spot.FIRST_ITEM, Spot.FIRST_KEY)
                steps = self.steps if empty else self.steps[:-1]
                return Position(Spot.STRING, steps, open=self.open[:-1])._behind()
            case ":":
                return Position(Spot.VALUE, self.steps, open=self.open)
            case "," if self.open.endswith("["):
                last = self.steps[-1]
                assert isinstance(last, int), "the last step into an array is a number"
                return Position(Spot.VALUE, (*self.steps[:-1], last + 1), open=self.open)
            case ",":
                return Position(Spot.KEY_OPEN, self.steps[:-1], open=self.open)
            case '"' if self.spot in (Spot.FIRST_KEY, Spot.KEY_OPEN):
                return Position(Spot.KEY, self.steps, open=self.open)
            case '"':
                return Position(Spot.STRING, self._inside(), open=self.open)
        if char in "tfn":
            return Position(Spot.LITERAL, self._inside(), char.encode(), open=self.open)
        return Position(Spot.NUMBER, self._inside(), open=self.open)

    def _inside(self) -> tuple[Step, ...]:
        """Steps to the value that begins here."""
        return (*self.steps, 0) if self.spot is Spot.FIRST_ITEM else self.steps


CLOSES = b"</think>"
START = Position()
# By the name of the wrapper.
STARTS = {
    NO_WRAPPER: START,
    FENCE: Position(Spot.FENCE, key=b"```json\n"),
    THINK: Position(Spot.OPENING, key=b"<think>"),
}


def path_of(steps: tuple[Step, ...], *, numbered: bool = False) -> str:
    """Steps as a path, `$.a[*].b`; keys that are no names in quotes."""
    path = "$"
    for step in steps:
        if isinstance(step, int):
            path += f"[{step}]" if numbered else "[*]"
        else:
            path += (
                f".{step}" if step.isidentifier() and step.isascii() else f"[{json.dumps(step)}]"
            )
    return path
