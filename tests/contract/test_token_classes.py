"""The prefix machine against the parser, and modal sets against slow definitions."""

from __future__ import annotations

import json
import random
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from opdcliff.contract.modal_sets import ModalSets
from opdcliff.contract.parse import RANKING_ONLY, RANKING_WITH_REASON, Contract
from opdcliff.contract.token_classes import (
    TAIL_NEEDED,
    PrefixState,
    TokenClass,
    advance,
    live_states,
    start,
    token_class,
)
from opdcliff.errors import DataError

# Ids that are prefixes of each other make the viability of a fragment depend on the unused ids.
ID_SETS = (("A", "B", "C"), ("A", "AB", "B1"), ("x",))
CONTRACTS = (RANKING_WITH_REASON, RANKING_ONLY)


def run(text: str, contract: Contract, ids: tuple[str, ...]) -> PrefixState | None:
    return advance(start(contract, ids), text)


def label_tokens(
    contract: Contract, ids: tuple[str, ...], texts: list[str | None]
) -> list[TokenClass | None]:
    """The class of each position; None once the prefix is dead or has ended."""
    states = live_states(contract, ids, texts)
    return [None if state is None else token_class(state) for state in states]


def complete(state: PrefixState | None) -> bool:
    return state is not None and token_class(state) is TokenClass.EOS


@st.composite
def answers(draw: st.DrawFn) -> tuple[str, Contract, tuple[str, ...]]:
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


def split(text: str, rng: random.Random) -> list[str]:
    cuts = sorted(rng.sample(range(1, len(text)), rng.randint(0, min(8, len(text) - 1))))
    return [text[i:j] for i, j in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def finish(state: PrefixState, ids: tuple[str, ...]) -> str:
    """A shortest-first greedy completion of a live state: proof that it is live."""
    letters = sorted({char for name in ("ranking", "reason", *ids) for char in name})
    suffix = ""
    current = state
    while not complete(current):
        assert len(suffix) < 200, f"no completion found from {state}"
        for char in ['"', "}", "]", ",", ":", "[", "{", *letters, "0"]:
            after = advance(current, char)
            if after is not None:
                current, suffix = after, suffix + char
                break
        else:
            pytest.fail(f"{current} is live but has no continuation")
    return suffix


@settings(deadline=None, max_examples=300)
@given(answers(), st.randoms(use_true_random=False))
def test_accepted_answers_run_to_completion(
    case: tuple[str, Contract, tuple[str, ...]], rng: random.Random
) -> None:
    text, contract, ids = case
    assert contract.parse(text, ids, ended=True).ok
    char_states = live_states(contract, ids, [*text, None, None])
    assert all(state is not None for state in char_states[:-1])
    assert complete(char_states[-2])
    assert char_states[-1] is None
    pieces = split(text, rng)
    ends = np.cumsum([len(piece) for piece in pieces])
    starts = [0, *ends.tolist()]
    assert live_states(contract, ids, [*pieces, None]) == [char_states[i] for i in starts]


@st.composite
def mutations(draw: st.DrawFn) -> tuple[str, Contract, tuple[str, ...]]:
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
    case: tuple[str, Contract, tuple[str, ...]],
) -> None:
    text, contract, ids = case
    assert complete(run(text, contract, ids)) == contract.parse(text, ids, ended=True).ok


