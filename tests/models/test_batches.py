"""Batches: every example once an epoch, a function of (seed, update), prompts padded left."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from markov import codec_of
from opdcliff.data.answers import AnswerStyle
from opdcliff.data.example import Example, candidate_ids
from opdcliff.data.mini import SplitSizes, generate
from opdcliff.models.batches import IGNORE, batch_of_update, prompt_batch, sft_batches
from opdcliff.models.tokens.train_bpe import train_bpe

Rows = list[tuple[list[int], list[int]]]

STYLE = AnswerStyle(
    continue_mass=0.7, corrupt_rate=0.3, swap_rate=0.2, long_share=0.5, long_words=6
)


def _examples(count: int) -> list[Example]:
    return [Example(f"prompt {i}", candidate_ids(2), (0, 1), f"k{i}") for i in range(count)]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_bpe(["bought hat\nA liked boots\n" + '{"ranking":["A"],"reason":" soft"}'], 300)


# Which examples


@pytest.mark.parametrize(("count", "size"), [(12, 4), (10, 4), (7, 7), (5, 12), (3, 1)])
def test_every_epoch_has_each_example_once(count: int, size: int) -> None:
    examples = _examples(count)
    epochs = 4
    updates = -(-epochs * count // size)
    stream = [
        pair for update in range(updates) for pair in batch_of_update(examples, size, update, 0)
    ]
    assert [number for number, _ in stream] == list(range(updates * size))
    for epoch in range(epochs):
        part = stream[epoch * count : (epoch + 1) * count]
        assert Counter(e.key for _, e in part) == Counter(e.key for e in examples)


def test_a_batch_depends_on_seed_and_update_alone() -> None:
    examples = _examples(10)
    in_order = [batch_of_update(examples, 4, update, 7) for update in range(9)]
    resumed = [batch_of_update(examples, 4, update, 7) for update in reversed(range(9))]
    assert in_order == resumed[::-1]
    assert in_order != [batch_of_update(examples, 4, update, 8) for update in range(9)]


def test_epochs_have_different_orders() -> None:
    examples = _examples(20)
    orders = {
        tuple(e.key for _, e in batch_of_update(examples, 20, update, 0)) for update in range(5)
    }
    assert len(orders) == 5


def test_every_first_place_is_equally_likely() -> None:
    examples = _examples(4)
    first = Counter(batch_of_update(examples, 4, 0, seed)[0][1].key for seed in range(2000))
    # 500 expected, standard deviation 19.
    assert all(abs(seen - 500) < 80 for seen in first.values())
    assert len(first) == 4


# Prompts as tokens


def test_prompts_are_padded_on_the_left(tokenizer: Any) -> None:
    examples = [
        Example(text, candidate_ids(2), (0, 1), text) for text in ("hat", "bought boots\nA liked")
    ]
    ids_BL, attention_BL = prompt_batch(codec_of(tokenizer), examples)
    for row, attention, example in zip(
        ids_BL.tolist(), attention_BL.tolist(), examples, strict=True
    ):
        tokens = codec_of(tokenizer).encode(example.prompt)
        pad = ids_BL.shape[1] - len(tokens)
        assert row == [tokenizer.pad_token_id] * pad + tokens
        assert attention == [0] * pad + [1] * len(tokens)
    assert attention_BL[0].sum() < attention_BL[1].sum() == ids_BL.shape[1]


# Supervised rows


def _batches(
    tokenizer: Any, seed: int = 0, steps: int = 6, style: AnswerStyle = STYLE
) -> list[Rows]:
    examples = generate(0, SplitSizes(10, 1, 1), candidates=3).train
    return list(
        sft_batches(codec_of(tokenizer), examples, style, steps=steps, batch_size=4, seed=seed)
    )


def test_rows_are_prompt_answer_and_end_and_labels_repeat_what_carries_loss(tokenizer: Any) -> None:
    examples = generate(0, SplitSizes(10, 1, 1), candidates=3).train
    for step, rows in enumerate(_batches(tokenizer)):
        batch = batch_of_update(examples, 4, step, 0)
        for (ids, labels), (_, example) in zip(rows, batch, strict=True):
            prompt = codec_of(tokenizer).encode(example.prompt)
            assert len(ids) == len(labels)
            assert ids[: len(prompt)] == prompt
            assert labels[: len(prompt)] == [IGNORE] * len(prompt)
            assert ids[-1] == labels[-1] == tokenizer.eos_token_id
            assert ids.count(tokenizer.eos_token_id) == 1
            assert tokenizer.pad_token_id not in ids
            assert all(label in (IGNORE, token) for token, label in zip(ids, labels, strict=True))


def test_only_the_prompt_and_the_silent_words_are_without_loss(tokenizer: Any) -> None:
    style = AnswerStyle(0.7, 0.0, 0.0, 1.0, 6)
    examples = generate(0, SplitSizes(10, 1, 1), candidates=3).train
    silent_seen = 0
    for step, rows in enumerate(_batches(tokenizer, style=style)):
        for (ids, labels), (_, example) in zip(
            rows, batch_of_update(examples, 4, step, 0), strict=True
        ):
            start = len(codec_of(tokenizer).encode(example.prompt))
            head = codec_of(tokenizer).encode(tokenizer.decode(ids[start:]).split('"reason":"')[0])
            answer = labels[start:]
            assert IGNORE not in answer[: len(head)]
            gap = [i for i, label in enumerate(answer) if label == IGNORE]
            # One run of silent words, which ends before the close and the end token.
            assert gap == list(range(gap[0], gap[-1] + 1))
            assert gap[-1] < len(answer) - 2
            silent_seen += len(gap)
    assert silent_seen > 24


def test_without_silent_words_every_answer_token_carries_loss(tokenizer: Any) -> None:
    style = AnswerStyle(0.7, 0.3, 0.0, 0.0, 6)
    for rows in _batches(tokenizer, style=style):
        for ids, labels in rows:
            start = labels.count(IGNORE)
            assert labels == [IGNORE] * start + ids[start:]


def test_supervised_rows_are_a_function_of_the_seed(tokenizer: Any) -> None:
    first = _batches(tokenizer, seed=3)
    assert _batches(tokenizer, seed=3) == first
    assert _batches(tokenizer, seed=4) != first
    # A shorter run is the beginning of a longer one.
    assert _batches(tokenizer, seed=3, steps=2) == first[:2]


def test_an_example_met_again_gets_a_fresh_answer(tokenizer: Any) -> None:
    rows = [tuple(ids) for batch in _batches(tokenizer, steps=15) for ids, _ in batch]
    assert len(set(rows)) > 50
