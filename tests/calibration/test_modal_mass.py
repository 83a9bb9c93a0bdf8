"""Modal masses: labels against the contract, logits against an explicit float64 softmax."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

import markov
from opdcliff.calibration.modal_mass import (
    CLASSES,
    NO_CLASS,
    Positions,
    label,
    label_classes,
    modal_logits,
)
from opdcliff.contract.modal_sets import ModalSets
from opdcliff.contract.parse import RANKING_WITH_REASON
from opdcliff.contract.token_classes import TokenClass
from opdcliff.data.example import Example
from opdcliff.rollout.draws import Rollout

CANDIDATES = ("A", "B")
VOCABULARY = [
    *(markov.PAD, markov.EOS, '{"', "ranking", '":["', "A", "B", "Z", '","', '"],"', "reason"),
    *('":"', " soft", '"}', '"]}', "\\", "n", '"', " ", "\n", "{", "}", "\ufffd", "rank", "ing"),
]
TOKENIZER = markov.word_tokenizer(VOCABULARY)
CODEC = markov.codec_of(TOKENIZER)
TEXTS = ["" if data is None else data.decode() for data in CODEC.token_bytes]

HEAD = ('{"', "ranking", '":["', "B", '","', "A", '"],"', "reason", '":"')
ANSWERS: dict[str, tuple[str, ...]] = {
    "accepted": (*HEAD, " soft", " soft", '"}', markov.EOS),
    "empty reason": (*HEAD, '"}', markov.EOS),
    "escapes": (*HEAD, "\\", '"', "\\", "n", "\ufffd", '"}', markov.EOS),
    "reason first": (
        *('{"', "reason", '":"', " soft", '"', " ", "\n", '","', markov.EOS),
        *(" soft", " soft"),
    ),
    "spelled in parts": ('{"', "rank", "ing", '":["', "A", '","', "B", '"],"', "reason", '":"'),
    "cut off": (*HEAD, " soft", " soft", " soft"),
    "repeated id": ('{"', "ranking", '":["', "B", '","', "B", '"],"', "reason", '":"', '"}'),
    "unknown id": ('{"', "ranking", '":["', "Z", '","', "A", '"],"', markov.EOS),
    "too few ids": ('{"', "ranking", '":["', "B", '"],"', "reason", '":"', '"}', markov.EOS),
    "no reason": ('{"', "ranking", '":["', "B", '","', "A", '"]}', markov.EOS),
    "early end": ('{"', "ranking", '":["', markov.EOS),
    "control character": (*HEAD, " soft", "\n", " soft", '"}', markov.EOS),
    "text after": (*HEAD, '"}', " soft", markov.EOS),
    "padding inside": (*HEAD, " soft", markov.PAD, " soft", '"}', markov.EOS),
    "not an object": (" soft", " soft", markov.EOS),
    "nothing": (markov.EOS,),
}
# Every answer that parses once spaces are left out, but for what the reason holds.
ACCEPTED = [
    "{" + ",".join(keys) + "}"
    for first, second in itertools.permutations(CANDIDATES)
    for keys in itertools.permutations((f'"ranking":["{first}","{second}"]', '"reason":""'))
]


@pytest.fixture(scope="module")
def modal_sets() -> ModalSets:
    return CODEC.labels(RANKING_WITH_REASON)


@pytest.fixture(scope="module")
def rollout() -> Rollout:
    # Prompts of different lengths: padding on the left of all but one.
    prompts = ["A" if i % 3 else "B" for i in range(len(ANSWERS))]
    made = markov.rollout(TOKENIZER, prompts, list(ANSWERS.values()))
    wider = torch.nn.functional.pad(made.ids_BL, (2, 0))
    attention = torch.nn.functional.pad(made.attention_BL, (2, 0))
    wider[::2, 1:3], attention[::2, 1:3] = torch.tensor([11, 12]), 1
    return Rollout(wider, attention, made.mask_BT, made.ended_B)


@pytest.fixture(scope="module")
def positions(rollout: Rollout, modal_sets: ModalSets) -> Positions:
    return label(rollout, examples(), modal_sets)


def examples() -> list[Example]:
    return [Example("?", CANDIDATES, (1, 0), str(i)) for i in range(len(ANSWERS))]


def viable(prefix: str) -> bool:
    """Whether some continuation of the prefix parses, found by trying."""
    # What completes an escape that a prefix may end in: `n` in the reason, a letter of a name else.
    fillers = ["", "n"]
    if prefix.endswith("\\"):
        fillers += [f"u{ord(letter):04x}" for letter in sorted(set("rankingeosAB"))]
    return any(
        RANKING_WITH_REASON.parse(prefix + filler + text[i:], CANDIDATES, ended=True).ok
        for filler in fillers
        for text in ACCEPTED
        for i in range(1 if prefix else 0, len(text) + 1)
    )


def in_text(prefix: str) -> bool:
    """Whether the prefix ends inside the reason, escape or not: no id or key holds a `z`."""
    return viable(prefix + "z") or viable(prefix + "nz")


def test_a_position_is_labelled_while_the_answer_can_still_parse(positions: Positions) -> None:
    for b, answer in enumerate(ANSWERS.values()):
        prefix, alive = "", True
        for t, token in enumerate(answer):
            assert (positions.class_BT[b, t] != NO_CLASS) == alive, (answer, t)
            if alive:
                assert (CLASSES[positions.class_BT[b, t]] is TokenClass.TEXT) == in_text(prefix)
            prefix += token
            alive = alive and token not in (markov.EOS, markov.PAD) and viable(prefix)
        assert (positions.class_BT[b, len(answer) :] == NO_CLASS).all()


def test_classes_alone_are_those_of_the_labels(
    positions: Positions, rollout: Rollout, modal_sets: ModalSets
) -> None:
    assert torch.equal(label_classes(rollout, examples(), modal_sets), positions.class_BT)


def test_classes_alone_take_no_set(
    positions: Positions, rollout: Rollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A set is a walk through the vocabulary, and an update labels every answer."""
    modal_sets = CODEC.labels(RANKING_WITH_REASON)
    monkeypatch.delattr(ModalSets, "members")
    assert torch.equal(label_classes(rollout, examples(), modal_sets), positions.class_BT)


