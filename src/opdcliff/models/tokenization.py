"""Tokenizers: a byte-level BPE trained on the task for tiny models, and encoding helpers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from opdcliff.contract import Contract, ModalSets

PAD, EOS = "<pad>", "<eos>"


def train_bpe(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE of at most `vocab_size` entries; end of sequence differs from padding.

    vocab_size: 258 or more, one entry per byte so that any text can be encoded and two special.

    Source: docs/ecosystem notes, "EOS masked because pad == eos" is a known mistake elsewhere.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        clean_up_tokenization_spaces=False,
    )


def encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids of `text` without special tokens."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def entries(tokenizer: Any) -> int:
    """One more than the largest id; ids may have gaps, so their number is no bound for them."""
    return int(max(tokenizer.get_vocab().values())) + 1


def vocabulary_texts(tokenizer: Any) -> list[str]:
    """The text each id adds to an answer; special and unused ids add nothing an answer may hold."""
    used = set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids)
    return [
        tokenizer.decode([i], skip_special_tokens=False) if i in used else ""
        for i in range(entries(tokenizer))
    ]


def modal_sets_for(contract: Contract, tokenizer: Any) -> ModalSets:
    """Modal sets over the vocabulary of a tokenizer."""
    return ModalSets(contract, vocabulary_texts(tokenizer), tokenizer.eos_token_id)


def answer_text(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of an answer, special tokens spelled out.

    Some models have more outputs than their tokenizer has entries, and some entries are not used;
    decoding drops such an id without a word, which would repair the answer. It becomes NUL here,
    which no contract takes.
    """
    tokens = tokenizer.convert_ids_to_tokens(list(map(int, ids)))
    if None in tokens:
        known = ids[: tokens.index(None)]
        return f"{tokenizer.decode(known, skip_special_tokens=False)}\0"
    text: str = tokenizer.decode(ids, skip_special_tokens=False)
    return text


def pad_left(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and attention mask of shape (B, L), padded on the left so that answers start aligned."""
    width = max(len(row) for row in rows)
    ids_BL = torch.full((len(rows), width), pad_id, dtype=torch.long)
    attention_BL = torch.zeros((len(rows), width), dtype=torch.long)
    for i, row in enumerate(rows):
        ids_BL[i, width - len(row) :] = torch.tensor(row, dtype=torch.long)
        attention_BL[i, width - len(row) :] = 1
    return ids_BL, attention_BL
