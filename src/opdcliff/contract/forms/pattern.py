"""The contract of a regular expression: the whole answer matches it."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from opdcliff.contract.json_text import MAX_CHARS, holds_surrogate
from opdcliff.contract.verdict import ACCEPTED, Asked, FailureCode, ParseResult, refused
from opdcliff.errors import DataError

NOT_TEXT, NO_MATCH = "not_text", "no_match"


@dataclass(frozen=True)
class PatternContract:
    """A full match of Python's `re`; flags are written inside, as in (?s).

    Codes: truncated; not_text, for bytes that are no UTF-8 or more than MAX_CHARS characters;
    no_match. An expression that tries many ways may take long: its author's to avoid.
    """

    name: str = "regex"
    ranks: bool = False
    has_text: bool = False
    form_key: str = "regex"
    codes: Sequence[str] = (FailureCode.TRUNCATED.value, NOT_TEXT, NO_MATCH)

    def read_form(self, value: object) -> str:
        """The expression itself. Raises DataError where it is none."""
        if not isinstance(value, str):
            raise DataError("is no text; give a regular expression")
        try:
            re.compile(value)
        except (re.error, RecursionError, OverflowError) as error:
            raise DataError(f"is no regular expression: {error}; mend it") from error
        return value

    def judge(self, text: str, asked: Asked, *, ended: bool) -> ParseResult:
        """Accept or refuse one answer."""
        if not ended:
            return refused(FailureCode.TRUNCATED)
        if not is_text(text):
            return refused(NOT_TEXT)
        return ACCEPTED if _compiled(asked.form).fullmatch(text) else refused(NO_MATCH)


def is_text(text: str) -> bool:
    """Whether a decoded answer is UTF-8 and of a length that is read."""
    return len(text) <= MAX_CHARS and not holds_surrogate(text)


@functools.lru_cache(4096)
def _compiled(form: str) -> re.Pattern[str]:
    return re.compile(form)
