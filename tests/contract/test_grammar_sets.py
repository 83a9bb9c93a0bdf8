"""Classes, places and modal sets of answers to a schema, against slow definitions and the judge."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_schema_contract import Ask

from opdcliff.contract.classes import classes_problem
from opdcliff.contract.forms.schema import BEYOND_GRAMMARS, SchemaContract, schema_failure
from opdcliff.contract.forms.wrapper import Wrapped
from opdcliff.contract.grammar.sets import GrammarSets, GrammarState
from opdcliff.contract.grammar.tracker import START, Spot
from opdcliff.contract.grammar.vocabulary import grammar_of
from opdcliff.contract.modal_sets import ModalSets
from opdcliff.contract.parse import RANKING_WITH_REASON
from opdcliff.contract.token_classes import advance, start

llguidance = pytest.importorskip("llguidance")

CONTRACT = SchemaContract()
EOS = 0
PIECES = [
    *('","', '"}', '"]', '":"', '{"', "],", "],[", "}}", ": ", ", ", "  ", "\n ", "ab", "12", ".5"),
    *('a"', '"a', "[[", "]]", '\\"', "\\u00", "true", "ull", "e1", "1,", "1]", '"name":"book"'),
    *("\u00e9", "\u4e2d", 'b","name'),
]
TABLE: list[bytes | None] = [
    None,
    *(bytes([byte]) for byte in range(1, 256)),
    *(piece.encode() for piece in PIECES),
    *("\u00e9".encode()[:1], "\u4e2d".encode()[1:], b""),
]


def sets() -> GrammarSets:
    return GrammarSets(TABLE, [EOS])


SETS = sets()


def cut(data: bytes, rng: random.Random | None = None) -> list[int]:
    """Tokens that spell `data`: bytes, or longer ones where chance has it."""
    ids, at = [], 0
    while at < len(data):
        longer = [i for i, t in enumerate(TABLE) if t and len(t) > 1 and data.startswith(t, at)]
        number = rng.choice([data[at], *longer]) if rng else data[at]
        ids.append(number)
        at += len(TABLE[number] or b"")
    return ids


def states(schema: Any, text: str, rng: random.Random | None = None) -> list[GrammarState | None]:
    asked = Ask(form=CONTRACT.read_form(schema))
    # One more than there are tokens: behind the last one, before the end token.
    return SETS.states_of(asked, [*cut(text.encode(), rng), EOS])


def last(schema: Any, text: str) -> GrammarState:
    state = states(schema, text)[-1]
    assert state is not None, f"{text} is dead"
    return state


def closed(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": [*properties],
        "additionalProperties": False,
    }


CALL = closed(
    name={"enum": ["book", "cancel"]},
    seats={"type": "integer"},
    late={"type": "boolean"},
    tags={"type": "array", "items": {"type": "string"}},
)
NODE = closed(v={"type": "number"}, c={"type": "array", "items": {"$ref": "#"}})
TREE = {"anyOf": [{"type": "integer"}, closed(args={"type": "array", "items": {"$ref": "#"}})]}


# ---- classes and places -----------------------------------------------------------------------


def test_every_position_has_its_class_and_path() -> None:
    text = '{"name":"book","seats": 12,"late":true,"tags":["a","b"]}'
    expected = [
        *[("brace $", 1), ("key $.*", 6), ("separator $.name", 1), ("enum_or_const $.name", 6)],
        *[("separator $.*", 1), ("key $.*", 7), ("separator $.seats", 1), ("number $.seats", 1)],
        *[("whitespace $.seats", 1), ("number $.seats", 2), ("key $.*", 6)],
        *[("separator $.late", 1), ("literal $.late", 4), ("separator $.*", 1), ("key $.*", 6)],
        *[("separator $.tags", 2), ("separator $.tags[*]", 1), ("string_text $.tags[*]", 2)],
        *[("separator $.tags[*]", 2), ("string_text $.tags[*]", 2), ("separator $.tags[*]", 1)],
        *[("close $", 1), ("eos", 1)],
    ]
    found = [SETS.place(state).name for state in states(CALL, text) if state is not None]
    assert found == [name for name, count in expected for _ in range(count)]


def test_offsets_begin_anew_in_every_text() -> None:
    parts = {
        SETS.place(state).part
        for state in states(CALL, '{"name":"book","seats":1,"late":true,"tags":["a","bc"]}')
        if state is not None and SETS.place(state).name == "string_text $.tags[*]"
    }
    assert parts == {"$.tags[0]", "$.tags[1]"}


def test_paths_of_odd_keys_are_quoted() -> None:
    assert SETS.place(last({}, '{"a b":{"\\u00e9":[[')).path == '$["a b"]["\\u00e9"][*][*]'


# ---- which positions need their tail ----------------------------------------------------------

STRING, INTEGER = {"type": "string"}, {"type": "integer"}
ITEMS = {"type": "array", "items": INTEGER}
# Schema, prefix, class and path there, whether its tail is needed.
NEEDED: list[tuple[Any, str, str, bool]] = [
    (STRING, '"', "string_text $", True),
    (STRING, '"some', "string_text $", True),
    # Inside an escape nothing can end yet.
    (STRING, '"\\u0', "string_text $", False),
    ({"type": "string", "maxLength": 2}, '"a', "string_text $", True),
    ({"type": "string", "maxLength": 2}, '"ab', "string_text $", False),
    # A token may hold a letter and the quote behind it.
    ({"type": "string", "minLength": 3}, '"a', "string_text $", False),
    ({"type": "string", "minLength": 3}, '"ab', "string_text $", True),
    ({"type": "string", "pattern": "^[0-9]{2}-[a-z]+$"}, '"12', "string_text $", False),
    ({"type": "string", "pattern": "^[0-9]{2}-[a-z]+$"}, '"12-a', "string_text $", True),
    ({"type": "string", "pattern": "^[0-9]{2}$"}, '"12', "string_text $", False),
    ({"enum": ["a", "ab"]}, '"a', "enum_or_const $", False),
    (INTEGER, "1", "number $", True),
    ({"type": "number"}, "1.5", "number $", True),
    ({"type": "number"}, "1.", "number $", False),
    ({"type": "integer", "minimum": 0, "maximum": 99}, "1", "number $", True),
    ({"type": "integer", "minimum": 0, "maximum": 99}, "12", "number $", False),
    (ITEMS, "[", "separator $[*]", True),
    (closed(a=ITEMS), '{"a":[1, 2]', "close $", False),
    ({**ITEMS, "items": {"type": "boolean"}}, "[true", "separator $[*]", True),
    ({"type": "array", "items": STRING}, '["a"', "separator $[*]", True),
    ({"type": "array", "items": STRING, "maxItems": 2}, '["a"', "separator $[*]", True),
    ({"type": "array", "items": STRING, "maxItems": 2}, '["a","b"', "close $", False),
    ({"type": "array", "items": STRING, "minItems": 2}, '["a"', "separator $[*]", False),
    ({"type": "array", "items": ITEMS}, "[[1],[2,3]", "separator $[*]", True),
    ({"type": "array", "items": ITEMS}, "[[1],[", "separator $[*][*]", True),
    (NODE, '{"v":1,"c":[', "separator $.c[*]", True),
    (NODE, '{"v":1,"c":[{"v":2,"c":[]}', "separator $.c[*]", True),
    # Another level of itself, or a leaf.
    (TREE, "", "separator $", True),
    (TREE, '{"args":[1,', "separator $.args[*]", True),
    # Keys that the schema does not name have no end; those it names are soon used up.
    ({"type": "object", "additionalProperties": STRING}, '{"a":"b"', "separator $.*", True),
    ({"type": "object", "additionalProperties": STRING}, '{"a', "key $.*", True),
    (closed(a=STRING), '{"a', "key $.*", False),
    ({**closed(a=STRING, b=STRING), "required": []}, '{"a":"b"', "separator $.*", False),
    (closed(a=STRING), '{"a": ', "whitespace $.a", True),
    (closed(a={"type": "boolean"}), '{"a":tr', "literal $.a", False),
    (STRING, '"a"', "eos", False),
]


@pytest.mark.parametrize(("schema", "prefix", "name", "needed"), NEEDED)
def test_a_loop_needs_its_exit_within_its_bound(
    schema: Any, prefix: str, name: str, needed: bool
) -> None:
    state = last(schema, prefix)
    assert SETS.place(state).name == name
    modal = SETS.modal(state)
    assert modal.tail_needed == needed
    # What is modal is live, and where a tail is needed something live is not modal.
    asked = Ask(form=state.form)
    ids = cut(prefix.encode())
    live = [SETS.states_of(asked, [*ids, i, EOS])[-1] is not None for i in range(1, len(TABLE))]
    modal_live = [i for i in modal.members.tolist() if i != EOS]
    assert all(live[i - 1] for i in modal_live)
    ends = state.complete and EOS not in modal.members.tolist()
    assert needed == (sum(live) > len(modal_live) or ends)


# ---- against slow definitions -----------------------------------------------------------------

WITNESSES = [
    (CALL, '{"name":"book","seats": 12,"late":true,"tags":["a\u00e9","\\u00e9b\\""]}'),
    (NODE, '{"v":-1.5e1,"c":[{"v":0,"c":[]},{"v":2,"c":[]}]}'),
    (TREE, '{"args":[1,{"args":[]}, 23]}'),
    ({}, '{"a":[[],{}],"ab":null,"b":"x"}'),
    ({"type": "string", "pattern": "^[0-9]{2}-[a-z]+$"}, '"12-ab"'),
    ({"type": "array", "items": {"type": "string", "maxLength": 2}, "maxItems": 2}, '["ab","a"]'),
]


@pytest.mark.parametrize(("schema", "text"), WITNESSES)
def test_modal_sets_are_what_bytes_one_by_one_say(schema: Any, text: str) -> None:
    """Liveness by a matcher that knows bytes alone, loops by the tracker, token by token."""
    form = CONTRACT.read_form(schema)
    assert schema_failure(text, form) is None
    alone = llguidance.LLMatcher(llguidance.LLTokenizer("byte"), grammar_of(form))
    data, ids = text.encode(), cut(text.encode())
    for length, state in enumerate(SETS.states_of(Ask(form=form), [*ids, EOS])):
        assert state is not None
        here = alone.deep_copy()
        assert here.try_consume_tokens(list(data[:length])) == length
        live = {
            i
            for i, token in enumerate(TABLE)
            if token and here.deep_copy().try_consume_tokens(list(token)) == len(token)
        }
        modal = SETS.modal(state)
        members = set(modal.members.tolist())
        if not modal.tail_needed:
            assert members == live | ({EOS} if state.complete else set())
            continue
        at = state.position
        if at.spot in (Spot.STRING, Spot.KEY, Spot.NUMBER) and not at.blank:
            # Byte by byte in the same text, key or number.
            staying = {i for i in live if _stays(at, TABLE[i] or b"")}
            assert members == staying
        assert members < live | ({EOS} if state.complete else set())


def _stays(at: Any, token: bytes) -> bool:
    for byte in token:
        after = at.after(bytes([byte]))
        if (after.spot, after.steps) != (at.spot, at.steps):
            return False
        at = after
    return True


def test_the_machine_of_rankings_has_the_same_text_set() -> None:
    """Two ways to the tokens that keep a text open; it takes more escapes, and DEL."""
    table = [None if t and (b"\\" in t or t == b"\x7f") else t for t in TABLE]
    machine = ModalSets(RANKING_WITH_REASON, [t or None for t in table], [EOS])
    prefix = b'{"reason":"so'
    state = advance(start(RANKING_WITH_REASON, ("A", "B")), prefix)
    assert state is not None
    mine = GrammarSets(table, [EOS])
    asked = Ask(form=CONTRACT.read_form(closed(reason=STRING)))
    own = mine.states_of(asked, [*prefix, EOS])[-1]
    assert own is not None
    assert mine.modal(own).members.tolist() == machine.members(state).tolist()


_values = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["book", "cancel", "other"]),
        "seats": st.integers(-20, 200) | st.floats(allow_nan=False, width=16),
        "late": st.booleans() | st.none(),
        "tags": st.lists(st.text(max_size=4), max_size=3),
    }
)


@settings(deadline=None, max_examples=200)
@given(_values, st.booleans(), st.sampled_from([None, 1]), st.randoms(use_true_random=False))
def test_what_is_followed_to_its_end_is_what_the_judge_takes(
    value: dict[str, Any], ascii_only: bool, indent: int | None, rng: random.Random
) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    if rng.random() < 0.3:
        at = rng.randrange(len(text))
        text = text[:at] + rng.choice(['"', "}", "1", ",", ""]) + text[at + 1 :]
    try:
        followed = states(CALL, text, rng)[-1]
    except UnicodeEncodeError:
        return
    failure = schema_failure(text, CONTRACT.read_form(CALL))
    complete = followed is not None and followed.complete
    if complete:
        assert failure is None or failure in BEYOND_GRAMMARS
    elif failure is None:
        # Accepted, and not as a grammar writes it.
        plain = json.dumps(json.loads(text), ensure_ascii=False, separators=(",", ":"))
        assert text != plain or "." in text


def test_special_tokens_and_unknown_ids_end_an_answer() -> None:
    asked = Ask(form=CONTRACT.read_form(STRING))
    nothing = TABLE.index(b"")
    for number in (EOS, nothing, len(TABLE), len(TABLE) + 7):
        assert SETS.states_of(asked, [ord('"'), number, ord("a")])[2] is None
    assert not np.isin([EOS, nothing], SETS.modal(last(STRING, '"a')).members).any()
    assert SETS.modal(last(STRING, '"a"')).members.tolist() == [EOS]


def test_equal_sets_are_one_array_and_states_may_come_in_any_order() -> None:
    found = [s for s in states(closed(a=STRING, b=STRING), '{"a":"xy","b":"xy"}') if s]
    texts = [s for s in found if SETS.place(s).token_class.value == "string_text"]
    assert len({id(SETS.modal(s).members) for s in texts}) == 1
    forward = [SETS.modal(s).members.tolist() for s in found]
    order = list(range(len(found)))
    random.Random(0).shuffle(order)
    fresh = sets()
    assert {i: fresh.modal(found[i]).members.tolist() for i in order} == dict(enumerate(forward))


def test_states_go_on_from_a_state() -> None:
    found = states(CALL, '{"name":"book"')
    first = found[5]
    assert first is not None
    rest = cut(b'{"name":"book"')[5:]
    again = SETS.states_from(first, [*rest, EOS])
    assert [s and s.position for s in again] == [s and s.position for s in found[5:]]


def test_free_text_is_where_any_letters_may_go_on() -> None:
    assert SETS.is_open_text(last(CALL, '{"name":"book","seats":1,"late":true,"tags":["a'))
    for schema, prefix in (
        (CALL, '{"na'),
        (CALL, '{"name":"bo'),
        (STRING, '"\\'),
        ({"type": "string", "pattern": "^a"}, '"a'),
        ({"type": "string", "format": "email"}, '"a'),
    ):
        assert not SETS.is_open_text(last(schema, prefix))


# ---- wrappers ---------------------------------------------------------------------------------


def in_wrapper(wrapper: str, text: str) -> list[GrammarState | None]:
    asked = Ask(form=CONTRACT.read_form(closed(a=STRING)))
    return WRAPPED[wrapper].states_of(asked, [*cut(text.encode()), EOS])


WRAPPED = {wrapper: GrammarSets(TABLE, [EOS], wrapper) for wrapper in ("fence", "think")}
VALUE = '{"a":"b"}'


@pytest.mark.parametrize(
    ("wrapper", "text"),
    [
        *(("fence", text) for text in (f"```json\n{VALUE}\n```", VALUE, f"```json\n{VALUE}\n")),
        *(("fence", f"```json\n{text}\n```") for text in (f" {VALUE}", f"{VALUE} ", "{}")),
        *(("think", f"<think>{t}</think>\n\n{VALUE}") for t in ("", "a\n</thin", "\n<think>")),
        *(("think", text) for text in (VALUE, f"<think></think>\n{VALUE}", "<think></think>\n\n")),
        ("think", f"<think></think></think>\n\n{VALUE}"),
        ("think", f"<think>\u00e9</think>\n\n{VALUE}"),
    ],
)
def test_what_is_wrapped_is_followed_as_it_is_judged(wrapper: str, text: str) -> None:
    contract = Wrapped(CONTRACT, wrapper)
    asked = Ask(form=CONTRACT.read_form(closed(a=STRING)))
    end = in_wrapper(wrapper, text)[-1]
    assert contract.judge(text, asked, ended=True).ok == (end is not None and end.complete)


def test_thoughts_are_a_loop_that_needs_its_tag() -> None:
    thinking = WRAPPED["think"]
    found = in_wrapper("think", f"<think>ab</think>\n\n{VALUE}")
    names = [thinking.place(state).name for state in found if state is not None]
    assert names == [
        *(["wrapper"] * 7 + ["thought"] * 10 + ["wrapper"] * 2),
        *("brace $", "key $.*", "key $.*", "key $.*", "separator $.a", "separator $.a"),
        *("string_text $.a", "string_text $.a", "close $", "eos"),
    ]
    inside, closing = found[8], found[16]
    assert inside is not None
    assert closing is not None
    # No token of this vocabulary is a tag, so only the last letter of one leaves.
    assert not thinking.modal(inside).tail_needed
    assert thinking.modal(closing).tail_needed
    assert ord(">") not in thinking.modal(closing).members
    tags = GrammarSets([*TABLE, b"</think>"], [EOS], "think")
    state = tags.states_of(Ask(form=inside.form), [*cut(b"<think>a"), EOS])[-1]
    assert state is not None
    assert tags.modal(state).tail_needed
    assert len(TABLE) not in tags.modal(state).members


def test_a_fence_is_spelled_out_to_its_end() -> None:
    fenced = WRAPPED["fence"]
    found = in_wrapper("fence", f"```json\n{VALUE}\n```")
    names = [fenced.place(state).name for state in found if state is not None]
    assert names[:9] == [*["wrapper"] * 8, "brace $"]
    assert names[-5:] == [*["wrapper"] * 4, "eos"]
    whole = found[-5]
    assert whole is not None
    assert not whole.complete
    assert fenced.modal(whole).members.tolist() == [ord("\n")]


# ---- what the engine does not follow ----------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "part"),
    [
        ({"uniqueItems": True}, 'Unimplemented keys: \\["uniqueItems"\\]'),
        ({"not": {"type": "string"}}, 'Unimplemented keys: \\["not"\\]'),
        ({"if": True, "then": {"required": ["a"]}}, '"if", "then"'),
        ({"contains": {"const": 1}}, "contains"),
        ({"dependentRequired": {"a": ["b"]}}, "dependentRequired"),
        ({"oneOf": [True, {"type": "string"}]}, "oneOf constraints are not supported"),
        ({"pattern": "^(?=a)b"}, "look-around"),
        (False, "takes nothing"),
    ],
)
def test_a_schema_that_is_not_followed_is_refused_by_name(schema: Any, part: str) -> None:
    form = CONTRACT.read_form(schema)
    problem = classes_problem(CONTRACT, ["true", form])
    assert problem is not None
    assert "\n" not in problem
    assert re.search(part, problem), problem


def test_a_schema_cannot_make_the_engine_lenient() -> None:
    form = CONTRACT.read_form({"uniqueItems": True, "x-guidance": {"lenient": True}})
    problem = classes_problem(CONTRACT, [form])
    assert problem is not None
    assert "uniqueItems" in problem


def test_alternatives_that_cannot_hold_together_are_followed() -> None:
    one = [closed(kind={"const": kind}, value=STRING) for kind in ("a", "b")]
    text = '{"kind":"b","value":"c"}'
    assert last({"oneOf": one}, text).complete
    assert SETS.place(last({"oneOf": one}, text[:-3])).name == "string_text $.value"


def test_a_tracker_starts_before_the_value() -> None:
    assert START.spot is Spot.VALUE
    assert START.after(b" [1, 2").steps == (1,)
    assert START.after(b'{"a":[1,2],"b":{}').open == "{"
    assert START.after(b'{"a":1}').spot is Spot.DONE
