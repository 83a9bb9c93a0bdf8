"""Canonical JSON is one spelling per value, and an atomic write is all or nothing."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opdcliff.errors import ConfigError, RecordError
from opdcliff.storage.canonical import (
    canonical_json,
    decode_float,
    digest,
    encode_floats,
    file_digest,
    write_bytes_atomic,
    write_json_atomic,
    write_text_atomic,
)

NFC_TEXT = st.text(max_size=8).map(lambda text: unicodedata.normalize("NFC", text))
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | NFC_TEXT
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NFC_TEXT, inner, max_size=4),
    max_leaves=12,
)


def _reordered(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _reordered(value[key]) for key in reversed(list(value))}
    if isinstance(value, list):
        return tuple(_reordered(item) for item in value)
    return value


def _decomposed(value: Any) -> Any:
    if isinstance(value, dict):
        return {_decomposed(key): _decomposed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_decomposed(item) for item in value]
    return unicodedata.normalize("NFD", value) if isinstance(value, str) else value


@given(VALUES)
def test_json_is_ascii_and_reads_back_equal(value: Any) -> None:
    text = canonical_json(value)
    assert text.isascii()
    assert json.loads(text) == value
    assert canonical_json(json.loads(text)) == text


@given(VALUES)
def test_key_order_and_tuple_do_not_matter(value: Any) -> None:
    assert digest(_reordered(value), "t") == digest(value, "t")


@given(VALUES)
def test_unicode_form_does_not_matter(value: Any) -> None:
    assert canonical_json(_decomposed(value)) == canonical_json(value)


def test_spelling_is_pinned() -> None:
    text = canonical_json({"b": [1, 1.0, None, True], "a": "e\u0301", "Z": -0.0})
    assert text == '{"Z":-0.0,"a":"\\u00e9","b":[1,1.0,null,true]}'


def test_digest_is_pinned_and_keeps_domains_apart() -> None:
    expected = hashlib.sha256(b'opdcliff\0lock\0{"a":1}').hexdigest()
    assert digest({"a": 1}, "lock") == expected
    assert digest({"a": 1}, "record") != expected


@pytest.mark.parametrize(
    ("first", "second"), [(1, 1.0), (0.0, -0.0), (1, True), ("1", 1), ([], {}), (None, "null")]
)
def test_unequal_values_have_unequal_digests(first: Any, second: Any) -> None:
    assert digest(first, "t") != digest(second, "t")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"a": [0, math.nan]}, r"\$\.a\[1\] is nan"),
        ({"a": math.inf}, r"\$\.a is inf"),
        ({"a": {1: 2}}, r"\$\.a has the key 1"),
        ({"\u00e9": 1, "e\u0301": 2}, "two keys"),
        ({"a": {1, 2}}, r"\$\.a is a set"),
        ({"a": b"x"}, r"\$\.a is a bytes"),
    ],
)
def test_values_without_a_form_are_refused_with_their_place(value: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        canonical_json(value)


@pytest.mark.parametrize("domain", ["", "a\0b", "caf\u00e9"])
def test_bad_domain_is_refused(domain: str) -> None:
    with pytest.raises(ConfigError, match="digest domain"):
        digest({}, domain)


@given(st.floats())
def test_floats_survive_the_json_form(value: float) -> None:
    back = decode_float(json.loads(canonical_json(encode_floats({"x": value})))["x"])
    assert back == value or (math.isnan(back) and math.isnan(value))
    assert math.copysign(1.0, back) == math.copysign(1.0, value) or math.isnan(value)


@pytest.mark.parametrize("value", ["nan", "1.0", "inf", True, None, [1.0]])
def test_decode_float_takes_only_what_encode_floats_writes(value: Any) -> None:
    with pytest.raises(ValueError, match="neither"):
        decode_float(value)


def test_file_digest_is_plain_sha256(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"\0\r\nabc")
    assert file_digest(path) == hashlib.sha256(b"\0\r\nabc").hexdigest()


def test_atomic_writes_replace_whole_and_leave_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.json"
    write_text_atomic(path, "long old text\r\n" * 10)
    assert path.read_bytes() == b"long old text\r\n" * 10
    write_json_atomic(path, {"b": 1, "a": "\u00e9"})
    assert path.read_text(encoding="ascii") == '{\n  "a": "\\u00e9",\n  "b": 1\n}\n'
    assert os.listdir(path.parent) == ["x.json"]


def test_failed_write_keeps_the_old_file_and_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    write_bytes_atomic(path, b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RecordError, match=f"cannot write {path}: No space left on device"):
        write_bytes_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x"]


def test_written_data_is_on_disk_before_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    seen: list[tuple[bool, bool]] = []
    real = os.fsync

    def watch(handle: int) -> None:
        is_folder = os.path.isdir(f"/proc/self/fd/{handle}")
        seen.append((is_folder, path.exists()))
        real(handle)

    monkeypatch.setattr(os, "fsync", watch)
    write_bytes_atomic(path, b"new")
    assert seen == [(False, False), (True, True)]