def test_classes_and_offsets_of_one_answer(positions: Positions) -> None:
    expected = [
        *(("brace", 0), ("key", 0), ("key", 1), ("id", 0), ("id", 1), ("id", 2), ("id", 3)),
        *(("key", 2), ("key", 3), ("text", 0), ("text", 1), ("text", 2), ("eos", 0)),
    ]
    assert [
        (CLASSES[code].value, offset)
        for code, offset in zip(
            positions.class_BT[0, :13].tolist(), positions.offset_BT[0, :13].tolist(), strict=True
        )
    ] == expected
    assert positions.offset_BT[0, 13:].eq(NO_CLASS).all()
    assert positions.of_class(TokenClass.TEXT)[0].tolist() == [
        t in (9, 10, 11) for t in range(positions.class_BT.shape[1])
    ]


def test_the_modal_set_holds_the_tokens_that_keep_the_answer_alive(positions: Positions) -> None:
    checked = set()
    for b, answer in enumerate(ANSWERS.values()):
        for t, code in enumerate(positions.class_BT[b, : len(answer)].tolist()):
            prefix = "".join(answer[:t])
            if code == NO_CLASS or prefix in checked:
                continue
            checked.add(prefix)
            test = in_text if CLASSES[code] is TokenClass.TEXT else viable
            # What follows a complete answer is its end.
            done = CLASSES[code] is TokenClass.EOS
            expected = [bool(text) and not done and test(prefix + text) for text in TEXTS]
            expected[TOKENIZER.eos_token_id] = done
            members = positions.sets[positions.set_BT[b, t]]
            assert members.tolist() == np.flatnonzero(expected).tolist(), prefix
    assert len(checked) > 25


