"""Models: seeded builds, safe loading, one vocabulary, a base that training cannot reach."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedModel,
    Qwen3ForCausalLM,
)

from markov import codec_of
from opdcliff.errors import ModelError
from opdcliff.models import load as load_module
from opdcliff.models.load import build, load_model, load_tokenizer, same_vocabulary
from opdcliff.models.tokens.train_bpe import train_bpe
from opdcliff.models.trio import assemble, fresh_student
from opdcliff.models.weights import library_errors
from opdcliff.rollout.scoring import completion_logp
from opdcliff.settings.schema import ArchConfig

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKENIZER = train_bpe(["bought hat\nA liked boots\n"], 270)
CODEC = codec_of(TOKENIZER)


def _arch(**changes: Any) -> ArchConfig:
    sizes = {
        "family": "qwen3",
        "hidden_size": 16,
        "intermediate_size": 24,
        "layers": 2,
        "heads": 2,
        "kv_heads": 1,
        "head_dim": 8,
        "max_positions": 64,
    }
    return ArchConfig(**(sizes | changes))


def _build(seed: int = 0, **changes: Any) -> PreTrainedModel:
    return build(_arch(**changes), TOKENIZER, seed)


def _save(folder: Path, model: PreTrainedModel | None = None) -> Path:
    (model or _build()).save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return folder


def _edit(file: Path, **changes: Any) -> None:
    content = json.loads(file.read_text())
    file.write_text(json.dumps({k: v for k, v in (content | changes).items() if v is not None}))


def _state(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def _equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def _train_once(model: PreTrainedModel) -> None:
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    model(input_ids=torch.tensor([[5, 6, 7]])).logits.logsumexp(-1).sum().backward()
    optimizer.step()


# Building


def test_a_build_is_a_function_of_its_seed() -> None:
    assert _equal(_state(_build(1)), _state(_build(1)))
    assert not _equal(_state(_build(1)), _state(_build(2)))


def test_a_build_neither_reads_nor_moves_the_global_generators(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    torch.default_generator.manual_seed(5)
    before = torch.get_rng_state()
    first = _state(_build(1))
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert _equal(_state(_build(1)), first)
    assert seeded == []


@pytest.mark.parametrize(
    ("family", "expected"), [("qwen3", Qwen3ForCausalLM), ("llama", LlamaForCausalLM)]
)
def test_a_build_has_the_sizes_asked_for(family: str, expected: type) -> None:
    model = _build(family=family, layers=3, hidden_size=32, intermediate_size=40, head_dim=4)
    config = model.config
    assert type(model) is expected
    assert (config.num_hidden_layers, config.hidden_size, config.head_dim) == (3, 32, 4)
    assert (config.num_attention_heads, config.num_key_value_heads) == (2, 1)
    assert (config.intermediate_size, config.max_position_embeddings) == (40, 64)
    assert config.vocab_size == len(TOKENIZER)
    assert (config.eos_token_id, config.pad_token_id) == (
        TOKENIZER.eos_token_id,
        TOKENIZER.pad_token_id,
    )
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


# Loading


@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_a_saved_model_comes_back_bit_for_bit_in_evaluation_mode(
    tmp_path: Path, family: str
) -> None:
    model = _build(family=family)
    loaded = load_model(_save(tmp_path, model), dtype="float32")
    assert (tmp_path / "model.safetensors").is_file()
    assert type(loaded) is type(model)
    assert _equal(_state(loaded), _state(model))
    assert not loaded.training
    assert loaded.get_input_embeddings().weight is loaded.get_output_embeddings().weight


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_weights_load_in_the_asked_precision(tmp_path: Path, dtype: str) -> None:
    loaded = load_model(_save(tmp_path), dtype=dtype)
    assert {p.dtype for p in loaded.parameters()} == {getattr(torch, dtype)}


def test_a_folder_below_home_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    _save(tmp_path / "mine")
    assert _equal(_state(load_model("~/mine", dtype="float32")), _state(_build()))
    assert load_tokenizer("~/mine").get_vocab() == TOKENIZER.get_vocab()


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    _save(tmp_path)
    torch.save(_build().state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="safetensors"):
        load_model(tmp_path, dtype="float32")


def test_pickled_weights_beside_safetensors_are_not_read(tmp_path: Path) -> None:
    _save(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"not a pickle")
    assert _equal(_state(load_model(tmp_path, dtype="float32")), _state(_build()))


def _plant(folder: Path, name: str) -> Path:
    """A module that leaves a mark when it runs."""
    marker = folder / "ran"
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(f"open({str(marker)!r}, 'w').close()\n")
    return marker


REMOTE = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}


def test_code_beside_a_model_of_unknown_type_is_refused_unrun(tmp_path: Path) -> None:
    marker = _plant(_save(tmp_path), "evil.py")
    _edit(tmp_path / "config.json", model_type="evil", auto_map=REMOTE)
    with pytest.raises(ModelError, match="custom code"):
        load_model(tmp_path, dtype="float32")
    assert not marker.exists()


def test_code_beside_a_model_of_known_type_is_not_run(tmp_path: Path) -> None:
    marker = _plant(_save(tmp_path), "evil.py")
    _edit(tmp_path / "config.json", auto_map=REMOTE)
    assert type(load_model(tmp_path, dtype="float32")) is Qwen3ForCausalLM
    assert not marker.exists()


def test_a_generate_function_beside_a_model_is_not_run(tmp_path: Path) -> None:
    marker = _plant(_save(tmp_path), "custom_generate/generate.py")
    model = load_model(tmp_path, dtype="float32")
    model.generate(torch.tensor([[5]]), max_new_tokens=1)
    assert not marker.exists()


def test_code_beside_a_tokenizer_is_not_run(tmp_path: Path) -> None:
    marker = _plant(_save(tmp_path), "evil.py")
    _edit(
        tmp_path / "tokenizer_config.json",
        tokenizer_class="Evil",
        auto_map={"AutoTokenizer": ["evil.Slow", "evil.Fast"]},
    )
    assert load_tokenizer(tmp_path).get_vocab() == TOKENIZER.get_vocab()
    assert not marker.exists()


def test_an_attention_kernel_named_by_a_checkpoint_is_not_fetched(tmp_path: Path) -> None:
    _save(tmp_path)
    _edit(tmp_path / "config.json", attn_implementation="someone/kernel")
    assert load_model(tmp_path, dtype="float32").config._attn_implementation == "sdpa"


def test_an_architecture_that_cannot_be_used_is_named_and_the_remedy_is_another(
    tmp_path: Path,
) -> None:
    for changes, name in (({"model_type": "foolm"}, "foolm"), ({"model_type": "t5"}, "T5Config")):
        _save(tmp_path)
        _edit(tmp_path / "config.json", **changes)
        with pytest.raises(ModelError, match=f"{name}.*; this architecture is not supported"):
            load_model(tmp_path, dtype="float32")


COMMON = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
# Architectures of the library without sdpa, in their own words.
WITHOUT_SDPA: dict[str, dict[str, Any]] = {
    "gpt_oss": {
        **COMMON,
        "num_key_value_heads": 2,
        "intermediate_size": 32,
        "head_dim": 8,
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
    },
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
    "mamba2": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_heads": 8,
        "head_dim": 8,
        "state_size": 8,
        "n_groups": 1,
    },
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 4},
    "gpt_neo": {
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "window_size": 4,
        "attention_types": [[["global", "local"], 1]],
    },
    "gptj": {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 8},
    "xglm": {"d_model": 32, "ffn_dim": 32, "num_layers": 2, "attention_heads": 4},
}


@pytest.mark.parametrize("architecture", WITHOUT_SDPA)
def test_an_architecture_without_sdpa_is_loaded_and_scores_as_its_own_forward(
    architecture: str, tmp_path: Path
) -> None:
    shape = {"vocab_size": 64, "initializer_range": 0.2, "pad_token_id": 0, "eos_token_id": 1}
    config = AutoConfig.for_model(architecture, **shape, **WITHOUT_SDPA[architecture])
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    model = load_model(tmp_path, dtype="float32")
    assert model.config._attn_implementation == "eager"
    ids = torch.randint(2, 64, (2, 20), generator=torch.Generator().manual_seed(0))
    attention = torch.ones_like(ids)
    ids[1, :7] = attention[1, :7] = 0
    with torch.no_grad():
        found = completion_logp(model, ids, attention, 8, temperature=1.0, chunk_tokens=64)[1]
        logits = model(input_ids=ids[1:, 7:]).logits[0, -9:-1]
    expected = logits.log_softmax(-1).gather(-1, ids[1, -8:, None])[:, 0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("revision", [None, "main", "v1.0", COMMIT[:12], COMMIT.upper(), ""])
@pytest.mark.parametrize(
    "load", [lambda *a, **k: load_model(*a, dtype="float32", **k), load_tokenizer]
)
def test_a_hub_id_without_a_commit_is_refused_before_anything_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, load: Callable[..., Any], revision: str | None
) -> None:
    asked: list[Any] = []
    for loader in (load_module.AutoModelForCausalLM, load_module.AutoTokenizer):
        monkeypatch.setattr(loader, "from_pretrained", lambda *a, **k: asked.append((a, k)))
    with pytest.raises(ModelError, match="40 hex digits of a commit"):
        load("owner/name", revision=revision)
    assert asked == []


def test_a_hub_id_is_asked_for_at_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def offline(**arguments: Any) -> Any:
        asked.append(arguments)
        raise OSError("no network")

    for loader in (load_module.AutoModelForCausalLM, load_module.AutoTokenizer):
        monkeypatch.setattr(loader, "from_pretrained", offline)
    with pytest.raises(ModelError, match="no network"):
        load_model("owner/name", dtype="float32", revision=COMMIT)
    with pytest.raises(ModelError, match="no network"):
        load_tokenizer("owner/name", revision=COMMIT)
    for arguments in asked:
        assert arguments["pretrained_model_name_or_path"] == "owner/name"
        assert arguments["revision"] == COMMIT
        assert arguments["trust_remote_code"] is False


def _truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def _change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file, metadata={"format": "pt"})


WEIGHT = "model.layers.1.self_attn.q_proj.weight"
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "weights cut short": (_truncate, "cannot load the model"),
    "weights no safetensors": (
        lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 200),
        "cannot load the model",
    ),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "safetensors"),
    "a weight missing": (
        lambda folder: _change_weights(folder, lambda weights: weights.__delitem__(WEIGHT)),
        f"lacks 1 weights, such as {WEIGHT}",
    ),
    "a weight of another shape": (
        lambda folder: _change_weights(
            folder, lambda weights: weights.update({WEIGHT: torch.zeros(3, 3)})
        ),
        r"q_proj\.weight of shape \(3, 3\) where its config\.json asks for \(16, 16\)",
    ),
    "no config": (lambda folder: (folder / "config.json").unlink(), "cannot load the model"),
    "config no JSON": (
        lambda folder: (folder / "config.json").write_text("{"),
        "not a valid JSON",
    ),
    "config of wrong types": (
        lambda folder: _edit(folder / "config.json", hidden_size="wide"),
        "hidden_size",
    ),
    "a quantisation that is not installed": (
        lambda folder: _edit(
            folder / "config.json", quantization_config={"quant_method": "fbgemm_fp8"}
        ),
        "cannot load the model",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_checkpoint_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    damage, message = DAMAGES[name]
    damage(_save(tmp_path))
    with pytest.raises(ModelError, match=message) as caught:
        load_model(tmp_path, dtype="float32")
    assert "\n" not in str(caught.value)


def test_the_sentence_that_helps_is_shown_whole() -> None:
    """The words of the library about Gemma 2 with sdpa."""
    words = (
        "Some2ForCausalLM does not support an attention implementation through "
        "torch.nn.functional.scaled_dot_product_attention yet. Please request the support for this "
        "architecture: https://example.org/issues/28005. If you believe this error is a bug, "
        "please open an issue at https://example.org and load your model with the argument "
        '`attn_implementation="eager"` meanwhile.\n\nExample: `from_pretrained("x")`'
    )
    line = library_errors.cannot_load("student", "folder", ValueError(words))
    assert "Some2ForCausalLM does not support" in line
    assert "scaled_dot_product_attention yet. Example" in line
    assert "; this architecture is not supported: choose" in line
    long = "The first sentence. " + "Then a second one that says as much as that. " * 20
    line = library_errors.cannot_load("student", "folder", ValueError(long))
    assert "says as much as that; give" in line
    assert len(line) < 600


def test_a_bias_of_minus_infinity_on_the_head_is_a_forbidden_entry(tmp_path: Path) -> None:
    config = PhiConfig(vocab_size=300, hidden_size=32, num_attention_heads=4, num_hidden_layers=1)
    model = PhiForCausalLM(config)
    with torch.no_grad():
        model.lm_head.bias[280:] = -math.inf
    model.save_pretrained(tmp_path)
    assert load_model(tmp_path, dtype="float32").lm_head.bias[280:].isneginf().all()
    with torch.no_grad():
        model.lm_head.bias[280:] = math.inf
    model.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"NaN or infinite, in lm_head\.bias"):
        load_model(tmp_path, dtype="float32")


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_weight_that_is_not_finite_names_its_model_and_itself(
    tmp_path: Path, value: float
) -> None:
    model = _build()
    with torch.no_grad():
        model.get_parameter(WEIGHT)[0, 0] = value
    _save(tmp_path, model)
    said = rf"the teacher of {tmp_path} has a weight that is NaN or infinite, in {WEIGHT}; give an"
    with pytest.raises(ModelError, match=said):
        load_model(tmp_path, dtype="bfloat16", role="teacher")


def test_a_folder_without_tokenizer_files_is_told_so(tmp_path: Path) -> None:
    """transformers makes an empty tokenizer where the model's family is known to it."""
    _build().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=rf"{tmp_path} holds no tokenizer files \(tokenizer.json"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("content", ["{", "{}"])
