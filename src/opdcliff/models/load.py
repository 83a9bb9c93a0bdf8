"""Student, teacher and base: built tiny from config, or loaded from a folder or hub id.

Loading is safe by construction: safetensors only, no code from the checkpoint, and hub ids only at
a commit, since a branch can change between two runs. Student, teacher and base must share a
tokenizer, since their log-probs are subtracted token by token; see `weights` for padding rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.utils import logging as transformers_logging

from opdcliff.errors import ModelError
from opdcliff.models.tuning.adapters import (
    base_of,
    below,
    has_adapter,
    is_adapter,
    merge_adapter,
    refuse_mixed,
)
from opdcliff.models.weights.library_errors import cannot_load
from opdcliff.rollout import even_positions
from opdcliff.settings import ArchConfig

# Their bars would tear this project's own; loading reports through errors.
transformers_logging.disable_progress_bar()

_FAMILIES: dict[str, tuple[Any, Any]] = {
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "llama": (LlamaConfig, LlamaForCausalLM),
}
# Any one of these; most have one of the first two.
_TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer.model"),
    *("vocab.json", "vocab.txt", "spiece.model", "tekken.json"),
)
_COMMIT = re.compile(r"[0-9a-f]{40}")


def build(arch: ArchConfig, tokenizer: Any, seed: int) -> PreTrainedModel:
    """A randomly initialised model of `arch` for `tokenizer`, deterministic in `seed`."""
    config_class, model_class = _FAMILIES[arch.family]
    config = config_class(
        vocab_size=len(tokenizer),
        hidden_size=arch.hidden_size,
        intermediate_size=arch.intermediate_size,
        num_hidden_layers=arch.layers,
        num_attention_heads=arch.heads,
        num_key_value_heads=arch.kv_heads,
        head_dim=arch.head_dim,
        max_position_embeddings=arch.max_positions,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would seed the accelerators as well.
        torch.default_generator.manual_seed(seed)
        model: PreTrainedModel = model_class(config)
    return model


def load_model(
    source: str | Path, *, dtype: str, revision: str | None = None, role: str = "model"
) -> PreTrainedModel:
    """A causal LM from a folder, or from a hub id at the commit `revision`, in evaluation mode.

    The folder of an adapter gives its base with the adapter merged into it.
    role: what errors call it.

    Raises:
        ModelError: a hub id without a commit, nothing loadable there, weights that are not
            safetensors, not finite, or not all of the model's.
    """
    refuse_mixed(source)
    if is_adapter(source):
        # Circles are found out here.
        base_of(source)
        named, commit = below(source)
        try:
            base = load_model(named, dtype=dtype, revision=commit, role=role)
        except ModelError as error:
            raise ModelError(f"the base of the adapter {source}: {error}") from error
        return _require_finite(merge_adapter(base, Path(source).expanduser()), source, role)
    options = _origin(source, revision) | {"dtype": getattr(torch, dtype)}
    try:
        with _quiet():
            model, report = _load_with_some_attention(options)
    except Exception as error:
        raise ModelError(cannot_load(role, source, error)) from error
    if has_adapter(model):
        raise ModelError(
            f"{source} is an adapter on the hub, whose base is not pinned; download both and give "
            "the adapter's folder"
        )
    # Weights of another shape and missing ones would be drawn at random, anew on every load.
    for name, found, expected in sorted(report["mismatched_keys"]):
        raise ModelError(
            f"the checkpoint of {source} has {name} of shape {tuple(found)} where its config.json "
            f"asks for {tuple(expected)}; give weights and a configuration that belong together"
        )
    if report["missing_keys"]:
        raise ModelError(
            f"the checkpoint of {source} lacks {len(report['missing_keys'])} weights, such as "
            f"{min(report['missing_keys'])}; give a complete one"
        )
    return _require_finite(model, source, role).eval()


@contextmanager
def _quiet() -> Iterator[None]:
    """The library prints tables of what does not fit, which errors here name in a line."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


