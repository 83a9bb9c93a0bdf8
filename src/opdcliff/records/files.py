"""Files of a run record: their names, and its sealed manifest and config.

The manifest holds the digest of the config and one of itself, so an edit of either is noticed.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from opdcliff.errors import ConfigError, RecordError
from opdcliff.storage import digest, read_yaml, write_json_atomic, write_text_atomic

CONFIG = "config.yaml"
RUN_MANIFEST = "manifest.json"
METRICS = "metrics.jsonl"
RUN_LOCK = "run.lock"

# Version of these files; what a newer one means is not guessed.
FORMAT = 1
# What to do about damage.
RESTORE = "restore the file from a copy, or move the folder out of runs/ to run the cell anew"


class _Quoting(yaml.SafeDumper):
    """Puts each text that begins as a number may into quotes: readers of YAML differ over `1e5`."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "'" if text[:1].isdigit() or text[:1] in ("+", "-", ".") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Quoting.add_representer(str, _text)

# In the manifest's extras: parts of the run were made by different code.
MIXED_CODE = "mixed_code"

# What parsing of arbitrary bytes and picking them apart can raise.
MALFORMED = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)


class NewerRecordError(RecordError):
    """A record of a newer version: sound perhaps, and not for this one to read."""


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Replace the manifest of the record in `folder`, sealed by its own digest."""
    seal = digest(manifest, "run-manifest")
    write_json_atomic(folder / RUN_MANIFEST, {**manifest, "sha256": seal})


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest, without its seal.

    Raises:
        NewerRecordError: a newer version wrote it.
        RecordError: the file is missing, damaged or edited.
    """
    path = folder / RUN_MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(read_bytes(path))
        seal = manifest.pop("sha256")
        sealed = digest(manifest, "run-manifest")
        number = operator.index(manifest["format"])
    except RecordError as error:
        raise RecordError(f"{error}; {RESTORE}") from error
    except (*MALFORMED, ConfigError) as error:
        raise RecordError(f"{path}: not a manifest; the file is damaged; {RESTORE}") from error
    if seal != sealed:
        raise RecordError(
            f"{path}: checksum mismatch; the file was edited or is damaged; {RESTORE}"
        )
    if number > FORMAT:
        raise NewerRecordError(
            f"{path}: written by a newer version of opd-cliff (format {number}; this version reads "
            f"up to {FORMAT}); update opd-cliff"
        )
    return manifest


def find_manifest(folder: Path) -> dict[str, Any] | None:
    """Read the manifest as `read_manifest` does; None where there is no record yet.

    Raises:
        RecordError: also where metrics are there without their manifest.
    """
    if not (folder / RUN_MANIFEST).exists():
        metrics = folder / METRICS
        # A writer that was killed at its very start leaves an empty stream; links it refuses.
        if metrics.is_symlink() or not metrics.exists() or metrics.stat().st_size == 0:
            return None
    return read_manifest(folder)


def config_digest(config: Mapping[str, Any]) -> str:
    """Return the digest of a redacted config that the manifest keeps."""
    return digest(config, "run-config")


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Replace the config of the record in `folder`; redact it first."""
    write_text_atomic(folder / CONFIG, yaml.dump(config, Dumper=_Quoting, sort_keys=True))


def read_config(folder: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Read the config; `manifest` holds its digest.

    Raises:
        RecordError: the file is missing, damaged or edited.
    """
    path = folder / CONFIG
    try:
        config: dict[str, Any] = read_yaml(read_bytes(path))
        same = config_digest(config) == manifest["config_sha256"]
    except (*MALFORMED, yaml.YAMLError, ConfigError) as error:
        raise RecordError(f"{path}: not a config; the file is damaged") from error
    if not same:
        raise RecordError(f"{path}: checksum mismatch; the file was edited or is damaged")
    return config


def read_bytes(path: Path) -> bytes:
    """Read a file of a record.

    Raises:
        RecordError: it is missing or unreadable.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror}") from error
