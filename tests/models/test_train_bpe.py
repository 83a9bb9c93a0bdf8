"""The trained tokenizer: any text round trips, pieces concatenate, the end is not the padding."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from opdcliff.data.answer_style import AnswerStyle
from opdcliff.data.answers import draw_answer
from opdcliff.data.mini import SplitSizes, generate
from opdcliff.models.load import load_tokenizer
from opdcliff.models.tokens.token_bytes import token_bytes
from opdcliff.models.tokens.train_bpe import EOS, PAD, pad_left, train_bpe

STYLE = AnswerStyle(0.8, 0.5, 0.3, 0.3, 12)
SPECIAL = (PAD, EOS)


def _answers(count: int) -> Iterator[list[str]]:
    rng = np.random.default_rng(0)
    for problem in generate(0, SplitSizes(count, 1, 1), candidates=4).train:
        yield [problem.prompt, *(piece.text for piece in draw_answer(problem, STYLE, rng))]


TEXTS = ["".join(pieces) for pieces in _answers(200)]
TOKENIZER = train_bpe(TEXTS, 400)


def encode(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _decode(ids: list[int]) -> str:
    return str(TOKENIZER.decode(ids, skip_special_tokens=False))


@given(st.text().filter(lambda text: not any(name in text for name in SPECIAL)))
@example("")
@example(" \t\n\r  two  spaces , and . n't 's")
@example('{"ranking":["A"],"reason":" \\u0000\\ud83d"}')
@example("a\u0301 \u00e1 \ufb01 \u202e \U0001f600 \x00 \ufeff")
@settings(deadline=None, max_examples=300)
def test_any_text_round_trips(text: str) -> None:
    ids = encode(TOKENIZER, text)
    assert _decode(ids) == text
    assert not set(ids) & {TOKENIZER.eos_token_id, TOKENIZER.pad_token_id}


# Half a character of a surrogate pair is no text: the loaders refuse or clean it (test_prompts,
# test_amazon), so no tokenizer ever meets one.
PIECE = st.text(alphabet=st.characters(exclude_characters="<", exclude_categories=["Cs"]))


@given(st.lists(PIECE, max_size=6))
@settings(deadline=None, max_examples=150)
def test_pieces_encoded_one_by_one_spell_the_same_text(pieces: list[str]) -> None:
    assert _decode([i for piece in pieces for i in encode(TOKENIZER, piece)]) == "".join(pieces)


def test_answer_pieces_spell_the_answer_and_words_are_single_tokens() -> None:
    for pieces in _answers(30):
        tokens = [encode(TOKENIZER, piece) for piece in pieces]
        assert _decode([i for part in tokens for i in part]) == "".join(pieces)
        # One token a word, and one for the close: the text class has one position per word.
        # pieces: prompt, head, words, close.
        assert all(len(part) == 1 for part in tokens[2:] if part)


def test_end_and_padding_are_two_tokens_and_encode_adds_neither() -> None:
    assert TOKENIZER.eos_token_id != TOKENIZER.pad_token_id
    assert (TOKENIZER.pad_token, TOKENIZER.eos_token) == SPECIAL
    assert encode(TOKENIZER, "") == []


def test_training_is_deterministic_and_keeps_to_its_size() -> None:
    again = train_bpe(TEXTS, 400)
    assert again.get_vocab() == TOKENIZER.get_vocab()
    assert again.backend_tokenizer.to_str() == TOKENIZER.backend_tokenizer.to_str()
    assert len(train_bpe(TEXTS, 300)) == 300
    assert 258 < len(TOKENIZER) <= 400


def test_the_smallest_vocabulary_still_takes_any_text() -> None:
    smallest = train_bpe(TEXTS, 258)
    assert len(smallest) == 258
    text = "\u4e2d \U0001f600"
    assert smallest.decode(encode(smallest, text)) == text


def test_a_saved_tokenizer_is_the_same_when_loaded(tmp_path: Path) -> None:
    TOKENIZER.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.get_vocab() == TOKENIZER.get_vocab()
    assert token_bytes(loaded) == token_bytes(TOKENIZER)
    for text in TEXTS[:20]:
        assert encode(loaded, text) == encode(TOKENIZER, text)


def test_pad_left_aligns_the_ends_and_masks_the_padding() -> None:
    ids_BL, attention_BL = pad_left([[5, 6, 7], [8], [9, 10]], pad_id=0)
    assert ids_BL.tolist() == [[5, 6, 7], [0, 0, 8], [0, 9, 10]]
    assert attention_BL.tolist() == [[1, 1, 1], [0, 0, 1], [0, 1, 1]]
    assert ids_BL.dtype == attention_BL.dtype == torch.long


def test_padding_that_equals_a_token_is_still_told_apart_by_the_mask() -> None:
    ids_BL, attention_BL = pad_left([[0, 0], [0]], pad_id=0)
    assert ids_BL.tolist() == [[0, 0], [0, 0]]
    assert attention_BL.tolist() == [[1, 1], [0, 1]]
