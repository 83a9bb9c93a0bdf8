"""Errors are sentences: what is said of exceptions, and that none is shown as it is."""

from __future__ import annotations

import ast
import gzip
import json
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from opdcliff.errors import DataError
from opdcliff.paths import PACKAGE
from opdcliff.storage.wording import foreign_encoding, in_words, kind_of, short, told, visible

RAISED: dict[str, tuple[Callable[[], object], str]] = {
    "a text cut": (lambda: json.loads('{"a": 1'), "is not JSON from line 1 character 8 on"),
    "no UTF-8": (b"caf\xe9!".decode, "is not UTF-8 text; save it as UTF-8"),
    "UTF-16": (lambda: "ab".encode("utf-16").decode(), "is UTF-16; save it as UTF-8"),
    "no file": (lambda: open("/nowhere"), "no such file or directory"),  # noqa: SIM115
    "a folder": (lambda: Path("/").read_text(), "is a directory"),
    "no key": (lambda: {}["name"], "lacks name"),
    "no item": (lambda: deque().pop(), "has content of another form than expected"),
    "no text": (lambda: "".join([1]), "has content of another form than expected"),  # type: ignore[list-item]
    "too deep": (lambda: json.loads("[" * 200_000), "is nested too deeply"),
    "no YAML": (lambda: yaml.safe_load("a: [1"), "is not YAML from line 1 character 6 on"),
    "no gzip": (lambda: gzip.decompress(b"plain text"), "cannot be read"),
    "a cut gzip": (lambda: gzip.decompress(gzip.compress(b"x" * 99)[:-9]), "cannot be unpacked"),
    "a damaged one": (lambda: zlib.decompress(b"plain text"), "cannot be unpacked to its end"),
}


@pytest.mark.parametrize("name", RAISED)
def test_an_exception_is_told_in_words(name: str) -> None:
    act, words = RAISED[name]
    with pytest.raises(Exception) as caught:  # noqa: PT011
        act()
    assert in_words(caught.value).startswith(words)


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_another_encoding_is_named_by_the_start_of_the_file(codec: str) -> None:
    said = foreign_encoding('{"prompt": 1}'.encode(codec)[:4])
    assert said == f"is {codec[:6].upper()}; save it as UTF-8"


@pytest.mark.parametrize("text", ["", "{", '{"prompt"', "\ufeff{}", "caf\u00e9", "\u4e2d\u6587"])
def test_utf8_is_no_other_encoding(text: str) -> None:
    assert foreign_encoding(text.encode()[:4]) is None


def test_values_are_named_by_their_kind() -> None:
    values = (None, True, False, 3, 0.5, "x", [1], {"a": 1})
    kinds = "null", "true", "false", "a number", "a number", "a text", "a list", "an object"
    assert tuple(map(kind_of, values)) == kinds


def test_a_text_of_unknown_origin_is_short_and_printable() -> None:
    assert short("gpu1 slots=x") == "gpu1 slots=x"
    assert short("a\x1b[31m\n\u4e2d") == "a?[31m??"
    assert len(short("x" * 1000)) == 60


def test_what_is_foreseen_is_told_without_a_class_and_a_bug_with_it() -> None:
    assert told(DataError("a line\nis wrong")) == "a line is wrong"
    assert told(ZeroDivisionError("by zero")) == "ZeroDivisionError: by zero"


# What shows a class on purpose: bugs in a cell, and what a library failed of that runs go on after.
ALLOWED = {
    "storage/wording.py",
    "records/record.py",
    "records/tracking.py",
    "rollout/steps/step_package.py",
}


def shown(tree: ast.AST) -> Iterator[int]:
    """Lines on which a caught exception gets into a text by its repr or its class."""
    for handler in ast.walk(tree):
        if not isinstance(handler, ast.ExceptHandler) or handler.name is None:
            continue
        for node in (inner for statement in handler.body for inner in ast.walk(statement)):
            match node:
                case ast.FormattedValue(value=ast.Name(id=name), conversion=mark):
                    if name == handler.name and chr(max(mark, 0)) in "ra":
                        yield node.lineno
                case ast.Call(func=ast.Name(id="type" | "repr"), args=[ast.Name(id=name)]):
                    if name == handler.name:
                        yield node.lineno
                case ast.Attribute(value=ast.Name(id=name), attr="__class__" | "args"):
                    if name == handler.name:
                        yield node.lineno


def test_no_error_shows_the_exception_behind_it() -> None:
    found = {
        f"{place}:{line}"
        for path in PACKAGE.rglob("*.py")
        if (place := path.relative_to(PACKAGE).as_posix()) not in ALLOWED
        for line in shown(ast.parse(path.read_text(encoding="utf-8")))
        if "type(error) is ValueError" not in path.read_text().splitlines()[line - 1]
    }
    assert not found, "say it by storage.in_words"


def test_an_error_is_put_into_words_outside_of_handlers_too() -> None:
    """Helpers take the exception as an argument."""
    found = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if "{error!r}" in path.read_text(encoding="utf-8")
    }
    assert not found


@pytest.mark.parametrize(
    "line", ["f'{e!r}'", "f'{type(e).__name__}'", "repr(e)", "str(e.args)", "e.__class__.__name__"]
)
def test_the_search_finds_what_it_looks_for(line: str) -> None:
    code = f"try:\n    f()\nexcept OSError as e:\n    raise ValueError({line}) from e\n"
    assert list(shown(ast.parse(code))) == [4]


@pytest.mark.parametrize(
    ("raw", "shown_as"),
    [
        (b'Caf\xc3\xa9 "x" \\ {', 'Caf\u00e9 "x" \\ {'),
        (b"\xe4\xb8", "\\xe4\\xb8"),
        (b"a\nb\t\x1b[31m\x00", "a\\nb\\t\\x1b[31m\\x00"),
        (b"", ""),
    ],
)
def test_what_does_not_print_is_an_escape(raw: bytes, shown_as: str) -> None:
    found = visible(raw.decode("utf-8", "surrogateescape"))
    assert found == shown_as
    found.encode()
