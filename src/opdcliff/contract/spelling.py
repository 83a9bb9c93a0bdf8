"""JSON strings byte by byte: free text, and names that may be spelled with escapes.

Bytes, because a token of a language model may end inside a character. A string may hold any UTF-8
text but quotes, backslashes and control characters, which need an escape (RFC 8259, section 7).
"""

from __future__ import annotations

import re
from collections.abc import Set as AbstractSet

QUOTE, BACKSLASH = 0x22, 0x5C
_FIRST_PRINTABLE = 0x20

# What free text may hold unescaped, in whole characters: the shortest forms of UTF-8, no surrogate.
# Not possessive: Python before 3.11.5 takes a part of a character for a whole one there.
PLAIN = re.compile(
    rb"(?:[ !#-\[\]-\x7f]|[\xc2-\xdf][\x80-\xbf]"
    rb"|\xe0[\xa0-\xbf][\x80-\xbf]|[\xe1-\xec\xee\xef][\x80-\xbf]{2}|\xed[\x80-\x9f][\x80-\xbf]"
    rb"|\xf0[\x90-\xbf][\x80-\xbf]{2}|[\xf1-\xf3][\x80-\xbf]{3}|\xf4[\x80-\x8f][\x80-\xbf]{2})*"
)
# A begun character is known by a first byte that leaves as much open: the range that its next byte
# must lie in, and what is begun after that (nothing at the last byte).
_CONTINUES = {
    b"\xc2": (0x80, 0xBF, b""),
    b"\xe0": (0xA0, 0xBF, b"\xc2"),
    b"\xe1": (0x80, 0xBF, b"\xc2"),
    b"\xed": (0x80, 0x9F, b"\xc2"),
    b"\xf0": (0x90, 0xBF, b"\xe1"),
    b"\xf1": (0x80, 0xBF, b"\xe1"),
    b"\xf4": (0x80, 0x8F, b"\xe1"),
}
_SIMPLE = dict(zip('"\\/\b\f\n\r\t', '"\\/bfnrt', strict=True))
_SIMPLE_BYTES = "".join(_SIMPLE.values()).encode()
_HEX = b"0123456789abcdefABCDEF"


def step_text(begun: bytes, byte: int) -> bytes | None:
    """What is begun after one more byte of free text, None where no text goes on so.

    begun: an escape or a character that is not whole yet, reduced to what may follow it: the same
    for all that go on alike. The closing quote is the caller's.
    """
    if begun in _CONTINUES:
        low, high, after = _CONTINUES[begun]
        return after if low <= byte <= high else None
    if begun == b"\\":
        if byte == ord("u"):
            return b"\\u"
        return b"" if byte in _SIMPLE_BYTES else None
    if begun:
        if byte not in _HEX:
            return None
        # Which digit it was makes no difference: half a surrogate pair is a string to JSON.
        return b"" if len(begun) == len(b"\\u000") else begun + b"0"
    if byte == BACKSLASH:
        return b"\\"
    if byte < 0x80:
        return b"" if byte >= _FIRST_PRINTABLE and byte != QUOTE else None
    return _first_of_character(byte)


def _first_of_character(byte: int) -> bytes | None:
    if not 0xC2 <= byte <= 0xF4:
        return None
    itself = bytes([byte])
    if itself in _CONTINUES:
        return itself
    return b"\xc2" if byte < 0xE0 else b"\xe1" if byte < 0xF0 else b"\xf1"


def step_name(
    names: AbstractSet[bytes], fragment: bytes, begun: bytes, byte: int
) -> tuple[bytes, bytes] | None:
    """(fragment, begun) after one more byte of a string that is to be one of `names`, else None.

    fragment: what is spelled so far, as bytes of the name. begun: an escape that is not whole yet.
    A character may be written as it is, by its short escape, or by its UTF-16 units in hexadecimal
    of either case. The closing quote is the caller's.
    """
    if not begun and byte != BACKSLASH:
        longer = fragment + bytes([byte])
        viable = byte >= _FIRST_PRINTABLE and byte != QUOTE and _begins(names, longer)
        return (longer, b"") if viable else None
    begun += bytes([byte])
    # Digits count in either case, the letter before them in one.
    folded = begun if len(begun) <= 2 or byte == ord("U") else begun.lower()
    going_on = False
    for name in names:
        if name.startswith(fragment) and (char := _next_character(name, len(fragment))):
            for form in _escapes(char):
                if form == folded:
                    return fragment + char.encode(), b""
                going_on |= form.startswith(folded)
    return (fragment, folded) if going_on else None


def possible_in_name(names: AbstractSet[bytes], fragment: bytes, begun: bytes) -> bytes:
    """Bytes among which are all that `step_name` takes, and the closing quote."""
    if begun:
        return bytes({*_HEX, *_SIMPLE_BYTES, ord("u")})
    at = len(fragment)
    following = {name[at] for name in names if len(name) > at and name.startswith(fragment)}
    return bytes({*following, QUOTE, BACKSLASH})


def _begins(names: AbstractSet[bytes], fragment: bytes) -> bool:
    return any(name.startswith(fragment) for name in names)


def _next_character(name: bytes, at: int) -> str | None:
    """The character of `name` that begins at that byte; None at its end and inside a character."""
    try:
        return name[at:].decode()[0]
    except (UnicodeDecodeError, IndexError):
        return None


def _escapes(char: str) -> list[bytes]:
    """All escapes of a character, with lower-case digits."""
    units = char.encode("utf-16-be")
    spelled = "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))
    short = [b"\\" + _SIMPLE[char].encode()] if char in _SIMPLE else []
    return [*short, spelled.encode()]
