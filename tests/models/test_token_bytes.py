"""Token bytes: against the library's encoder, a kept grammar engine, and published tokenizers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from made_tokenizers import MADE, SPECIAL, TEXTS, metaspace_bpe
from opdcliff.errors import ModelError
from opdcliff.models.tokens.token_bytes import byte_of_character, token_bytes
from real_tokenizers import NAMES, real_tokenizer

MADE_ONCE = {name: make() for name, make in MADE.items()}
# A Unigram trained on a few texts has no piece for characters that are not in them.
SPELLS_ALL = [name for name in MADE if name != "unigram"]
# Before the first word of a text.
PUTS_A_BLANK = ("metaspace_bpe", "unigram_bytes")


# By identity: a tokenizer is not hashable.
TABLES: dict[int, tuple[bytes | None, ...]] = {}


def spelled(tokenizer: Any, text: str) -> bytes:
    table = TABLES.setdefault(id(tokenizer), ()) or token_bytes(tokenizer)
    TABLES[id(tokenizer)] = table
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    parts = [table[i] for i in ids]
    assert None not in parts, "no special token in the text"
    return b"".join(part for part in parts if part is not None)


@pytest.mark.parametrize("name", MADE)
def test_an_encoded_text_joins_to_its_bytes(name: str) -> None:
    for text in [*TEXTS, "<tool>", "x  y"]:
        if name == "unigram" and text not in TEXTS:
            continue
        # SentencePiece puts a blank before the first word.
        assert spelled(MADE_ONCE[name], text) in (text.encode(), f" {text}".encode())


@settings(deadline=None, max_examples=200)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="<>\u2581")))
@example(" ")
@example("  ")
def test_any_text_joins_to_its_bytes(text: str) -> None:
    for name in SPELLS_ALL:
        blank = " " if name in PUTS_A_BLANK and text else ""
        # An added token of four blanks starts a text anew.
        joined = spelled(MADE_ONCE[name], text)
        assert joined == f"{blank}{text}".encode() or "    " in text


@pytest.mark.parametrize("name", MADE)
def test_one_entry_an_id_and_none_for_special_ones(name: str) -> None:
    tokenizer = MADE_ONCE[name]
    table, vocabulary = token_bytes(tokenizer), tokenizer.get_vocab()
    assert len(table) == max(vocabulary.values()) + 1
    none = {token for token, i in vocabulary.items() if table[i] is None}
    assert none == {*SPECIAL, "<|ctl|>"}
    assert table[vocabulary["<tool>"]] == b"<tool>"
    assert table[vocabulary["    "]] == b"    "


def test_ids_with_gaps_have_nothing_in_them() -> None:
    inner = Tokenizer(models.WordLevel({"<eos>": 7, "a": 2, "b": 300}, unk_token="<eos>"))
    inner.decoder = decoders.Fuse()
    table = token_bytes(PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>"))
    assert len(table) == 301
    assert {i: data for i, data in enumerate(table) if data is not None} == {2: b"a", 300: b"b"}


def test_a_lone_blank_and_a_leading_one_are_kept() -> None:
    tokenizer = metaspace_bpe()
    table, vocabulary = token_bytes(tokenizer), tokenizer.get_vocab()
    assert table[vocabulary["\u2581"]] == b" "
    assert table[vocabulary["<0xE9>"]] == b"\xe9"
    # What decoding alone makes of them.
    assert tokenizer.decode([vocabulary["\u2581"]]) == ""


def test_every_byte_has_one_character() -> None:
    assert sorted(byte_of_character().values()) == list(range(256))


@pytest.mark.parametrize(
    ("decoder", "named"),
    [
        (decoders.WordPiece(), "decoder WordPiece"),
        (decoders.BPEDecoder(), "decoder BPEDecoder"),
        (decoders.CTC(), "decoder CTC"),
        (decoders.Sequence([decoders.Strip(" ", 1, 0), decoders.Fuse()]), "decoder Strip"),
        (decoders.Sequence([decoders.ByteLevel(), decoders.Fuse()]), "decoder ByteLevel"),
        (None, "no decoder"),
    ],
)
def test_a_decoder_that_is_not_known_is_refused_by_name(decoder: Any, named: str) -> None:
    inner = Tokenizer(models.WordLevel({"<eos>": 0, "a": 1}, unk_token="<eos>"))
    if decoder is not None:
        inner.decoder = decoder
    with pytest.raises(ModelError, match=f"the student's tokenizer has .*{named}"):
        token_bytes(
            PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>"),
            "the student's tokenizer",
        )


def test_a_tokenizer_without_a_description_is_refused_by_name() -> None:
    class Slow:
        pass

    with pytest.raises(ModelError, match="is a Slow, which does not say"):
        token_bytes(Slow())


def assert_equals_the_engine(tokenizer: Any) -> None:
    engine = pytest.importorskip("xgrammar")
    decoded = engine.TokenizerInfo.from_huggingface(tokenizer).decoded_vocab
    table = token_bytes(tokenizer)
    assert len(decoded) == len(table)
    assert [data for data in table if data is not None] == [
        found for data, found in zip(table, decoded, strict=True) if data is not None
    ]


@pytest.mark.parametrize("name", [name for name in MADE if name != "unigram"])
def test_made_tokenizers_equal_the_engine(name: str) -> None:
    """The engine does not know a Metaspace decoder."""
    assert_equals_the_engine(MADE_ONCE[name])


@pytest.mark.parametrize("name", NAMES)
def test_published_tokenizers_equal_the_engine(name: str) -> None:
    assert_equals_the_engine(real_tokenizer(name))


@pytest.mark.parametrize("name", NAMES)
def test_published_tokenizers_join_to_the_bytes_of_a_text(name: str) -> None:
    for text in [*TEXTS, "\u05e9\u05dc\u05d5\u05dd \u0928\u092e\u0938\u094d\u0924\u0947 \x00\x7f"]:
        assert spelled(real_tokenizer(name), text) in (text.encode(), f" {text}".encode())
