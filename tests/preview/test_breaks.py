"""What is said of the entry that broke an answer, whatever bytes it is."""

from __future__ import annotations

import pytest
import torch

from families import byte_tokenizer
from markov import codec_of
from opdcliff.contract.choice import get_contract
from opdcliff.data.example import Example
from opdcliff.preview.breaks import Break, breaks_of
from opdcliff.preview.sampling import SettledAnswers
from opdcliff.rollout.draws import as_rollout
from opdcliff.training.evaluation.metrics import judge

CODEC = codec_of(byte_tokenizer())
ID_OF = {data: number for number, data in enumerate(CODEC.token_bytes) if data is not None}


def broken(answer: bytes, gone: int) -> Break:
    """Of one answer that failed, after whose bytes an entry was gone."""
    answer_BT = torch.tensor([[ID_OF[answer[i : i + 1]] for i in range(len(answer))]])
    answer_BT = torch.cat([answer_BT, answer_BT[:, -1:]], 1)
    prompt_BL = torch.tensor([[ID_OF[b"p"]]])
    rollout = as_rollout(prompt_BL, torch.ones_like(prompt_BL), answer_BT, CODEC.end_ids)
    lost_BT = torch.zeros(answer_BT.shape)
    lost_BT[0, -1] = 0.25
    gone_BT = torch.full(answer_BT.shape, -1)
    gone_BT[0, -1] = gone
    answers = SettledAnswers(rollout, lost_BT, gone_BT, torch.zeros(answer_BT.shape))
    contract = get_contract("ranking_with_reason")
    judged = judge(rollout, [Example("p", ("A", "B"), (0, 0), "0")], contract, CODEC)
    (found,) = breaks_of(answers, judged, CODEC, 5.0, 1.2)
    assert (found.rate, found.lost) == (1.0, 0.25)
    return found


@pytest.mark.parametrize(
    ("answer", "gone", "entry", "context"),
    [
        (b"so", ID_OF[b'"'], '"', "so"),
        ("Caf\u00e9".encode(), ID_OF[b"x"], "x", "Caf\u00e9"),
        # Half of a character, before and as what is gone: no terminal takes such text.
        (b"\xe4\xb8", ID_OF[b"\xad"], r"\xad", r"\xe4\xb8"),
        (b"a\n\x1b", ID_OF[b"\x00"], r"\x00", r"a\n\x1b"),
        (b"a", CODEC.end_ids[0], "the end of the answer", "a"),
        (b"a", CODEC.pad_id, "entry 0, which is no text", "a"),
        (b"a", len(CODEC.token_bytes) + 5, "entry 263, which is no text", "a"),
    ],
)
def test_it_is_text_that_can_be_shown(answer: bytes, gone: int, entry: str, context: str) -> None:
    found = broken(answer, gone)
    assert (found.entry, found.context) == (entry, context)
    (found.entry + found.context).encode()
