"""Writing models to folders that load again, and what names the content of such a folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from opdcliff.models.tuning.adapters import base_of, below, has_adapter, is_adapter, save_adapter
from opdcliff.storage import file_digest


def save_model(
    model: PreTrainedModel, folder: Path, *, base: str = "", revision: str | None = None
) -> None:
    """Write `model`, or the adapter on it alone, as a folder that `from_pretrained` loads.

    base, revision: of an adapter, where the model below it is found.
    """
    if not has_adapter(model):
        with _without_deepspeed():
            model.save_pretrained(folder)
        return
    local = Path(base).expanduser()
    save_adapter(model, folder, str(local.absolute()) if local.is_dir() else base, revision)


def content_of(source: str | Path, revision: str | None) -> list[Any]:
    """What names the content of a model: digests of its files, or hub id and commit.

    An adapter is followed by its base.
    """
    base_of(source)
    named, found = [(str(source), revision)], list[Any]()
    while is_adapter(named[-1][0]):
        named.append(below(named[-1][0]))
    for place, commit in named:
        folder = Path(place).expanduser()
        found.append(file_digests(folder) if folder.is_dir() else [place, commit])
    return found


def file_digests(path: Path) -> dict[str, str]:
    """Digests of a file, or of the files in a folder, by their names."""
    files = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.is_file())
    return {file.name: file_digest(file) for file in files}


@contextlib.contextmanager
def _without_deepspeed() -> Iterator[None]:
    """Where accelerate is installed, it imports DeepSpeed to see whether a model is wrapped in it.

    None is, and that takes two seconds and prints a warning.
    """
    try:
        from accelerate.utils import other
    except ImportError:
        yield
        return
    before = other.is_deepspeed_available
    other.is_deepspeed_available = lambda: False
    try:
        yield
    finally:
        other.is_deepspeed_available = before
