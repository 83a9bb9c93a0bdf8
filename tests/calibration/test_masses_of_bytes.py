"""p and b of chains whose answers need token bytes: lone blanks, characters of several tokens.

The masses are those that the chains were built with; a label that goes dead, or a blank that is
taken for a special token, gives others.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import markov
from markov import EOS, PAD
from opdcliff.calibration.class_masses import Calibration, calibrate_trio
from opdcliff.contract.parse import RANKING_WITH_REASON
from opdcliff.data.example import Example
from opdcliff.models.trio import assemble

# Teacher and warm start: mass on each way on, and on closing. The blank is most of what differs.
GOES_ON = ({"\u2581": 0.36, "\u2581a": 0.5}, {"\u2581": 0.04, "\u2581a": 0.44})
P, B = 0.86, 0.48


def measured(tokenizer: Any, chains: list[dict[str, dict[str, float]]], example: Example) -> Any:
    texts = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    teacher, base = (markov.model_of(texts, after, torch.float32) for after in chains)
    return calibrate_trio(
        assemble(base, teacher, markov.codec_of(tokenizer)),
        [replace(example, key=str(n)) for n in range(64)],
        RANKING_WITH_REASON,
        replace(markov.config().calibration, prompts=64, forced_words=8, offset_bin=40),
        replace(markov.config().rollout, max_new_tokens=40, temperature=1.0),
        chunk_tokens=256,
    )


def path(tokens: list[str], words: dict[str, float], close: str) -> dict[str, dict[str, float]]:
    """A chain through `tokens`, then words or `close`, then the end."""
    after = {one: {two: 1.0} for one, two in pairwise(tokens)}
    text = {**words, close: 1.0 - sum(words.values())}
    return after | dict.fromkeys((tokens[-1], *words), text) | {close: {EOS: 1.0}}


def assert_text_has(calibration: Calibration, p: float, b: float) -> None:
    table = calibration.table
    (text,) = table[(table["class"] == "text") & (table["offsets"] == "all")].itertuples()
    assert text.p == pytest.approx(p, abs=1e-4)
    assert text.b == pytest.approx(b, abs=1e-4)
    assert text.positions > 64 * 8


def test_a_lone_blank_of_sentencepiece_is_text() -> None:
    opening = ['{"', "ranking", '":["', "A", '","', "B", '"],"', "reason", '":"']
    texts = [PAD, EOS, "<unk>", "p", *opening, "\u2581", "\u2581a", '"}']
    inner = Tokenizer(
        models.BPE({t: i for i, t in enumerate(texts)}, [], unk_token="<unk>", fuse_unk=True)
    )
    inner.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    inner.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token=PAD, eos_token=EOS, unk_token="<unk>"
    )
    chains = [path(["p", *opening], words, '"}') for words in GOES_ON]
    assert_text_has(measured(tokenizer, chains, Example("p", ("A", "B"), (0, 0), "")), P, B)


@pytest.mark.parametrize(
    ("ids", "pieces"),
    [
        (
            ("x\u00e9", "y\u4e2d"),
            ["x", "\u00c3", "\u00a9", '","', "y", "\u00e4", "\u00b8", "\u0143"],
        ),
        (("\u00e9", "\u4e2d"), ["\u00c3", "\u00a9", '","', "\u00e4", "\u00b8", "\u0143"]),
    ],
)
def test_ids_of_characters_in_pieces_stay_alive(ids: tuple[str, str], pieces: list[str]) -> None:
    """`pieces`: the bytes of the ids in the characters of a byte-level vocabulary."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    way = ["q", '{"ranking":["', *pieces, '"],"reason":"']
    others = [t for t in (*way, "\u0120b", '"}') if t not in alphabet]
    texts = dict.fromkeys([PAD, EOS, *alphabet, *others])
    inner = Tokenizer(models.BPE({t: i for i, t in enumerate(texts)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token=PAD, eos_token=EOS)
    chains = [path(way, {"\u0120b": mass}, '"}') for mass in (P, B)]
    found = measured(tokenizer, chains, Example("q", ids, (0, 0), ""))
    assert_text_has(found, P, B)
    table = found.table.set_index(["class", "offsets"])
    # The quote and comma between the ids stand in a token that begins with an id's closing quote.
    assert table.loc[("id", "all"), "positions"] == 64 * (len(pieces) + 1)
    assert table.loc[("eos", "all"), "prompts"] > 48
