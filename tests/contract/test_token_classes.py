"""The prefix machine against the parser, and modal sets against slow definitions."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from opdcliff.contract import modal_sets as modal_sets_module
from opdcliff.contract.modal_sets import ModalSets
from opdcliff.contract.parse import RANKING_ONLY, RANKING_WITH_REASON, RankingContract
from opdcliff.contract.token_classes import (
    TAIL_NEEDED,
    PrefixState,
    TokenClass,
    advance,
    live_states,
    possible_bytes,
    start,
    step,
    token_class,
)
from opdcliff.errors import DataError

# Ids that are prefixes of each other make the viability of a fragment depend on the unused ids.
# Others need more than one byte, two UTF-16 units, or an escape.
ID_SETS = (
    *(("A", "B", "C"), ("A", "AB", "B1"), ("x",), ("Caf\u00e9", "Caf", "\u4e2d")),
    *(('a"b', "a\\", "\n/"), ("\U0001f600", "\U0001f601x", "\u00e9")),
)
CONTRACTS = (RANKING_WITH_REASON, RANKING_ONLY)


def run(text: str, contract: RankingContract, ids: tuple[str, ...]) -> PrefixState | None:
    # A lone surrogate is no UTF-8; its bytes are what `Codec.answer_text` shows as surrogates.
    return advance(start(contract, ids), text.encode("utf-8", "surrogatepass"))


def as_bytes(texts: Iterable[str | None]) -> list[bytes | None]:
    return [None if text is None else text.encode() for text in texts]


def label_tokens(
    contract: RankingContract, ids: tuple[str, ...], texts: list[str | None]
) -> list[TokenClass | None]:
    """The class of each position; None once the prefix is dead or has ended."""
    states = live_states(start(contract, ids), as_bytes(texts))
    return [None if state is None else token_class(state) for state in states]


def complete(state: PrefixState | None) -> bool:
    return state is not None and token_class(state) is TokenClass.EOS


@st.composite
def answers(draw: st.DrawFn) -> tuple[str, RankingContract, tuple[str, ...]]:
    """A random accepted answer with its contract and ids."""
    contract = draw(st.sampled_from(CONTRACTS))
    ids = draw(st.sampled_from(ID_SETS))
    value = {
        "ranking": draw(st.permutations(ids)),
        "reason": draw(st.text(max_size=12) | st.text(alphabet='"\\/\n\x00u{}[],:A', max_size=12)),
    }
    blank = st.text(alphabet=" \t\r\n", max_size=2)
    text = json.dumps(
        {key: value[key] for key in draw(st.permutations(contract.keys))},
        ensure_ascii=draw(st.booleans()),
        indent=draw(st.none() | st.integers(0, 2) | st.just("\t")),
        separators=(draw(blank) + "," + draw(blank), draw(blank) + ":" + draw(blank)),
    )
    return text, contract, ids


def split_bytes(data: bytes, most: int, rng: random.Random) -> list[bytes]:
    """Up to `most` pieces, cut anywhere: inside characters too."""
    count = len(data) if most >= len(data) else rng.randint(1, most)
    cuts = sorted(rng.sample(range(1, len(data)), count - 1))
    return [data[i:j] for i, j in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def finish(state: PrefixState, ids: tuple[str, ...]) -> str:
    """A shortest-first greedy completion of a live state: proof that it is live."""
    letters = sorted({char for name in ("ranking", "reason", *ids) for char in name})
    suffix = ""
    current = state
    while not complete(current):
        assert len(suffix) < 200, f"no completion found from {state}"
        for char in [
            '"',
            "}",
            "]",
            ",",
            ":",
            "[",
            "{",
            *letters,
            "0",
            *"\\u123456789abcdef",
            *"rnt/",
        ]:
            after = advance(current, char.encode())
            if after is not None:
                current, suffix = after, suffix + char
                break
        else:
            pytest.fail(f"{current} is live but has no continuation")
    return suffix


@settings(deadline=None, max_examples=300)
@given(answers(), st.randoms(use_true_random=False))
def test_accepted_answers_run_to_completion(
    case: tuple[str, RankingContract, tuple[str, ...]], rng: random.Random
) -> None:
    text, contract, ids = case
    assert contract.parse(text, ids, ended=True).ok
    data = text.encode()
    char_states = live_states(
        start(contract, ids), [*split_bytes(data, len(data), rng), None, None]
    )
    assert all(state is not None for state in char_states[:-1])
    assert complete(char_states[-2])
    assert char_states[-1] is None
    pieces = split_bytes(data, 9, rng)
    ends = np.cumsum([len(piece) for piece in pieces])
    starts = [0, *ends.tolist()]
    found = live_states(start(contract, ids), [*pieces, None])
    assert found == [char_states[i] for i in starts]


@st.composite
def mutations(draw: st.DrawFn) -> tuple[str, RankingContract, tuple[str, ...]]:
    """An accepted answer with one or two characters inserted, deleted or replaced."""
    text, contract, ids = draw(answers())
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(0, len(text)))
        new = draw(st.sampled_from(['"', "\\", *"{}[]:, \nABCux0,1rN\x00\x7f\xa0\ud800", ""]))
        text = text[:at] + new + text[at + draw(st.integers(0, 1)) :]
    return text, contract, ids


@settings(deadline=None, max_examples=300)
@given(mutations())
@example(('{"ranking":["A","A"],"reason":""}', RANKING_WITH_REASON, ("A", "B")))
@example(('{"ranking":["A","B"],"ranking":["A","B"]}', RANKING_ONLY, ("A", "B")))
@example(('{"ranking":["A","B"],"reason":""} ', RANKING_WITH_REASON, ("A", "B")))
@example((' {"ranking":["x"]}', RANKING_ONLY, ("x",)))
@example(('{"ranking":["x"],}', RANKING_ONLY, ("x",)))
@example(('{"ranking":["x",]}', RANKING_ONLY, ("x",)))
@example(('{"ranking":[]}', RANKING_ONLY, ("x",)))
@example(('{"reason":["x"],"ranking":""}', RANKING_WITH_REASON, ("x",)))
@example(('{"ranking":["x"],"reason":"\\u00g0"}', RANKING_WITH_REASON, ("x",)))
@example(('{"ranking":["x"],"reason":"\\ud8"}', RANKING_WITH_REASON, ("x",)))
@example(('{"ranking":["x"],"reason":"\\a"}', RANKING_WITH_REASON, ("x",)))
@example(('{"ranking":["x"],"reason":"\\/\\b\\f\\n\\r\\t"}', RANKING_WITH_REASON, ("x",)))
@example(('{"ranking":["x"],"reason":"\ud800"}', RANKING_WITH_REASON, ("x",)))
@example(('{"ranking":["x"],"reason":"\udfff"}', RANKING_WITH_REASON, ("x",)))
@example(('{"ranking":["x"],"reason":"\x1f"}', RANKING_WITH_REASON, ("x",)))
def test_parser_and_machine_agree_on_mutated_answers(
    case: tuple[str, RankingContract, tuple[str, ...]],
) -> None:
    text, contract, ids = case
    assert complete(run(text, contract, ids)) == contract.parse(text, ids, ended=True).ok


@settings(deadline=None, max_examples=300)
@given(mutations())
def test_live_prefixes_can_be_completed_and_dead_ones_cannot(
    case: tuple[str, RankingContract, tuple[str, ...]],
) -> None:
    text, contract, ids = case
    states = [run(text[:length], contract, ids) for length in range(len(text) + 1)]
    alive = [state is not None for state in states]
    assert alive == sorted(alive, reverse=True), "a dead prefix never revives"
    last = alive.count(True) - 1
    live = states[last]
    assert live is not None
    assert contract.parse(text[:last] + finish(live, ids), ids, ended=True).ok
    if last < len(text):
        # The suffix that completed the live prefix does not complete the dead one.
        for rest in ("", finish(live, ids), text[last + 1 :]):
            assert not contract.parse(text[: last + 1] + rest, ids, ended=True).ok


@pytest.mark.parametrize(
    ("name", "spelled"),
    [
        ("x", "\\u0078"),
        ("xy", "x\\u0079"),
        ("\u00e9", "\\u00e9"),
        ("\u00e9", "\\u00E9"),
        ("\U0001f600", "\\ud83d\\ude00"),
        ("\U0001f600", "\\uD83d\\uDE00"),
        ('"', '\\"'),
        ('"', "\\u0022"),
        ("/", "\\/"),
        ("\n", "\\n"),
    ],
)
def test_an_escaped_spelling_is_alive_as_it_parses(name: str, spelled: str) -> None:
    for text in (f'{{"ranking":["{spelled}"]}}', f'{{"rankin\\u0067":["{spelled}"]}}'):
        assert RANKING_ONLY.parse(text, (name,), ended=True).ok
        assert complete(run(text, RANKING_ONLY, (name,)))


@pytest.mark.parametrize(
    "spelled", ["\\U0078", "\\u0079", "\\u078", "\\x", "x\\u0000", "\\ud83d\\u0078", "x\\"]
)
def test_an_escape_that_spells_no_id_is_dead(spelled: str) -> None:
    text = f'{{"ranking":["{spelled}"]}}'
    assert not RANKING_ONLY.parse(text, ("x",), ended=True).ok
    assert run(text, RANKING_ONLY, ("x",)) is None


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=6))
@example("\u00e9\u4e2d".encode())
@example(b"\xed\xa0\x80")
@example(b"\xc0\xaf")
@example(b"\xf4\x90\x80\x80")
@example(b"\xf0\x9f\x98\x80\xff")
def test_bytes_of_the_text_live_exactly_while_they_are_utf_8(data: bytes) -> None:
    head, tail = '{"ranking":["x"],"reason":"', '"}'
    text = f"{head}{data.decode('utf-8', 'surrogateescape')}{tail}"
    whole = advance(start(RANKING_WITH_REASON, ("x",)), head.encode() + data + tail.encode())
    assert complete(whole) == RANKING_WITH_REASON.parse(text, ("x",), ended=True).ok


def test_class_of_every_character() -> None:
    kinds = {"b": TokenClass.BRACE, "k": TokenClass.KEY, "s": TokenClass.SEPARATOR}
    kinds |= {"i": TokenClass.ID, "t": TokenClass.TEXT, "c": TokenClass.CLOSE, "e": TokenClass.EOS}
    text = '{"ranking": ["B", "A"], "reason": "a\\u00e9\\""}'
    code = "bkkkkkkkkksssiiisiiiisskkkkkkkkksssttttttttttce"
    #       {"ranking": ["B", "A"], "reason": "a\u00e9\""}    (eos last)
    labels = label_tokens(RANKING_WITH_REASON, ("A", "B"), [*text, None])
    assert labels == [kinds[letter] for letter in code]


def test_class_of_a_token_is_that_of_its_first_character() -> None:
    tokens = ['{"', 'ranking":["', "B", '","A","C"', '],"reason', '":"', "ok", '"}', None]
    labels = label_tokens(RANKING_WITH_REASON, ("A", "B", "C"), tokens)
    assert labels == ["brace", "key", "id", "id", "separator", "key", "text", "text", "eos"]
    reordered = ['{"reason":"ok"', ',"ranking":["A"]', "}", None]
    labels = label_tokens(RANKING_WITH_REASON, ("A",), reordered)
    assert labels == ["brace", "separator", "close", "eos"]


@pytest.mark.parametrize(
    ("tokens", "labels"),
    [
        (['{"', "rank", "B", "x", None], ["brace", "key", "key", None, None]),
        (["Sure", "{", None], ["brace", None, None]),
        (["{", None, '"'], ["brace", "key", None]),
        (['{"ranking":["A","B","C"]', "}", None], ["brace", "separator", None]),
        (["{", '"ranking":["A","B","C"],"reason":"x"}', "x", None], ["brace", "key", "eos", None]),
        ([], []),
    ],
)  # fmt: skip
def test_the_violating_token_is_labelled_and_nothing_after_it(
    tokens: list[str | None], labels: list[str | None]
) -> None:
    assert label_tokens(RANKING_WITH_REASON, ("A", "B", "C"), tokens) == labels


def test_only_the_reason_needs_its_tail() -> None:
    assert frozenset({TokenClass.TEXT}) == TAIL_NEEDED


@pytest.mark.parametrize("ids", [(), ("A", "A"), ("A", "")])
def test_refuses_ids_that_are_absent_repeated_or_empty(ids: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match="distinct and non-empty"):
        start(RANKING_ONLY, ids)


@settings(deadline=None, max_examples=100)
@given(mutations())
def test_what_a_state_takes_is_among_its_possible_bytes(
    case: tuple[str, RankingContract, tuple[str, ...]],
) -> None:
    text, contract, ids = case
    state: PrefixState | None = start(contract, ids)
    for byte in text.encode("utf-8", "surrogatepass"):
        assert state is not None
        taken = {other for other in range(256) if step(state, other) is not None}
        possible = possible_bytes(state)
        assert possible is None or taken <= set(possible)
        state = step(state, byte)
        if state is None:
            break


# --- modal sets ---------------------------------------------------------------------------------

EOS_ID = 1
PLAIN = "{}[]:,ABC0uxnz"
VOCABULARY: list[str | None] = [
    None, "<eos>", "", *PLAIN, '"', "\\", "\n", " ", "\x00", "\ufffd", "\\\\", '\\"', '"}', '":',
    '":[', "],", '",', '","', '"]', '"]}', "ranking", "rank", "ing", "reason", 'reason":"', '{"',
    'ranking":["', "AB", 'A"', 'B"', 'A","B', "ok", 'ok"', 'ok"}', "00", "0000", "u00", 'u0041"',
    "n\\", "\\u", '"x', '"],"', '\n"', 'B"],"reason":"ok"}',
]  # fmt: skip
PAIR = ("A", "B")


def modal_sets() -> ModalSets:
    return ModalSets(RANKING_WITH_REASON, as_bytes(text or None for text in VOCABULARY), [EOS_ID])


def mask(modal: ModalSets, state: PrefixState) -> NDArray[np.bool_]:
    """The set as booleans over the vocabulary."""
    found = np.zeros(len(VOCABULARY), dtype=np.bool_)
    found[modal.members(state)] = True
    return found


def live(text: str) -> PrefixState:
    state = run(text, RANKING_WITH_REASON, PAIR)
    assert state is not None
    return state


def dense_answers(reasons: list[str]) -> list[str]:
    """Every accepted answer over PAIR that has no whitespace and one of these reasons."""
    rankings = [json.dumps(order, separators=(",", ":")) for order in permutations(PAIR)]
    items = [(f'"ranking":{r}', f'"reason":"{text}"') for r in rankings for text in reasons]
    return [f"{{{first},{second}}}" for item in items for first, second in permutations(item)]


def with_one_escape(answers: list[str]) -> list[str]:
    """The answers with each letter of a key or an id, in turn, written as an escape."""
    spelled = [
        f"{text[:i]}\\u{ord(text[i]):04x}{text[i + 1 :]}"
        for text in answers
        for i in range(len(text))
        if text[i].isalpha()
    ]
    assert all(RANKING_WITH_REASON.parse(text, PAIR, ended=True).ok for text in spelled)
    return spelled


def test_mask_equals_brute_force_outside_the_text() -> None:
    # No token of VOCABULARY enters the reason and goes on for more than two of its characters, so
    # the answers with these reasons decide every prefix + token without whitespace.
    reasons = ["ok", *("".join(chars) for n in range(3) for chars in product(PLAIN, repeat=n))]
    answers = [*dense_answers(reasons), *with_one_escape(dense_answers(["ok", "", "0"]))]
    prefixes = {text[:i] for text in answers for i in range(len(text) + 1)}
    dense = [i for i, t in enumerate(VOCABULARY) if t and not set(t) & set(" \n") and i != EOS_ID]
    modal, checked = modal_sets(), set()
    for answer in dense_answers(["", "0"]):
        for length in range(len(answer) + 1):
            state = live(answer[:length])
            if token_class(state) is TokenClass.TEXT:
                continue
            checked.add(token_class(state))
            expected = [answer[:length] + str(VOCABULARY[i]) in prefixes for i in dense]
            assert mask(modal, state)[dense].tolist() == expected, answer[:length]
            blank = answer[:length] + "\n" + answer[length:]
            accepted = RANKING_WITH_REASON.parse(blank, PAIR, ended=True).ok
            assert mask(modal, state)[VOCABULARY.index("\n")] == accepted
            assert mask(modal, state)[EOS_ID] == (length == len(answer))
    of_rankings = ("brace", "key", "separator", "id", "close", "eos")
    assert checked == {TokenClass(name) for name in of_rankings}


def stays_open(body: str) -> bool:
    """Whether `body` stands inside one JSON string that some filler and a quote can still end."""
    return any(is_string(f'"{body}{filler}"') for filler in ("", "n", "0", "00", "000", "0000"))


def is_string(text: str) -> bool:
    try:
        return isinstance(json.loads(text), str)
    except json.JSONDecodeError:
        return False


@pytest.mark.parametrize(
    "body", ["", "ok", "\\", "\\\\", "\\u", "\\u0", "\\u00", "\\u004", "\\u0041", '\\"']
)
def test_text_mask_equals_brute_force(body: str) -> None:
    expected = [bool(t) and i != EOS_ID and stays_open(body + str(t)) for i, t in
                enumerate(VOCABULARY)]  # fmt: skip
    modal = modal_sets()
    for prefix in ('{"reason":"', '{"ranking":["B","A"],"reason":"'):
        assert mask(modal, live(prefix + body)).tolist() == expected
    assert 0 < sum(expected) < len(expected)


def test_special_tokens_are_never_modal_but_for_eos() -> None:
    modal = modal_sets()
    for text in ("", '{"reason":"', '{"reason":"ok","ranking":["A","B"]}'):
        assert not mask(modal, live(text))[[0, 2]].any()
    done = live('{"reason":"ok","ranking":["A","B"]}')
    assert np.flatnonzero(mask(modal, done)).tolist() == [EOS_ID]


def test_sets_are_shared_kept_for_a_while_and_read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    modal = modal_sets()
    members = modal.members(live('{"reason":"'))
    assert modal.members(live('{"ranking":["B","A"],"reason":"longer text')) is members
    assert modal.members(live('{"reason":"\\')) is not members
    assert modal.members(live('{"ranking":["A",')) is not modal.members(live('{"ranking":["B",'))
    ends = ('{"ranking":["A","B"],"reason":""', '{"reason":"x","ranking":["B","A"]')
    assert modal.members(live(ends[0])) is modal.members(live(ends[1]))
    with pytest.raises(ValueError, match="read-only"):
        members[0] = 1
    monkeypatch.setattr(modal_sets_module, "KEPT_SETS", 2)
    for text in ("{", '{"ranking"', '{"reason":"x"'):
        modal.members(live(text))
    again = modal.members(live('{"reason":"'))
    assert again is not members
    assert again.tolist() == members.tolist()


def test_outside_the_text_few_of_many_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a set costs does not grow with the vocabulary: no pass over it."""
    words = ["".join(letters) for letters in product("abcdefghijklmnopqrstuvwxyz", repeat=3)]
    ways = [f"{mark}{word}" for mark in ("", " ", '"') for word in words]
    vocabulary = [b"<eos>", *(bytes([i]) for i in range(32, 127)), *as_bytes(ways)]
    modal = ModalSets(RANKING_WITH_REASON, vocabulary, [0])
    looked = 0

    def counted(original: Callable[..., object]) -> Callable[..., object]:
        def call(*of: object) -> object:
            nonlocal looked
            looked += 1
            return original(*of)

        return call

    for name in ("step", "advance"):
        monkeypatch.setattr(modal_sets_module, name, counted(getattr(modal_sets_module, name)))
    answer = '{"ranking":["A","B"],"reason":"'
    # But for the last state, where a quote opens the text and all words go on from it.
    for length in range(len(answer) - 1):
        modal.members(live(answer[:length]))
    assert len(vocabulary) > 50_000
    assert looked < 20 * len(answer)