def test_equal_modal_sets_share_a_row(positions: Positions) -> None:
    rows = positions.set_BT[positions.class_BT != NO_CLASS]
    assert set(rows.tolist()) == set(range(len(positions.sets)))
    text_rows = positions.set_BT[positions.of_class(TokenClass.TEXT)]
    assert len(text_rows) >= 20
    # Two: inside the string, and behind a backslash.
    assert len(text_rows.unique()) == 2


def test_a_rollout_without_live_positions_has_no_masses(modal_sets: ModalSets) -> None:
    dead = Positions(*(torch.full((2, 3), NO_CLASS) for _ in range(5)), [], [])
    rollout = markov.rollout(TOKENIZER, ["A", "A"], [("Z", "Z", "Z"), ("Z", "Z", "Z")])
    values = modal_logits(
        markov.transformer(VOCABULARY), rollout, dead, temperature=1.0, chunk_tokens=4
    )
    assert values.shape == (2, 3)
    assert values.isnan().all()


def reference(
    model: PreTrainedModel, rollout: Rollout, positions: Positions, temperature: float
) -> Tensor:
    """One forward pass per position on the bare prefix, and the softmax written out."""
    length = positions.class_BT.shape[1]
    start = rollout.ids_BL.shape[1] - length
    result = torch.full(positions.class_BT.shape, math.nan, dtype=torch.float64)
    for b, t in (positions.class_BT != NO_CLASS).nonzero().tolist():
        real = rollout.attention_BL[b, : start + t].bool()
        ids = rollout.ids_BL[b, : start + t][real]
        with torch.no_grad():
            logits = model(input_ids=ids[None]).logits[0, -1].numpy() / temperature
        weights = np.exp(logits - logits.max())
        modal = np.zeros(len(weights), dtype=bool)
        modal[positions.sets[positions.set_BT[b, t]]] = True
        result[b, t] = math.log(weights[modal].sum()) - math.log(weights[~modal].sum())
    return result


@pytest.mark.parametrize("temperature", [1.0, 0.6, 2.0])
def test_logits_equal_a_softmax_written_out(
    rollout: Rollout, positions: Positions, temperature: float
) -> None:
    model = markov.transformer(VOCABULARY)
    values = modal_logits(model, rollout, positions, temperature=temperature, chunk_tokens=7)
    expected = reference(model, rollout, positions, temperature)
    assert not values.isnan()[positions.class_BT != NO_CLASS].any()
    torch.testing.assert_close(values.double(), expected, rtol=2e-6, atol=2e-6, equal_nan=True)


def test_outputs_beyond_the_tokenizer_are_tail(rollout: Rollout, positions: Positions) -> None:
    padded = markov.transformer([*VOCABULARY, *"abcdefg"])
    values = modal_logits(padded, rollout, positions, temperature=1.0, chunk_tokens=64)
    expected = reference(padded, rollout, positions, 1.0)
    torch.testing.assert_close(values.double(), expected, rtol=2e-6, atol=2e-6, equal_nan=True)


def test_the_chunk_size_changes_nothing(rollout: Rollout, positions: Positions) -> None:
    model = markov.transformer(VOCABULARY).float()
    whole, *parts = (
        modal_logits(model, rollout, positions, temperature=1.0, chunk_tokens=chunk)
        for chunk in (10_000, 64, 5, 1)
    )
    for part in parts:
        torch.testing.assert_close(part, whole, rtol=1e-5, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("tail", [1e-3, 1e-6, 1e-9])
def test_masses_close_to_one_keep_their_digits(tail: float) -> None:
    chain = markov.chain([1.0 - tail], torch.float64)
    tokenizer = markov.tokenizer(1)
    rollout = markov.rollout(tokenizer, ["p"], [(markov.OPEN, " w0", " w0")])
    sets = markov.codec_of(tokenizer).labels(RANKING_WITH_REASON)
    positions = label(rollout, [markov.example()], sets)
    for model, accuracy in ((chain, 1e-6), (chain.float(), 1e-4)):
        values = modal_logits(model, rollout, positions, temperature=1.0, chunk_tokens=8)
        expected = math.log((1.0 - tail) / tail)
        assert values[0, 1:].tolist() == pytest.approx([expected] * 2, rel=accuracy)
