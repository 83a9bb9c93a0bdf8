"""Adapters: fresh ones change nothing, share the base's weights, and load into the right base."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from markov import codec_of
from opdcliff.errors import ConfigError, ModelError
from opdcliff.models.load import build, known_positions, load_model, load_tokenizer
from opdcliff.models.tokens.train_bpe import train_bpe
from opdcliff.models.trio import Trio, assemble, fresh_student
from opdcliff.models.tuning.adapters import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    base_of,
    has_adapter,
    merge_own,
    put_adapter,
    sharing,
)
from opdcliff.models.tuning.saving import content_of, save_model
from opdcliff.rollout.scoring import completion_logp
from opdcliff.settings.schema import ArchConfig, LoraConfig
from whole_logp import completion_full_logp

TOKENIZER = train_bpe(["bought hat\nA liked boots\n"], 270)
LORA = LoraConfig(rank=3, alpha=6.0, targets=["all-linear"], dropout=0.0)
IDS = torch.arange(5, 37).view(2, 16)


def model_of(seed: int = 0, family: str = "qwen3") -> PreTrainedModel:
    arch = ArchConfig(
        family=family,
        hidden_size=16,
        intermediate_size=24,
        layers=2,
        heads=2,
        kv_heads=1,
        head_dim=8,
        max_positions=64,
    )
    return build(arch, TOKENIZER, seed).eval()


@pytest.fixture
def warm_start(tmp_path: Path) -> Path:
    folder = tmp_path / "warm_start"
    model_of().save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return folder


def trio_of(folder: Path, dtype: str = "float32") -> Trio:
    teacher = model_of(1).to(getattr(torch, dtype))
    return assemble(load_model(folder, dtype=dtype), teacher, codec_of(TOKENIZER))


def score(model: PreTrainedModel, full: bool = False) -> Tensor:
    inputs = (model, IDS, torch.ones_like(IDS), 8)
    with torch.no_grad():
        if full:
            return completion_full_logp(*inputs, temperature=0.9)
        return completion_logp(*inputs, temperature=0.9, chunk_tokens=5)


def trained(model: PreTrainedModel) -> dict[str, Tensor]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def train(model: PreTrainedModel, steps: int = 3) -> None:
    optimizer = torch.optim.AdamW(trained(model).values(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        logp = completion_logp(
            model, IDS, torch.ones_like(IDS), 8, temperature=1.0, chunk_tokens=99
        )
        (-logp.sum()).backward()
        optimizer.step()


def tensors(*models: PreTrainedModel) -> dict[int, Tensor]:
    """Distinct tensors of parameters, each storage once."""
    every = itertools.chain(*(model.parameters() for model in models))
    return {p.untyped_storage().data_ptr(): p for p in every}


# ---- the base of a student with an adapter ----------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("full", [False, True])
def test_the_base_of_a_trained_adapter_scores_as_a_warm_start_loaded_apart(
    dtype: str, full: bool, warm_start: Path
) -> None:
    """To the bit, before and after updates; and so does the student itself, adapter off."""
    trio = fresh_student(trio_of(warm_start, dtype), LORA)
    alone = score(load_model(warm_start, dtype=dtype), full)
    assert torch.equal(score(trio.student, full), alone)
    train(trio.student)
    assert not torch.equal(score(trio.student, full), alone)
    assert torch.equal(score(trio.base, full), alone)
    for module in trio.student.modules():
        if isinstance(module, BaseTunerLayer):
            module.enable_adapters(False)
    assert torch.equal(score(trio.student, full), alone)


def test_student_and_base_hold_the_base_once_and_the_adapter(warm_start: Path) -> None:
    trio = fresh_student(trio_of(warm_start), LORA)
    base = sum(p.numel() for p in trio.base.parameters())
    # Seven linear layers in each of two blocks.
    widths = [(16, 16), (16, 8), (16, 8), (16, 16), (16, 24), (16, 24), (24, 16)]
    adapter = 2 * sum(3 * (i + o) for i, o in widths)
    assert sum(t.numel() for t in tensors(trio.student, trio.base).values()) == base + adapter
    assert sum(p.numel() for p in trained(trio.student).values()) == adapter
    assert not trained(trio.base)
    apart = fresh_student(trio_of(warm_start), LORA, share=False)
    assert sum(t.numel() for t in tensors(apart.student, apart.base).values()) == 2 * base + adapter


def test_a_second_student_starts_where_the_first_did(warm_start: Path) -> None:
    first = fresh_student(trio_of(warm_start), LORA)
    train(first.student)
    second = fresh_student(first, LORA)
    assert torch.equal(score(second.student), score(second.base))
    full = fresh_student(first)
    assert len(trained(full.student)) == len(list(full.base.parameters()))
    assert not has_adapter(full.student)


def test_a_fresh_adapter_is_a_function_of_its_seed_and_draws_from_nobody(warm_start: Path) -> None:
    trio = trio_of(warm_start)

    def drawn(seed: int) -> list[Tensor]:
        return list(trained(fresh_student(trio, LORA, seed=seed).student).values())

    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = drawn(0)
    assert torch.equal(torch.rand(3), expected)
    assert all(map(torch.equal, first, drawn(0)))
    assert not all(map(torch.equal, first, drawn(1)))


def test_an_adapter_is_float32_on_narrower_weights(warm_start: Path) -> None:
    student = fresh_student(trio_of(warm_start, "bfloat16"), LORA).student
    assert {p.dtype for p in trained(student).values()} == {torch.float32}
    assert {p.dtype for p in student.parameters() if not p.requires_grad} == {torch.bfloat16}


def test_dropout_is_not_for_distillation(warm_start: Path) -> None:
    lora = LoraConfig(rank=3, alpha=6.0, targets=["all-linear"], dropout=0.1)
    with pytest.raises(ConfigError, match=r"model\.lora\.dropout=0\.1 is for `opdcliff sft`"):
        fresh_student(trio_of(warm_start), lora)


# ---- folders ----------------------------------------------------------------------------------


@pytest.fixture
def adapter(warm_start: Path, tmp_path: Path) -> Path:
    """A trained one, without a tokenizer."""
    student = put_adapter(sharing(load_model(warm_start, dtype="float32")), LORA, 0)
    train(student)
    save_model(student, tmp_path / "adapter", base=str(warm_start))
    return tmp_path / "adapter"


def test_an_adapter_loads_with_its_base(adapter: Path, warm_start: Path) -> None:
    student = put_adapter(load_model(warm_start, dtype="float32"), LORA, 0)
    train(student)
    loaded = load_model(adapter, dtype="float32")
    assert not has_adapter(loaded)
    assert [n for n, _ in loaded.named_parameters()] == [
        n for n, _ in model_of().named_parameters()
    ]
    torch.testing.assert_close(score(loaded), score(student), rtol=0, atol=1e-5)
    assert torch.equal(score(merge_own(student)), score(loaded))
    assert known_positions(adapter) == 64
    assert load_tokenizer(adapter).get_vocab() == TOKENIZER.get_vocab()
    # Both the adapter and what it goes on name its content.
    assert content_of(adapter, None)[1:] == content_of(warm_start, None)
    assert len(content_of(adapter, None)) == 2


def test_a_base_may_be_named_from_the_folder_of_the_adapter(adapter: Path) -> None:
    edit(adapter, base_model_name_or_path="../warm_start")
    loaded = load_model(adapter, dtype="float32")
    assert loaded is not None
    assert Path(base_of(adapter)[0]).resolve() == adapter.parent / "warm_start"


def test_an_adapter_may_go_on_another_one(adapter: Path, tmp_path: Path) -> None:
    below = load_model(adapter, dtype="float32")
    student = put_adapter(below, LORA, 1)
    train(student)
    save_model(student, tmp_path / "second", base=str(adapter))
    loaded = load_model(tmp_path / "second", dtype="float32")
    torch.testing.assert_close(score(loaded), score(student), rtol=0, atol=1e-5)


def edit(folder: Path, **changes: Any) -> None:
    file = folder / ADAPTER_CONFIG
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def lose(folder: Path) -> None:
    state = load_file(folder / ADAPTER_WEIGHTS)
    state.pop(min(state))
    save_file(state, folder / ADAPTER_WEIGHTS)


def spoil(folder: Path) -> None:
    state = load_file(folder / ADAPTER_WEIGHTS)
    state[min(state)][0] = torch.nan
    save_file(state, folder / ADAPTER_WEIGHTS)


def circle(folder: Path) -> None:
    other = folder.with_name("other")
    other.mkdir()
    (other / ADAPTER_CONFIG).write_text(json.dumps({"base_model_name_or_path": "../adapter"}))
    edit(folder, base_model_name_or_path="../other")


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda f: edit(f, base_model_name_or_path=None), "names no base; set base_model_name"),
        (lambda f: edit(f, base_model_name_or_path="."), "names no base; set base_model_name"),
        (circle, "goes on adapters that go on each other"),
        (lambda f: edit(f, megatron_config={"a": 1}), "has megatron_config="),
        (lambda f: edit(f, base_model_name_or_path="some/model"), "not pinned by revision=None"),
        (lambda f: edit(f, peft_type="IA3"), "has peft_type=IA3, which is not merged here"),
        (lambda f: edit(f, modules_to_save=["lm_head"]), "has modules_to_save="),
        (lambda f: edit(f, init_lora_weights="pissa"), "has init_lora_weights=pissa"),
        (lambda f: edit(f, target_modules=["lm_head"]), "cannot load the adapter|leave embed_to"),
        (lambda f: edit(f, r=4), "cannot load the adapter of"),
        (lambda f: (f / ADAPTER_WEIGHTS).unlink(), "cannot load the adapter of"),
        (lambda f: (f / ADAPTER_CONFIG).write_text("{"), "is not JSON from line 1"),
        (lambda f: (f / ADAPTER_CONFIG).write_text("[]"), "is no object"),
        (lambda f: (f / "model.safetensors").touch(), "an adapter .* and whole weights"),
        (lambda f: (f / ADAPTER_CONFIG).unlink(), "without adapter_config.json"),
        (lose, "its weights are not those of its configuration"),
        (spoil, "has a weight that is NaN or infinite"),
    ],
)
def test_an_adapter_that_cannot_be_used_is_one_line(
    damage: Callable[[Path], None], text: str, adapter: Path
) -> None:
    damage(adapter)
    with pytest.raises((ModelError, ConfigError), match=text) as caught:
        load_model(adapter, dtype="float32", role="student")
    assert "adapter" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_layers_are_chosen_by_name(family: str) -> None:
    lora = LoraConfig(rank=2, alpha=2.0, targets=["q_proj", "v_proj"], dropout=0.0)
    student = put_adapter(model_of(family=family), lora, 0)
    layers = {name.split(".lora_")[0].rpartition(".")[2] for name in trained(student)}
    assert layers == {"q_proj", "v_proj"}
    lora = LoraConfig(rank=2, alpha=2.0, targets=["c_attn"], dropout=0.0)
    with pytest.raises(ConfigError, match="c_attn is no linear layer of the student"):
        put_adapter(model_of(family=family), lora, 0)
