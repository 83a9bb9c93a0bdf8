"""What models hold on outputs that the other does not have, against a softmax written out."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

import markov
from families import build, byte_tokenizer
from markov import codec_of
from opdcliff.calibration.class_masses import calibrate_trio
from opdcliff.calibration.outside import Outside, mass_outside
from opdcliff.contract.parse import RANKING_WITH_REASON
from opdcliff.data.example import Example
from opdcliff.models.trio import assemble
from opdcliff.rollout.draws import Rollout, as_rollout
from opdcliff.settings.schema import CalibrationConfig

CODEC = codec_of(byte_tokenizer())
PROMPT = torch.tensor([[0, 5, 9], [8, 30, 7]])
ANSWERS = torch.tensor([[40, 41, 1, 0], [77, 200, 33, 90]])


def rollout() -> Rollout:
    return as_rollout(PROMPT, (PROMPT > 0).long(), ANSWERS, end_ids=(1,))


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize(
    ("family", "tied"), [("llama", True), ("qwen3", False), ("gemma2", True), ("gemma3", True)]
)
def test_the_mass_outside_is_that_of_the_whole_softmax(
    family: str, tied: bool, temperature: float
) -> None:
    teacher = build(family, 1, vocab_size=310, tie_word_embeddings=tied)
    whole = copy.deepcopy(teacher)
    trio = assemble(build(family, vocab_size=270), teacher, CODEC)
    (found,) = mass_outside(trio, rollout(), temperature=temperature, chunk_tokens=3)
    masses = []
    for row, length in enumerate((3, 4)):
        ids = torch.cat([PROMPT[row][PROMPT[row] > 0], ANSWERS[row, :length]])[None]
        with torch.no_grad():
            logits = whole(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.double()
        mass = torch.softmax(logits[0, -length - 1 : -1] / temperature, -1)[:, 270:].sum(-1)
        masses += mass.tolist()
    assert (found.model, found.outputs, found.shared) == ("teacher", 310, 270)
    assert found.mean == pytest.approx(sum(masses) / 7, rel=1e-4)
    assert found.largest == pytest.approx(max(masses), rel=1e-4)
    # It is cut again.
    assert trio.teacher.config.vocab_size == len(trio.teacher.lm_head.weight) == 270


def test_a_calibration_says_what_the_warm_start_holds_outside() -> None:
    student = build("qwen3", vocab_size=310)
    found = calibrate_trio(
        assemble(student, build("qwen3", 1, vocab_size=270), CODEC),
        [Example(f"prompt {i}", ("A", "B"), (1, 0), str(i)) for i in range(4)],
        RANKING_WITH_REASON,
        CalibrationConfig(
            prompts=4, forced_words=8, offset_bin=4, bootstrap=10, strengths=[5.0], seed=0
        ),
        replace(markov.config().rollout, max_new_tokens=6),
        chunk_tokens=64,
    )
    (outside,) = found.outside
    assert outside.model == "warm start"
    assert 0.0 < outside.mean < outside.largest < 1.0


def test_a_pair_of_equal_outputs_has_nothing_outside() -> None:
    trio = assemble(build("llama"), build("llama", 1), CODEC)
    assert mass_outside(trio, rollout(), temperature=1.0, chunk_tokens=8) == ()


def test_only_more_than_a_percent_warns() -> None:
    assert Outside("teacher", 10, 8, 0.011, 0.5).warns
    assert not Outside("teacher", 10, 8, 0.009, 0.5).warns
