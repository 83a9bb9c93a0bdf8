"""One spelling for every value that is hashed, and writes that are never half visible.

Locks, run identities and metric checksums all hash the same canonical JSON, so two processes
that hold equal values agree on the digest whatever the order or the Unicode form of their keys.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import secrets
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from opdcliff.errors import ConfigError, RecordError

# What git's core.autocrlf makes of a file that .gitattributes does not keep from it.
FOREIGN_ENDS = "has other line ends (CRLF)"
MEND_ENDS = "set core.autocrlf=false and check the file out anew"


def canonical_json(obj: object) -> str:
    """Return the one JSON text of `obj`: sorted keys, NFC strings, compact, ASCII.

    Accepts None, bool, int, float, str, sequences and string-keyed mappings. An int and the
    float of equal value are different (`1` and `1.0`), as are `0.0` and `-0.0`.

    Raises:
        ConfigError: NaN or infinity, a key that is not a string, two keys equal after NFC, or a
            type JSON has no form for; the message holds the place inside `obj`.
    """
    return json.dumps(_normal(obj, "$"), sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(obj: object, domain: str) -> str:
    """Return sha256("opdcliff" NUL domain NUL canonical_json(obj)) as 64 hex digits.

    `domain` says what is hashed, so that a digest made for one purpose is never valid for
    another. Neither part can hold a NUL, hence the concatenation is injective.

    Raises:
        ConfigError: an empty domain or one with characters outside printable ASCII; see also
            `canonical_json`.
    """
    if not domain or not domain.isascii() or not domain.isprintable():
        raise ConfigError(f"digest domain {domain!r} must be non-empty printable ASCII")
    message = f"opdcliff\0{domain}\0{canonical_json(obj)}"
    return hashlib.sha256(message.encode("ascii")).hexdigest()


def file_digest(path: Path) -> str:
    """Return the plain sha256 of a file's bytes, as `sha256sum` prints it.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def differs(path: Path, sealed: str, changed: str) -> str | None:
    """How a file is not the one of that digest, in words; None where it is. changed: if at all."""
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() == sealed:
        return None
    if hashlib.sha256(data.replace(b"\r\n", b"\n")).hexdigest() == sealed:
        return f"{FOREIGN_ENDS} than were sealed; {MEND_ENDS}"
    return changed


def encode_floats(obj: Any) -> Any:
    """Copy `obj` with NaN and infinities as the strings "NaN", "Infinity", "-Infinity".

    The spelling is that of W&B's offline log, so a record and its mirror compare as text.
    """
    if isinstance(obj, float) and not math.isfinite(obj):
        if math.isnan(obj):
            return "NaN"
        return "Infinity" if obj > 0 else "-Infinity"
    if isinstance(obj, Mapping):
        return {key: encode_floats(value) for key, value in obj.items()}
    if _is_list(obj):
        return [encode_floats(value) for value in obj]
    return obj


def decode_float(value: object) -> float:
    """Read back one number written by `encode_floats`.

    Raises:
        ValueError: neither a JSON number nor one of the three names.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if value in ("NaN", "Infinity", "-Infinity"):
        return float(str(value))
    raise ValueError(f'{value!r} is neither a number nor "NaN", "Infinity", "-Infinity"')


def decode_floats(obj: Any) -> Any:
    """Inverse of `encode_floats`: the three names become numbers again, wherever they stand."""
    if isinstance(obj, dict):
        return {key: decode_floats(value) for key, value in obj.items()}
    if isinstance(obj, list):
        return [decode_floats(value) for value in obj]
    return decode_float(obj) if obj in ("NaN", "Infinity", "-Infinity") else obj


_RUST = re.compile(r"\(os error (\d+)\)")
_REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError raised inside into one line that names `path`, the disk-full case first.

    Raises:
        RecordError: any OSError, whose own text often names no file (ENOSPC never does).
    """
    try:
        yield
    except OSError as error:
        cause = error.strerror or str(error)
        raise RecordError(
            f"cannot write {path}: {cause}; free space or fix permissions, then run again"
        ) from error


def disk_refusal(error: Exception) -> str | None:
    """What the disk said, where an error is its refusal to hold more; None for another error.

    Libraries in Rust (safetensors, tokenizers) raise errors of their own, with the system's number
    in the text.
    """
    number = error.errno if isinstance(error, OSError) else None
    if match := _RUST.search(str(error)):
        number = int(match[1])
    return os.strerror(number) if number in _REFUSALS else None


def write_bytes_atomic(path: Path, data: bytes) -> None:
    """Replace `path` by `data` so that a reader, or a kill at any point, sees old or new whole.

    Written aside in the same folder, fsynced, renamed, and the folder fsynced, because a rename
    survives power loss only once its folder is on disk. Missing folders are made.

    Raises:
        RecordError: the disk refuses; `path` keeps its old content and nothing is left beside it.
    """
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with aside.open("xb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            aside.replace(path)
        except BaseException:
            with suppress(OSError):
                aside.unlink(missing_ok=True)
            raise
        fsync_folder(path.parent)


def write_text_atomic(path: Path, text: str) -> None:
    """`write_bytes_atomic` for UTF-8 text, newlines untouched."""
    write_bytes_atomic(path, text.encode("utf-8"))


def write_json_atomic(path: Path, obj: object) -> None:
    """Write `obj` atomically in the canonical order, indented for the human reader.

    Raises:
        ConfigError: see `canonical_json`. RecordError: see `write_bytes_atomic`.
    """
    text = json.dumps(_normal(obj, "$"), sort_keys=True, indent=2, allow_nan=False)
    write_text_atomic(path, text + "\n")


def fsync_folder(folder: Path) -> None:
    """Force a folder's entries (new and renamed files) to disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def fsync_tree(root: Path) -> None:
    """Force a folder's files and entries to disk, since a rename may reach it before them."""
    for path in root.rglob("*"):
        if path.is_dir():
            fsync_folder(path)
        else:
            with path.open("rb") as handle:
                os.fsync(handle.fileno())
    fsync_folder(root)


def _is_list(obj: object) -> bool:
    return isinstance(obj, Sequence) and not isinstance(obj, str | bytes | bytearray)


def _normal(obj: Any, place: str) -> Any:
    if isinstance(obj, str):
        return unicodedata.normalize("NFC", obj)
    if isinstance(obj, float):
        if not math.isfinite(obj):
            raise ConfigError(f"{place} is {obj}; canonical JSON takes finite numbers only")
        return obj
    if obj is None or isinstance(obj, int):
        return obj
    if isinstance(obj, Mapping):
        return _normal_mapping(obj, place)
    if _is_list(obj):
        return [_normal(value, f"{place}[{index}]") for index, value in enumerate(obj)]
    raise ConfigError(
        f"{place} is a {type(obj).__name__}; canonical JSON takes None, bool, int, float, str, "
        "sequences and mappings; convert it first"
    )


def _normal_mapping(obj: Mapping[Any, Any], place: str) -> dict[str, Any]:
    normal: dict[str, Any] = {}
    for key, value in obj.items():
        if not isinstance(key, str):
            raise ConfigError(f"{place} has the key {key!r}; canonical JSON takes string keys only")
        name = unicodedata.normalize("NFC", key)
        if name in normal:
            raise ConfigError(f"{place} has two keys that are both {name!r} after NFC")
        normal[name] = _normal(value, f"{place}.{name}")
    return normal