def _load_with_some_attention(options: dict[str, Any]) -> tuple[PreTrainedModel, dict[str, Any]]:
    """A model and the library's report, with sdpa; eager where the architecture has no sdpa."""
    load = partial(
        AutoModelForCausalLM.from_pretrained,
        **options,
        use_safetensors=True,
        trust_remote_code=False,
        # Those are refused by name; what the library raises names none.
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    # Either is named, since a checkpoint's own choice may name a kernel to download and run.
    try:
        loaded: tuple[PreTrainedModel, dict[str, Any]] = load(attn_implementation="sdpa")
    except ValueError as error:
        if "does not support an attention implementation through torch" not in str(error):
            raise
        loaded = load(attn_implementation="eager")
    return loaded


def load_tokenizer(source: str | Path, *, revision: str | None = None) -> Any:
    """The tokenizer beside a model; it must have a token that ends answers.

    Raises:
        ModelError: a hub id without a commit, no tokenizer there, or no end-of-sequence token.
    """
    if is_adapter(source) and not _has_tokenizer(Path(source).expanduser()):
        source, revision = base_of(source)
    origin = _origin(source, revision)
    folder = Path(source).expanduser()
    # Without them transformers makes an empty tokenizer of the model's family.
    if folder.is_dir() and not _has_tokenizer(folder):
        raise ModelError(
            f"{source} holds no tokenizer files ({' or '.join(_TOKENIZER_FILES[:2])}); copy them "
            "there from where the model comes from"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(**origin, trust_remote_code=False)
    except Exception as error:
        raise ModelError(cannot_load("tokenizer", source, error)) from error
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"the tokenizer of {source} has no end token; set eos_token in its "
            "tokenizer_config.json"
        )
    return tokenizer


def known_positions(source: str | Path, *, revision: str | None = None) -> int | None:
    """How many positions a model was made for; None where its configuration has no such number.

    Reads the configuration alone. Raises ModelError as `load_model` does.
    """
    source, revision = base_of(source, revision)
    origin = _origin(source, revision)
    try:
        configuration = AutoConfig.from_pretrained(**origin, trust_remote_code=False)
    except Exception as error:
        raise ModelError(cannot_load("configuration", source, error)) from error
    return positions_in(configuration)


def positions_in(configuration: Any) -> int | None:
    """How many positions a model of this configuration was made for, if that says so.

    Fewer where positions are scaled by the longest row of a batch (`even_positions`).
    """
    known = [getattr(configuration.get_text_config(), "max_position_embeddings", None)]
    known.append(even_positions(configuration))
    return min((n for n in known if isinstance(n, int) and n > 0), default=None)


def same_vocabulary(first: Any, second: Any, names: tuple[str, str]) -> None:
    """Raise ModelError unless two tokenizers map the same texts to the same ids."""
    left, right = first.get_vocab(), second.get_vocab()
    if left != right:
        differing = sum(left.get(token) != right.get(token) for token in left.keys() | right.keys())
        raise ModelError(
            f"{names[0]} and {names[1]} have different vocabularies ({differing} entries differ); "
            "log-probs can only be compared under one tokenizer: choose models of one family"
        )
    if first.eos_token_id != second.eos_token_id:
        raise ModelError(
            f"{names[0]} ends answers with id {first.eos_token_id} and {names[1]} with "
            f"{second.eos_token_id}; give both the same eos_token"
        )


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).exists() for name in _TOKENIZER_FILES)


def _require_finite(model: PreTrainedModel, source: str | Path, role: str) -> PreTrainedModel:
    bias = getattr(model.get_output_embeddings(), "bias", None)
    for name, weight in model.named_parameters():
        # On the head a bias of -inf forbids an entry.
        forbids = weight is bias
        if not (weight.isfinite() | (weight.isneginf() & forbids)).all():
            raise ModelError(
                f"the {role} of {source} has a weight that is NaN or infinite, in {name}; give an "
                "intact checkpoint"
            )
    return model


def _origin(source: str | Path, revision: str | None) -> dict[str, Any]:
    """Arguments of `from_pretrained` that can only ever lead to one checkpoint."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        return {"pretrained_model_name_or_path": str(folder), "local_files_only": True}
    if revision is None or not _COMMIT.fullmatch(revision):
        raise ModelError(
            f"{source} is no folder, and as a hub id it is not pinned by revision={revision}; give "
            "a folder, or a hub id with the 40 hex digits of a commit as its revision"
        )
    return {"pretrained_model_name_or_path": str(source), "revision": revision}