def test_states_of_token_ids() -> None:
    texts = ['{"', 'ranking":["', 'B"', ",", '"', 'A"', "],", '"', 'reason":"', "ok", '"}']
    ids = [VOCABULARY.index(text) for text in texts]
    expected = live_states(start(RANKING_WITH_REASON, PAIR), as_bytes([*texts, None]))
    modal = modal_sets()
    assert modal.states(PAIR, [*ids, EOS_ID]) == expected
    assert complete(expected[-1])
    special = VOCABULARY.index("")
    for unknown in (special, len(VOCABULARY), len(VOCABULARY) + 7):
        assert modal.states(PAIR, [ids[0], unknown, ids[1]]) == [*expected[:2], None]
    assert modal.states_from(live('{"ranking":["'), ids[2:3]) == [live('{"ranking":["')]


def test_two_end_tokens_are_both_modal_and_both_end() -> None:
    modal = ModalSets(RANKING_ONLY, [b'{"ranking":["x"]}', b"<eos>", b"<end>"], (1, 2))
    done = advance(start(RANKING_ONLY, ("x",)), b'{"ranking":["x"]}')
    assert done is not None
    assert modal.members(done).tolist() == [1, 2]
    assert modal.states(("x",), [0, 2, 0])[1:] == [done, None]


