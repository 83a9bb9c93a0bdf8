"""What each token adds to an answer, in bytes, read from the tokenizer's own description.

Never by decoding tokens one by one: a decoder strips the blank of a first token, hides one that is
blank alone, and shows a piece of a character as U+FFFD. What a decoder does to a token wherever it
stands is done here by its parts; a part not known here is refused by its name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from opdcliff.errors import ModelError

_Spelling = Callable[[str], bytes]
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def token_bytes(tokenizer: Any, name: str = "the tokenizer") -> tuple[bytes | None, ...]:
    """The bytes of every token id, one entry each up to the largest id.

    None for ids that add no text: special tokens, added special tokens, and ids not used.

    Raises:
        ModelError: a tokenizer without a description, or with a decoder that is not known here.
    """
    described = _description(tokenizer, name)
    spelling = _spelling(described.get("decoder"), name)
    vocabulary = tokenizer.get_vocab()
    table: list[bytes | None] = [None] * (max(vocabulary.values()) + 1)
    for token, number in vocabulary.items():
        table[number] = spelling(token)
    # Added tokens are cut out of the text before it is spelled: they are in it as they stand.
    for added in described.get("added_tokens", []):
        table[added["id"]] = None if added["special"] else added["content"].encode()
    for number in tokenizer.all_special_ids:
        table[number] = None
    return tuple(table)


def byte_of_character() -> dict[str, int]:
    """The byte that each character of a byte-level vocabulary stands for.

    Printable characters of Latin-1 stand for themselves; the bytes that are left over, in their
    order, are the characters from U+0100 on (the byte-level BPE of GPT-2).
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(0x100 + i): byte for i, byte in enumerate(others)
    }


def _description(tokenizer: Any, name: str) -> dict[str, Any]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(
            f"{name} is a {type(tokenizer).__name__}, which does not say what bytes its tokens "
            "are; convert it to the format of tokenizer.json"
        )
    described: dict[str, Any] = json.loads(backend.to_str())
    return described


def _spelling(decoder: dict[str, Any] | None, name: str) -> _Spelling:
    """What a decoder makes of one token in the middle of a text."""
    parts = [] if decoder is None else decoder.get("decoders", [decoder])
    replacements: list[tuple[str, str]] = []
    byte_tokens, fused = False, False
    for part in parts:
        match part:
            case {"type": "ByteLevel"} if len(parts) == 1:
                return _byte_level
            case {"type": "Replace", "pattern": {"String": str(old)}, "content": str(new)}:
                replacements.append((old, new))
            case {"type": "Metaspace", "replacement": str(old)}:
                replacements.append((old, " "))
            case {"type": "ByteFallback"}:
                byte_tokens = True
            case {"type": "Fuse"}:
                fused = True
            # At the ends of the whole text, no matter of single tokens.
            case {"type": "Strip"} if fused:
                pass
            case _:
                raise _unknown(part.get("type"), name)
    if not parts:
        raise _unknown(None, name)

    def spell(token: str) -> bytes:
        if byte_tokens and (byte := _BYTE_TOKEN.fullmatch(token)):
            return bytes([int(byte[1], 16)])
        for old, new in replacements:
            token = token.replace(old, new)
        return token.encode()

    return spell


_BYTE_OF = byte_of_character()


def _byte_level(token: str) -> bytes:
    # A token with other characters is text as it stands, as for the decoder of the library.
    if not all(char in _BYTE_OF for char in token):
        return token.encode()
    return bytes(_BYTE_OF[char] for char in token)


def _unknown(kind: str | None, name: str) -> ModelError:
    which = "no decoder" if kind is None else f"the decoder {kind}"
    return ModelError(
        f"{name} has {which}, so that the bytes of its tokens are not known; known are ByteLevel, "
        "and Metaspace, Replace, ByteFallback, Fuse and a Strip after Fuse"
    )
