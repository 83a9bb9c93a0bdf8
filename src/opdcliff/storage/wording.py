"""What went wrong with a file or a value, in words for people who do not know Python.

Errors of this project are sentences: they show neither the name nor the text of an exception that
a library raised, but what `in_words` says of it.
"""

from __future__ import annotations

import codecs
import json
import zlib

from opdcliff.errors import OpdcliffError

# Marks at the start of a file, the longer ones first: that of UTF-32 begins like that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_LONGEST = 60


def in_words(error: BaseException) -> str:
    """What an exception of reading something means: the end of a sentence about the file."""
    if isinstance(error, UnicodeDecodeError):
        return foreign_encoding(error.object[:4]) or "is not UTF-8 text; save it as UTF-8"
    if isinstance(error, json.JSONDecodeError):
        return f"is not JSON from line {error.lineno} character {error.colno} on"
    if isinstance(error, zlib.error | EOFError):
        return "cannot be unpacked to its end"
    if isinstance(error, OSError):
        return (error.strerror or "cannot be read").lower()
    if isinstance(error, RecursionError):
        return "is nested too deeply"
    if isinstance(error, KeyError) and error.args:
        return f"lacks {short(str(error.args[0]))}"
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        return f"is not YAML from line {mark.line + 1} character {mark.column + 1} on"
    return "has content of another form than expected"


def told(error: BaseException) -> str:
    """What a part of a study failed of, in one line: a bug is named by its class as well."""
    name = "" if isinstance(error, OpdcliffError) else f"{type(error).__name__}: "
    return " ".join(f"{name}{error}".split())


def foreign_encoding(head: bytes) -> str | None:
    """What to say of a text file that starts with these 4 bytes and is not UTF-8, else None."""
    # Without a mark, the NUL beside an ASCII character tells; no text begins with that in UTF-8.
    pair = {head[:1] == b"\0", head[1:2] == b"\0"} == {True, False} and len(head) > 1
    found = next((name for mark, name in _MARKS if head.startswith(mark)), "UTF-16" if pair else "")
    return f"is {found}; save it as UTF-8" if found else None


def kind_of(value: object) -> str:
    """What a value read from JSON or YAML is, as a noun."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return "a text"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, list | tuple):
        return "a list"
    return "an object" if isinstance(value, dict) else "of another kind"


def short(text: str) -> str:
    """A text of unknown origin, fit for one line of an error: printable, at most 60 characters."""
    plain = "".join(c if c.isascii() and c.isprintable() else "?" for c in text)
    return plain if len(plain) <= _LONGEST else plain[: _LONGEST - 3] + "..."


def visible(text: str) -> str:
    """A text as it may be shown: what does not print is an escape, such as \\n or \\x1b.

    So is a byte that belongs to no character (`surrogateescape`), which no terminal takes.
    """
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else repr(character)[1:-1]