def test_a_damaged_tokenizer_is_refused_in_one_line(tmp_path: Path, content: str) -> None:
    file = _save(tmp_path) / "tokenizer.json"
    file.write_text(content)
    with pytest.raises(ModelError, match="cannot load the tokenizer") as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


# One vocabulary


def test_a_tokenizer_may_pad_with_its_end_or_not_at_all(tmp_path: Path) -> None:
    _save(tmp_path)
    for pad in (TOKENIZER.eos_token, None):
        _edit(tmp_path / "tokenizer_config.json", pad_token=pad)
        codec = codec_of(load_tokenizer(tmp_path))
        assert (codec.pad_id, codec.end_ids) == (TOKENIZER.eos_token_id, (TOKENIZER.eos_token_id,))


def test_a_tokenizer_without_an_end_is_refused(tmp_path: Path) -> None:
    _save(tmp_path)
    _edit(tmp_path / "tokenizer_config.json", eos_token=None)
    with pytest.raises(ModelError, match="has no end token; set eos_token"):
        load_tokenizer(tmp_path)


def test_equal_vocabularies_pass_and_different_ones_are_refused() -> None:
    same_vocabulary(TOKENIZER, train_bpe(["bought hat\nA liked boots\n"], 270), ("one", "two"))
    other = train_bpe(["loved dress and scarf"], 270)
    with pytest.raises(ModelError, match=r"student and teacher have different vocabularies \(\d+"):
        same_vocabulary(TOKENIZER, other, ("student", "teacher"))


