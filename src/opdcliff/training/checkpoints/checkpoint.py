"""Checkpoints of a run: whole, hashed, atomic; the newest whole one is found again.

    <record>/checkpoints/update-000100/
        student.safetensors     parameters as the optimizer holds them
        optimizer.safetensors   Adam's moments and step (see engine_state)
        generators.safetensors  states of the random generators, per rank
        position.json           where the loop stands (see train.Position)
        checkpoint.json         digests of the files above, identity, code, and of itself

Nothing is pickled. A folder is written aside, synced and renamed, so that one which is there is
whole; a damaged one is recognised by its digests, and the one before it is used.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import save_file
from torch import Tensor

from opdcliff.engine import PARAMETER, State
from opdcliff.errors import RecordError
from opdcliff.records import MALFORMED
from opdcliff.storage import (
    digest,
    file_digest,
    fsync_folder,
    fsync_tree,
    write_json_atomic,
    writing,
)

CHECKPOINTS = "checkpoints"
CHECKPOINT_MANIFEST = "checkpoint.json"
POSITION = "position.json"
STUDENT_FILE, OPTIMIZER_FILE = "student.safetensors", "optimizer.safetensors"
GENERATORS = "generators.safetensors"

_FORMAT = 1
_NAME = re.compile(r"update-(\d{6,})")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose digests were found right.

    about: identity, code and world size at the time. position: as it was saved.
    """

    folder: Path
    update: int
    about: Mapping[str, Any]
    position: Mapping[str, Any]

    @contextlib.contextmanager
    def state(self) -> Iterator[Mapping[str, Tensor]]:
        """Student and optimizer; a tensor is read when it is asked for."""
        with (
            _open(self.folder / STUDENT_FILE) as student,
            _open(self.folder / OPTIMIZER_FILE) as optimizer,
        ):
            yield _Lazy(student, optimizer)

    def generators(self) -> State:
        """States of the random generators by rank."""
        with _open(self.folder / GENERATORS) as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def save(
    root: Path,
    update: int,
    state: State,
    generators: State,
    position: Mapping[str, Any],
    about: Mapping[str, Any],
    *,
    keep: int,
) -> Path:
    """Write the checkpoint of `update` below `root` and drop all but the newest `keep`.

    Raises:
        RecordError: the disk refuses; older checkpoints are untouched and nothing is left beside.
    """
    folder = root / f"update-{update:06d}"
    aside = root / f".{folder.name}.{secrets.token_hex(4)}.partial"
    with writing(folder):
        root.mkdir(parents=True, exist_ok=True)
        for left_over in root.glob(".*.partial"):
            shutil.rmtree(left_over, ignore_errors=True)
        try:
            aside.mkdir()
            _fill(aside, update, state, generators, position, about)
            fsync_tree(aside)
            old = aside.with_suffix(".old.partial")
            if folder.exists():
                folder.rename(old)
            aside.rename(folder)
            fsync_folder(root)
            shutil.rmtree(old, ignore_errors=True)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
    drop_after(root, update)
    for outdated in _folders(root)[keep:]:
        shutil.rmtree(outdated, ignore_errors=True)
    return folder


def candidates(root: Path) -> Iterator[Checkpoint | RecordError]:
    """Checkpoints below `root`, newest first; an error in place of each damaged one."""
    for folder in _folders(root):
        try:
            yield read(folder)
        except RecordError as error:
            yield error


def read(folder: Path) -> Checkpoint:
    """Read a checkpoint and check every file of it against its digest.

    Raises:
        RecordError: a file is missing, damaged or edited; the text names it.
    """
    path = folder / CHECKPOINT_MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
        seal = manifest.pop("sha256")
        whole = seal == digest(manifest, "checkpoint")
        files, update, about = manifest["files"], manifest["update"], manifest["about"]
        known = manifest["format"] == _FORMAT and set(files) == set(_FILES)
    except (OSError, *MALFORMED) as error:
        raise RecordError(f"{path}: not a checkpoint manifest; it is damaged") from error
    if not (whole and known):
        raise RecordError(f"{path}: checksum mismatch, or of another format")
    for name, expected in files.items():
        try:
            found = file_digest(folder / name)
        except OSError as error:
            raise RecordError(f"cannot read {folder / name}: {error.strerror}") from error
        if found != expected:
            raise RecordError(f"{folder / name}: checksum mismatch; the file is damaged")
    position = json.loads((folder / POSITION).read_bytes())
    return Checkpoint(folder, update, about, position)


def drop_after(root: Path, update: int) -> None:
    """Remove checkpoints of later updates: an attempt that went back makes those updates anew."""
    for folder in _folders(root):
        if int(folder.name.removeprefix("update-")) > update:
            shutil.rmtree(folder, ignore_errors=True)


def remove_all(root: Path) -> None:
    """Remove the checkpoints of a run that has an outcome."""
    shutil.rmtree(root, ignore_errors=True)


_FILES = (STUDENT_FILE, OPTIMIZER_FILE, GENERATORS, POSITION)


def _fill(
    folder: Path,
    update: int,
    state: State,
    generators: State,
    position: Mapping[str, Any],
    about: Mapping[str, Any],
) -> None:
    student = {name: value for name, value in state.items() if _is_parameter(name)}
    rest = {name: value for name, value in state.items() if not _is_parameter(name)}
    for name, tensors in (
        (STUDENT_FILE, student),
        (OPTIMIZER_FILE, rest),
        (GENERATORS, generators),
    ):
        _save_tensors(tensors, folder / name)
    write_json_atomic(folder / POSITION, position)
    manifest = {
        "format": _FORMAT,
        "update": update,
        "about": dict(about),
        "files": {name: file_digest(folder / name) for name in _FILES},
    }
    seal = digest(manifest, "checkpoint")
    write_json_atomic(folder / CHECKPOINT_MANIFEST, {**manifest, "sha256": seal})


def _save_tensors(tensors: State, path: Path) -> None:
    try:
        save_file(tensors, path)
    except safetensors.SafetensorError as error:
        # Its own error for a full disk is no OSError.
        raise OSError(None, str(error), str(path)) from error


def _is_parameter(name: str) -> bool:
    return name.startswith(f"{PARAMETER}/")


def _folders(root: Path) -> list[Path]:
    """Newest first; what does not look like a checkpoint is left alone."""
    if not root.is_dir():
        return []
    found = [
        (int(match[1]), path) for path in root.iterdir() if (match := _NAME.fullmatch(path.name))
    ]
    return [path for _, path in sorted(found, reverse=True)]


def _open(path: Path) -> Any:
    return safetensors.safe_open(path, framework="pt", device="cpu")


class _Lazy(Mapping[str, Tensor]):
    """Tensors of several files, read one by one."""

    def __init__(self, *files: Any) -> None:
        self._home = {name: file for file in files for name in file.keys()}  # noqa: SIM118

    def __getitem__(self, name: str) -> Tensor:
        value: Tensor = self._home[name].get_tensor(name)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._home)

    def __len__(self) -> int:
        return len(self._home)