@settings(deadline=None, max_examples=300)
@given(mutations())
def test_live_prefixes_can_be_completed_and_dead_ones_cannot(
    case: tuple[str, Contract, tuple[str, ...]],
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


def test_escaped_spellings_are_the_documented_exception() -> None:
    for text in ('{"ranking":["\\u0078"]}', '{"rankin\\u0067":["x"]}'):
        assert RANKING_ONLY.parse(text, ("x",), ended=True).ok
        assert run(text, RANKING_ONLY, ("x",)) is None


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


@pytest.mark.parametrize("ids", [(), ("A", "A"), ("A", ""), ('A"',), ("A\\",), ("A\n",)])
def test_refuses_ids_that_have_no_literal_spelling(ids: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match="distinct, non-empty"):
        start(RANKING_ONLY, ids)


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
    return ModalSets(RANKING_WITH_REASON, VOCABULARY, EOS_ID)


def live(text: str) -> PrefixState:
    state = run(text, RANKING_WITH_REASON, PAIR)
    assert state is not None
    return state


def dense_answers(reasons: list[str]) -> list[str]:
    """Every accepted answer over PAIR that has no whitespace and one of these reasons."""
    rankings = [json.dumps(order, separators=(",", ":")) for order in permutations(PAIR)]
    items = [(f'"ranking":{r}', f'"reason":"{text}"') for r in rankings for text in reasons]
    return [f"{{{first},{second}}}" for item in items for first, second in permutations(item)]


def test_mask_equals_brute_force_outside_the_text() -> None:
    # No token of VOCABULARY enters the reason and goes on for more than two of its characters, so
    # the answers with these reasons decide every prefix + token without whitespace.
    reasons = ["ok", *("".join(chars) for n in range(3) for chars in product(PLAIN, repeat=n))]
    prefixes = {text[:i] for text in dense_answers(reasons) for i in range(len(text) + 1)}
    dense = [i for i, t in enumerate(VOCABULARY) if t and not set(t) & set(" \n") and i != EOS_ID]
    modal, checked = modal_sets(), set()
    for answer in dense_answers(["", "0"]):
        for length in range(len(answer) + 1):
            state = live(answer[:length])
            if token_class(state) is TokenClass.TEXT:
                continue
            checked.add(token_class(state))
            expected = [answer[:length] + str(VOCABULARY[i]) in prefixes for i in dense]
            assert modal.mask(state)[dense].tolist() == expected, answer[:length]
            blank = answer[:length] + "\n" + answer[length:]
            accepted = RANKING_WITH_REASON.parse(blank, PAIR, ended=True).ok
            assert modal.mask(state)[VOCABULARY.index("\n")] == accepted
            assert modal.mask(state)[EOS_ID] == (length == len(answer))
    assert checked == set(TokenClass) - {TokenClass.TEXT}


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
        assert modal.mask(live(prefix + body)).tolist() == expected
    assert 0 < sum(expected) < len(expected)


def test_special_tokens_are_never_modal_but_for_eos() -> None:
    modal = modal_sets()
    for text in ("", '{"reason":"', '{"reason":"ok","ranking":["A","B"]}'):
        assert not modal.mask(live(text))[[0, 2]].any()
    done = live('{"reason":"ok","ranking":["A","B"]}')
    assert np.flatnonzero(modal.mask(done)).tolist() == [EOS_ID]


def test_masks_are_shared_and_read_only() -> None:
    modal = modal_sets()
    mask = modal.mask(live('{"reason":"'))
    assert modal.mask(live('{"ranking":["B","A"],"reason":"longer text')) is mask
    assert modal.mask(live('{"reason":"\\')) is not mask
    assert modal.mask(live('{"ranking":["A",')) is not modal.mask(live('{"ranking":["B",'))
    ends = ('{"ranking":["A","B"],"reason":""', '{"reason":"x","ranking":["B","A"]')
    assert modal.mask(live(ends[0])) is modal.mask(live(ends[1]))
    with pytest.raises(ValueError, match="read-only"):
        mask[0] = True


def test_states_of_token_ids() -> None:
    texts = ['{"', 'ranking":["', 'B"', ",", '"', 'A"', "],", '"', 'reason":"', "ok", '"}']
    ids = [VOCABULARY.index(text) for text in texts]
    expected = live_states(RANKING_WITH_REASON, PAIR, [*texts, None])
    modal = modal_sets()
    assert modal.states(PAIR, [*ids, EOS_ID]) == expected
    assert complete(expected[-1])
    special = VOCABULARY.index("")
    assert modal.states(PAIR, [ids[0], special, ids[1]]) == [*expected[:2], None]
