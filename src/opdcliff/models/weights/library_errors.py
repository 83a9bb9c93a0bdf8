"""What the library says when a model cannot be loaded, as the middle of one line of ours."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import transformers

from opdcliff.storage import in_words

_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z(\[])")
# Advice for developers of the library, and where to ask them.
_ASIDE = re.compile(r"https?://|open an issue|[Pp]lease request")
_LENGTH = 400
# What the library says, with the name, of an architecture that it does not know, that is no causal
# language model, or that has none of the attention asked for.
_NOT_SUPPORTED = re.compile(
    r"does not recognize this architecture|Unrecognized configuration class"
    r"|does not support an attention implementation"
)


def cannot_load(what: str, source: str | Path, error: Exception) -> str:
    """The line that says why `what` of `source` could not be loaded."""
    remedy = "give a folder or hub id with safetensors weights and a tokenizer"
    if _NOT_SUPPORTED.search(str(error)):
        remedy = (
            "this architecture is not supported: choose a causal language model that transformers "
            f"{transformers.__version__}, which is installed, knows"
        )
    return f"cannot load the {what} of {source}: {_reason(error)}; {remedy}"


def _reason(error: Exception) -> str:
    """In whole sentences: cut in one, the word that helps may be gone."""
    sentences = _SENTENCE.split(" ".join(str(error).split()))
    telling = [each for each in sentences if not _ASIDE.search(each)] or sentences
    reason = telling[0]
    for sentence in telling[1:]:
        if len(reason) + len(sentence) >= _LENGTH:
            break
        reason = f"{reason} {sentence}"
    return textwrap.shorten(reason.rstrip("."), _LENGTH, placeholder=" ...") or in_words(error)