def test_different_end_tokens_are_refused(tmp_path: Path) -> None:
    _save(tmp_path)
    _edit(tmp_path / "tokenizer_config.json", eos_token="!")
    other = load_tokenizer(tmp_path)
    assert other.get_vocab() == TOKENIZER.get_vocab()
    with pytest.raises(ModelError, match=r"student ends answers with id 1 and teacher with"):
        same_vocabulary(TOKENIZER, other, ("student", "teacher"))


# Student, teacher and base


def test_only_the_student_learns() -> None:
    trio = assemble(_build(1), _build(2).train(), CODEC)
    for frozen in (trio.teacher, trio.base):
        assert not any(p.requires_grad for p in frozen.parameters())
        assert not frozen.training
    assert all(p.requires_grad for p in trio.student.parameters())


def test_training_the_student_leaves_the_base_at_the_warm_start() -> None:
    trio = assemble(_build(1), _build(2), CODEC)
    start = _state(trio.student)
    assert _equal(_state(trio.base), start)
    _train_once(trio.student)
    assert not _equal(_state(trio.student), start)
    assert _equal(_state(trio.base), start)


def test_a_fresh_student_starts_over_and_leaves_the_others_alone() -> None:
    trio = assemble(_build(1), _build(2), CODEC)
    start = _state(trio.base)
    _train_once(trio.student)
    again = fresh_student(trio)
    assert (again.teacher, again.base, again.codec) == (trio.teacher, trio.base, CODEC)
    assert _equal(_state(again.student), start)
    embedding, head = again.student.get_input_embeddings(), again.student.get_output_embeddings()
    assert embedding.weight is head.weight
    _train_once(again.student)
    assert not _equal(_state(again.student), start)
    assert _equal(_state(trio.base), start)
    assert not any(p.requires_grad for p in again.base.parameters())


@pytest.mark.parametrize("small", ["student", "teacher"])
def test_a_model_with_fewer_outputs_than_tokens_is_refused(small: str) -> None:
    fewer = build(_arch(), train_bpe(["x"], 258), 0)
    pair = (fewer, _build()) if small == "student" else (_build(), fewer)
    with pytest.raises(ModelError, match=f"the {small} has 258 outputs for 270 tokens"):
        assemble(*pair, CODEC)


def test_models_higher_than_the_tokenizer_are_accepted() -> None:
    student, teacher = _build(1), _build(2)
    for model in (student, teacher):
        model.resize_token_embeddings(len(TOKENIZER) + 8)
    assert assemble(student, teacher, CODEC).base.config.vocab_size == len(TOKENIZER) + 8
