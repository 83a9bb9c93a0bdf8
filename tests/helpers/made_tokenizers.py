"""Tokenizers of the common kinds, trained or put together in a test."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedTokenizerFast

SPECIAL = ["<pad>", "<eos>", "<unk>"]
TEXTS = [
    'bought hat\nA liked boots\n{"ranking":["A","B"],"reason":" soft warm light"}',
    'Caf\u00e9 \u00dcbung \u4e2d\u6587 na\u00efve \U0001f600 {"ranking": ["Caf\u00e9", "B"]}',
    "    indented code\n\n\ttabs  and   blanks",
]
BYTE_PIECES = [f"<0x{byte:02X}>" for byte in range(256)]


def _wrap(inner: Tokenizer) -> PreTrainedTokenizerFast:
    # Special; in the text as it stands; and one of blanks, as code tokenizers have.
    inner.add_special_tokens([AddedToken("<|ctl|>", special=True, normalized=False)])
    inner.add_tokens([AddedToken("<tool>", normalized=False), AddedToken("    ", normalized=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )


def byte_level() -> PreTrainedTokenizerFast:
    """A byte-level BPE, as GPT-2, Qwen and Llama 3."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(
            vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
        ),
    )
    return _wrap(inner)


def metaspace_bpe() -> PreTrainedTokenizerFast:
    """A BPE over characters with bytes to fall back on and a Strip, as Llama 2 and Mistral."""
    inner = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    inner.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    inner.decoder = decoders.Sequence(
        [
            *(decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()),
            decoders.Strip(" ", 1, 0),
        ]
    )
    inner.train_from_iterator(
        TEXTS[:1],
        trainers.BpeTrainer(
            vocab_size=400, special_tokens=[*SPECIAL, *BYTE_PIECES], show_progress=False
        ),
    )
    return _plain_bytes(inner)


def gemma_like() -> PreTrainedTokenizerFast:
    """As `metaspace_bpe`, but nothing is put before a text and nothing taken off (Gemma)."""
    inner = Tokenizer.from_str(metaspace_bpe().backend_tokenizer.to_str())
    inner.normalizer = normalizers.Replace(" ", "\u2581")
    inner.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return _wrap(inner)


def unigram() -> PreTrainedTokenizerFast:
    """A Unigram model with a Metaspace decoder, as T5; it lacks what it was not trained on."""
    inner = Tokenizer(models.Unigram())
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    inner.train_from_iterator(
        TEXTS,
        trainers.UnigramTrainer(
            vocab_size=160, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False
        ),
    )
    return _wrap(inner)


def unigram_bytes() -> PreTrainedTokenizerFast:
    """A Unigram model with bytes to fall back on, as SentencePiece makes them (ALBERT, mT5)."""
    trained = json.loads(unigram().backend_tokenizer.to_str())["model"]
    pieces = [(str(piece), float(score)) for piece, score in trained["vocab"]]
    least = min(score for _, score in pieces)
    pieces += [(byte, least - 10.0) for byte in BYTE_PIECES]
    inner = Tokenizer(models.Unigram(pieces, trained["unk_id"], byte_fallback=True))
    inner.normalizer = metaspace_bpe().backend_tokenizer.normalizer
    inner.decoder = metaspace_bpe().backend_tokenizer.decoder
    inner.add_special_tokens(SPECIAL)
    return _wrap(inner)


def _plain_bytes(inner: Tokenizer) -> PreTrainedTokenizerFast:
    """The trainer knows byte pieces as special tokens only; published ones have them as pieces."""
    described = json.loads(inner.to_str())
    described["added_tokens"] = [
        added for added in described["added_tokens"] if added["content"] in SPECIAL
    ]
    return _wrap(Tokenizer.from_str(json.dumps(described)))


MADE: dict[str, Callable[[], Any]] = {
    "byte_level": byte_level,
    "metaspace_bpe": metaspace_bpe,
    "gemma_like": gemma_like,
    "unigram": unigram,
    "unigram_bytes": unigram_bytes,
}
