"""Classes and modal sets of answers to a JSON Schema over a vocabulary.

The engine says which tokens are live, the tracker where the position stands, the schema which class
it has. In a loop (a text, the digits of a number, the next item or key, whitespace) the modal set
is the live tokens that go on, since an answer needs the others to end; at any other position all
live tokens are modal (docs/theory.md, point 23) [D].
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opdcliff.contract.engine import engine
from opdcliff.contract.forms.wrapper import NO_WRAPPER
from opdcliff.contract.grammar.schema_map import SchemaMap, schema_map
from opdcliff.contract.grammar.tracker import STARTS, Position, Spot, path_of
from opdcliff.contract.grammar.vocabulary import Vocabulary, grammar_of
from opdcliff.contract.labels import Modal, Place
from opdcliff.contract.token_classes import TokenClass
from opdcliff.contract.verdict import Asked

# Matchers at the start of a schema, and modal sets, kept at a time.
_KEPT_SCHEMAS, _KEPT_SETS = 256, 4096
_BESIDE_WHITESPACE = (Spot.BEHIND, Spot.VALUE)


@dataclass(frozen=True, eq=False)
class GrammarState:
    """A live prefix of an answer to a schema: the one before it, and the token that came then.

    complete: whether it is a whole answer. closes: whether no other item or key may follow a value.
    """

    form: str
    position: Position
    complete: bool = False
    closes: bool = False
    before: GrammarState | None = None
    token: int = -1

    def tokens(self) -> list[int]:
        """Those of the whole prefix."""
        found: list[int] = []
        state = self
        while state.before is not None:
            found.append(state.token)
            state = state.before
        return found[::-1]


class GrammarSets:
    """Labels of answers to schemas, each in the same wrapper; see `Labels`."""

    follows_all = False

    def __init__(
        self,
        token_bytes: Sequence[bytes | None],
        end_ids: Sequence[int],
        wrapper: str = NO_WRAPPER,
    ) -> None:
        self._end_ids, self._wrapper = tuple(end_ids), wrapper
        self._vocabulary = Vocabulary(
            tuple(None if i in self._end_ids else data for i, data in enumerate(token_bytes))
        )
        self._starts: OrderedDict[str, Any] = OrderedDict()
        self._kept: OrderedDict[bytes, NDArray[np.int64]] = OrderedDict()
        # A matcher that moves along with the states that are asked for in turn.
        self._moving: tuple[GrammarState, Any] | None = None

    def states_of(self, asked: Asked, token_ids: Sequence[int]) -> list[GrammarState | None]:
        """The state before each token; a special token, or an id beyond the tokenizer, ends it."""
        start = GrammarState(asked.form, STARTS[self._wrapper])
        return self.states_from(start, token_ids)

    def states_from(
        self, state: GrammarState, token_ids: Sequence[int]
    ) -> list[GrammarState | None]:
        """`states_of` what follows a prefix at `state`."""
        table, matcher = self._vocabulary.token_bytes, self._made(state)
        states: list[GrammarState | None] = []
        current: GrammarState | None = state
        for number in token_ids:
            states.append(current)
            if current is None:
                continue
            data = table[number] if number < len(table) else None
            if not data or matcher.try_consume_tokens([number]) == 0:
                current = None
                continue
            position = current.position.after(data)
            closes = position.spot is Spot.BEHIND and not self._takes_comma(matcher)
            whole = bool(matcher.is_accepting())
            current = GrammarState(state.form, position, whole, closes, current, number)
        return states

    def place(self, state: GrammarState) -> Place:
        """Class and path: of a place behind a value by whether another may follow."""
        if state.complete and state.position.spot is Spot.DONE:
            return Place(TokenClass.EOS)
        at = state.position
        if state.closes and not at.blank:
            return Place(TokenClass.CLOSE, path_of(at.steps[:-1]))
        return _place(at, schema_map(state.form))

    def modal(self, state: GrammarState) -> Modal:
        """Modal set: what goes on in a loop, else all that is live."""
        live = self._vocabulary.mask(self._matcher(state))
        goes_on = self._goes_on(state.position, schema_map(state.form))
        if goes_on is not None:
            inside, leaving = live & goes_on, live & ~goes_on
            if state.position.spot in _BESIDE_WHITESPACE:
                # Whitespace there decides nothing.
                leaving &= ~self._vocabulary.blank
            # At its bound a loop has its exit alone, short of its least length no exit.
            if inside.any() and (state.complete or leaving.any()):
                return Modal(self._interned(inside, ends=False), tail_needed=True)
        return Modal(self._interned(live, ends=state.complete), tail_needed=False)

    def is_complete(self, state: GrammarState) -> bool:
        """Whether the prefix is a whole answer."""
        return state.complete

    def is_open_text(self, state: GrammarState) -> bool:
        """Whether the prefix ends inside a text of any letters."""
        at = state.position
        free = at.spot is Spot.STRING and schema_map(state.form).is_free_text(at.steps)
        return free and not at.escaped

    def _takes_comma(self, matcher: Any) -> bool:
        comma = self._vocabulary.comma
        return comma is None or matcher.validate_tokens([comma]) > 0

    def _goes_on(self, at: Position, schema: SchemaMap) -> NDArray[np.bool_] | None:
        """Tokens that stay in the loop of a position; None where it is in none."""
        tokens, steps = self._vocabulary, at.steps
        if at.blank:
            return tokens.blank
        match at.spot:
            case Spot.THOUGHT:
                return tokens.stays_in_thought(at.key)
            case Spot.STRING if not schema.is_listed(steps, "string"):
                return tokens.stays_in_string[at.escaped]
            case Spot.KEY if schema.takes_any_key(steps):
                return tokens.stays_in_string[at.escaped]
            case Spot.NUMBER if not schema.is_listed(steps, "number"):
                return tokens.in_number
            case Spot.FIRST_ITEM:
                return self._not_closing
            case Spot.FIRST_KEY if schema.takes_any_key(steps):
                return self._not_closing
            case Spot.BEHIND if at.open.endswith("["):
                return self._comma
            case Spot.BEHIND if schema.takes_any_key(steps[:-1]):
                return self._comma
            case Spot.VALUE if schema.may_nest(steps):
                return self._opening
        return None

    @cached_property
    def _comma(self) -> NDArray[np.bool_]:
        return self._vocabulary.opens_with(b",")

    @cached_property
    def _opening(self) -> NDArray[np.bool_]:
        return self._vocabulary.opens_with(b"[{")

    @cached_property
    def _not_closing(self) -> NDArray[np.bool_]:
        return ~self._vocabulary.opens_with(b"]}")

    def _interned(self, flags: NDArray[np.bool_], *, ends: bool) -> NDArray[np.int64]:
        """Ids of a set, one array for the same set while it is kept."""
        key = np.packbits(flags).tobytes() + bytes([ends])
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        ids = np.flatnonzero(flags).tolist()
        members = np.array(sorted([*ids, *(self._end_ids if ends else ())]), dtype=np.int64)
        members.flags.writeable = False
        self._kept[key] = members
        if len(self._kept) > _KEPT_SETS:
            self._kept.popitem(last=False)
        return members

    def _matcher(self, state: GrammarState) -> Any:
        """A matcher at a state: that of the state before, moved, where it was asked for last."""
        if self._moving is not None:
            last, matcher = self._moving
            if state is last:
                return matcher
            if state.before is last:
                matcher.consume_token(state.token)
                self._moving = state, matcher
                return matcher
        matcher = self._made(state)
        self._moving = state, matcher
        return matcher

    def _made(self, state: GrammarState) -> Any:
        """A matcher of its own at a state."""
        if state.form in self._starts:
            self._starts.move_to_end(state.form)
        else:
            made = engine().LLMatcher(
                self._vocabulary.tokenizer, grammar_of(state.form, self._wrapper)
            )
            self._starts[state.form] = made
            if len(self._starts) > _KEPT_SCHEMAS:
                self._starts.popitem(last=False)
        matcher = self._starts[state.form].deep_copy()
        matcher.consume_tokens(state.tokens())
        return matcher


def _place(at: Position, schema: SchemaMap) -> Place:
    steps = at.steps
    found = _class_of(at, schema)
    if found in (TokenClass.WRAPPER, TokenClass.THOUGHT):
        return Place(found)
    path = path_of(steps)
    if at.spot in (Spot.FIRST_ITEM, Spot.FIRST_KEY, Spot.KEY_OPEN, Spot.KEY):
        path += "[*]" if at.spot is Spot.FIRST_ITEM else ".*"
    elif at.spot is Spot.BEHIND and at.open.endswith("{"):
        path = f"{path_of(steps[:-1])}.*"
    part = path_of(steps, numbered=True) if at.spot in (Spot.STRING, Spot.NUMBER) else ""
    return Place(found, path, part)


def _class_of(at: Position, schema: SchemaMap) -> TokenClass:
    if at.blank:
        return TokenClass.WHITESPACE
    match at.spot:
        case Spot.FIRST_KEY | Spot.KEY_OPEN | Spot.KEY:
            return TokenClass.KEY
        case Spot.STRING:
            listed = schema.is_listed(at.steps, "string")
            return TokenClass.ENUM if listed else TokenClass.STRING
        case Spot.NUMBER:
            listed = schema.is_listed(at.steps, "number")
            return TokenClass.ENUM if listed else TokenClass.NUMBER
        case Spot.LITERAL:
            return TokenClass.LITERAL
        case Spot.THOUGHT:
            return TokenClass.THOUGHT
        case Spot.FENCE | Spot.OPENING | Spot.CLOSING | Spot.DONE:
            return TokenClass.WRAPPER
        case Spot.VALUE:
            return _class_of_beginning(at, schema)
    return TokenClass.SEPARATOR


def _class_of_beginning(at: Position, schema: SchemaMap) -> TokenClass:
    """The class of a value's first token, if the schema leaves one kind of value."""
    kinds = schema.kinds(at.steps)
    if all(schema.is_listed(at.steps, kind) for kind in kinds):
        return TokenClass.ENUM
    if kinds == {"object"}:
        return TokenClass.BRACE
    if kinds == {"number"}:
        return TokenClass.NUMBER
    return TokenClass.LITERAL if kinds <= {"boolean", "null"} else TokenClass.SEPARATOR
