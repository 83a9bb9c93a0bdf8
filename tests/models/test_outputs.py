"""Pairs whose outputs differ by padding rows: cut to the shared entries, and put back exactly."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PhiConfig, PreTrainedModel

from families import FAMILIES, build, byte_tokenizer
from markov import codec_of
from opdcliff.errors import ModelError
from opdcliff.models.load import load_model
from opdcliff.models.trio import assemble
from opdcliff.models.weights.outputs import cut_outputs, uncut
from opdcliff.rollout.backends import sample
from whole_logp import completion_full_logp

TOKENIZER = byte_tokenizer()
CODEC = codec_of(TOKENIZER)
WIDE, SHARED = 320, 288
IDS = torch.tensor([[5, 9, 77, 130, 200, 41], [0, 0, 8, 257, 33, 66]])
ATTENTION = (IDS > 0).long()
# The first tied, the second not.
BOTH = [("gemma3", True), ("gpt2", True), ("qwen3", True), ("qwen3", False), ("llama", False)]


def wide(family: str, seed: int = 0, **changes: object) -> PreTrainedModel:
    return build(family, seed, vocab_size=WIDE, **changes)


def logits(model: PreTrainedModel) -> Tensor:
    with torch.no_grad():
        result: Tensor = model(input_ids=IDS, attention_mask=ATTENTION).logits
    return result


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cut_model_has_the_softmax_over_the_shared_entries(family: str) -> None:
    model = wide(family)
    # The unpadded row: what a library makes of padding is its own.
    expected = logits(model)[:1, 2:-1, :SHARED].log_softmax(-1)
    cut = cut_outputs(model, SHARED, "teacher")
    assert (cut.outputs, cut.shared) == (WIDE, SHARED)
    assert model.config.vocab_size == SHARED
    full = completion_full_logp(model, IDS[:1], ATTENTION[:1], 3, temperature=1.0)
    torch.testing.assert_close(full, expected, rtol=1e-5, atol=1e-5)
    assert logits(model).shape[-1] == SHARED


@pytest.mark.parametrize(("family", "tied"), BOTH)
def test_rows_are_put_back_exactly_and_taken_again(family: str, tied: bool) -> None:
    model = wide(family, tie_word_embeddings=tied)
    before, whole = logits(model), copy.deepcopy(model.state_dict())
    cut = cut_outputs(model, SHARED, "teacher")
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) is tied
    short, held = logits(model), copy.deepcopy(model.state_dict())
    with uncut(model, cut, "teacher"):
        assert torch.equal(logits(model), before)
        again = model.state_dict()
        assert all(torch.equal(again[name], value) for name, value in whole.items())
    assert torch.equal(logits(model), short)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in held.items())


def test_a_bias_of_the_head_is_cut_as_well() -> None:
    config = PhiConfig(
        vocab_size=WIDE,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        pad_token_id=WIDE - 1,
        eos_token_id=1,
        bos_token_id=None,
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    torch.nn.init.normal_(model.lm_head.bias)
    before = logits(model)
    cut = cut_outputs(model, SHARED, "student")
    torch.testing.assert_close(logits(model), before[..., :SHARED])
    # Its padding entry is gone.
    assert model.config.pad_token_id is None
    with uncut(model, cut, "student"):
        assert torch.equal(logits(model), before)


@pytest.mark.parametrize("larger", ["student", "teacher"])
def test_a_pair_is_put_together_over_the_shared_entries(larger: str) -> None:
    models = {role: build("qwen2", vocab_size=SHARED) for role in ("student", "teacher")}
    models[larger] = wide("qwen2", 1)
    trio = assemble(models["student"], models["teacher"], CODEC)
    assert set(trio.cut) == {larger}
    sizes = {m.config.vocab_size for m in (trio.student, trio.teacher, trio.base)}
    assert sizes == {SHARED}


def test_equal_outputs_are_left_alone() -> None:
    student, teacher = wide("qwen3"), wide("qwen3", 1)
    weight = student.get_input_embeddings().weight
    trio = assemble(student, teacher, CODEC)
    assert trio.cut == {}
    assert trio.student.get_input_embeddings().weight is weight
    assert trio.base.config.vocab_size == WIDE


def test_only_shared_entries_are_sampled() -> None:
    model = wide("llama", tie_word_embeddings=True)
    with torch.no_grad():
        # Close to uniform: a fifth of the mass is on the rows that go.
        model.get_output_embeddings().weight *= 1e-3
    cut_outputs(model, 260, "student")
    rollout = sample(
        model,
        IDS.repeat(20, 1),
        ATTENTION.repeat(20, 1),
        numbers=range(40),
        seed=0,
        stream=11,
        max_new_tokens=6,
        temperature=1.0,
        end_ids=CODEC.end_ids,
        pad_id=CODEC.pad_id,
    )
    assert int(rollout.completion_BT.max()) < 260


@pytest.mark.parametrize(("family", "tied"), BOTH)
def test_a_cut_student_is_saved_as_a_model_that_loads_again(
    family: str, tied: bool, tmp_path: Path
) -> None:
    model = wide(family, tie_word_embeddings=tied)
    cut_outputs(model, SHARED, "student")
    model.save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    again = load_model(tmp_path, dtype="float32")
    assert again.config.vocab_size == SHARED >= len(AutoTokenizer.from_pretrained(tmp_path))
    assert torch.equal(logits(again), logits(model))


def test_a_head_that_cannot_be_cut_is_one_line() -> None:
    model = wide("qwen3")
    model.lm_head = torch.nn.Sequential(model.lm_head)
    with pytest.raises(ModelError, match="the teacher has 320 outputs, more than the other model"):
        assemble(build("qwen3", vocab_size=SHARED), model, CODEC)
