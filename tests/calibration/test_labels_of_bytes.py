"""Labels of answers under many tokenizers against classes known from how they were written.

The reference knows the class of every byte of a correct answer, since it writes the answer piece by
piece; a token has the class of its first byte. It shares nothing with the prefix machine.
"""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
import torch

from made_tokenizers import MADE
from markov import codec_of
from opdcliff.calibration.label_check import check_labels
from opdcliff.calibration.modal_mass import CLASSES, NO_CLASS, answer_states, label
from opdcliff.contract.parse import RANKING_WITH_REASON
from opdcliff.data.example import Example
from opdcliff.errors import ModelError
from opdcliff.models.tokens.codec import Codec
from opdcliff.rollout.draws import Rollout
from real_tokenizers import NAMES, real_tokenizer

IDS = [
    *("A", "B", "Caf\u00e9", "\u00dcbung", "\u4e2d", "\U0001f600", "B07X", "two words"),
    *('say "x"', "a/b", "x\u00e9", "y\u4e2d"),
]
REASONS = [
    *("it fits", "", "na\u00efve \u4e2d\u6587 \U0001f600!", 'new\nline \\ and "quotes"'),
    *("a  b   c", "\u0928\u092e\u0938\u094d\u0924\u0947", "'s 123,456.78 <tool>", " x "),
]
ANSWERS = 200


def written(rng: random.Random) -> tuple[str, list[str], tuple[str, ...]]:
    """A correct answer, the class of each of its bytes, and its candidates."""
    ids = rng.sample(IDS, rng.randint(2, 4))
    blank = rng.choice(["", " "])
    ascii_only = rng.random() < 0.3
    pieces: list[tuple[str, str]] = [("{", "brace")]

    def quoted(text: str) -> str:
        return json.dumps(text, ensure_ascii=ascii_only)

    def key(name: str, last: str) -> None:
        pieces.append((f'"{name}"', "key"))
        pieces.append((f":{blank}{last}", "separator"))

    def ranking() -> None:
        key("ranking", "[")
        for i, name in enumerate(ids):
            if i:
                pieces.append((",", "separator"))
            pieces.append((blank * bool(i) + quoted(name), "id"))
        pieces.append(("]", "separator"))

    def reason() -> None:
        key("reason", '"')
        pieces.append((quoted(rng.choice(REASONS))[1:], "text"))

    first, second = rng.sample([ranking, reason], 2)
    first()
    pieces.append((",", "separator"))
    if blank:
        pieces.append((blank, "key"))
    second()
    pieces.append(("}", "close"))
    classes = [name for text, name in pieces for _ in text.encode()]
    return "".join(text for text, _ in pieces), classes, tuple(ids)


def rollout_of(rows: list[list[int]], ended: list[bool]) -> Rollout:
    width = max(map(len, rows))
    ids_BT = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
    mask_BT = torch.tensor([[t < len(row) for t in range(width)] for row in rows])
    prompt_B1 = torch.zeros(len(rows), 1, dtype=torch.long)
    return Rollout(
        torch.cat([prompt_B1, ids_BT], 1),
        torch.cat([prompt_B1 + 1, mask_BT.long()], 1),
        mask_BT,
        torch.tensor(ended),
    )


def single_bytes(codec: Codec, data: bytes) -> list[int] | None:
    of_byte = {part: i for i, part in enumerate(codec.token_bytes) if part and len(part) == 1}
    return [of_byte[data[i : i + 1]] for i in range(len(data))] if len(of_byte) == 256 else None


def check(tokenizer: Any) -> None:
    codec = codec_of(tokenizer)
    labels = codec.labels(RANKING_WITH_REASON)
    rng = random.Random(0)
    rows, expected, examples, ended = [], [], [], []
    for n in range(ANSWERS):
        text, classes, ids = written(rng)
        assert RANKING_WITH_REASON.parse(text, ids, ended=True).ok
        data = text.encode()
        cut = rng.randint(1, len(text)) if n % 4 == 1 else len(text)
        if n % 4 == 2 and (pieces := single_bytes(codec, data)):
            tokens = pieces
        elif n % 4 == 3:  # Split anywhere between characters, each part encoded on its own.
            at = sorted(rng.sample(range(len(text) + 1), 3))
            parts = [text[i:j] for i, j in zip([0, *at], [*at, len(text)], strict=True)]
            tokens = [i for part in parts if part for i in codec.answer_ids(part)]
        else:
            tokens = codec.answer_ids(text[:cut])
        starts = [0]
        for token in tokens:
            starts.append(starts[-1] + len(codec.answer_bytes([token])))
        whole = starts[-1] == len(data)
        rows.append([*tokens, codec.end_ids[0]] if whole else tokens)
        expected.append([classes[at] for at in starts[:-1]] + ["eos"] * whole)
        examples.append(Example("?", ids, (0,) * len(ids), str(n)))
        ended.append(whole)
    rollout = rollout_of(rows, ended)
    positions = label(rollout, examples, labels)
    for b, classes in enumerate(expected):
        codes = positions.class_BT[b, : len(rows[b])].tolist()
        found = [None if code == NO_CLASS else CLASSES[code].value for code in codes]
        assert found == classes, codec.answer_text(rows[b])
    states = answer_states(rollout, examples, labels)
    check_labels(rollout, examples, states, RANKING_WITH_REASON, labels, codec)


@pytest.mark.parametrize("name", [name for name in MADE if name != "unigram"])
def test_labels_are_the_classes_of_bytes(name: str) -> None:
    check(MADE[name]())


@pytest.mark.parametrize("name", NAMES)
def test_labels_are_the_classes_of_bytes_under_a_published_tokenizer(name: str) -> None:
    check(real_tokenizer(name))


def test_labels_that_say_less_than_the_judge_are_an_error_with_their_first_example() -> None:
    codec = codec_of(MADE["byte_level"]())
    text = '{"ranking":["A","B"],"reason":""}'
    ids = [*codec.encode(text), codec.end_ids[0]]
    rollout, examples = rollout_of([ids], [True]), [Example("?", ("A", "B"), (0, 0), "0")]
    labels = codec.labels(RANKING_WITH_REASON)
    states = answer_states(rollout, examples, labels)
    check_labels(rollout, examples, states, RANKING_WITH_REASON, labels, codec)
    states[0][5:] = [None] * len(states[0][5:])
    with pytest.raises(ModelError, match=r"answer '\{\"ranking.* parses, and 5 of its"):
        check_labels(rollout, examples, states, RANKING_WITH_REASON, labels, codec)