PIECES = [
    None, b"\x00", b"a", b'"', b"\\", b"\xc3", b"\xa9", b"\xe4", b"\xb8", b"\xad",
    b"\xb8\xad", b"\xe4\xb8", b"\xa9a", b'\xa9"', b'\xad"}', b"\xff", b"\xf0\x9f", b"\x98\x80",
    b"\\ud8", b"\xed",
]  # fmt: skip


@pytest.mark.parametrize(
    "body", [b"", b"\xc3", b"\xe4", b"\xe4\xb8", b"\xf0\x9f", b"\xed", b"\\u00"]
)
def test_pieces_of_characters_are_modal_where_they_can_become_one(body: bytes) -> None:
    modal = ModalSets(RANKING_WITH_REASON, PIECES, [1])
    state = advance(start(RANKING_WITH_REASON, PAIR), b'{"reason":"' + body)
    assert state is not None
    some = (0x80, 0x9F, 0xBF, 0x30)
    fillers = [b"n", *(bytes(rest) for n in range(4) for rest in product(some, repeat=n))]
    expected = [
        i
        for i, piece in enumerate(PIECES)
        if i != 1
        and piece is not None
        and any(is_string_of_bytes(body + piece + filler) for filler in fillers)
    ]
    assert modal.members(state).tolist() == expected


def is_string_of_bytes(body: bytes) -> bool:
    try:
        return is_string(f'"{body.decode()}"')
    except UnicodeDecodeError:
        return False
