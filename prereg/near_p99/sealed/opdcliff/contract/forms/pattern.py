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
        unread = unreadable(text, ended=ended)
        if unread is not None:
            return unread
        return ACCEPTED if _compiled(asked.form).fullmatch(text) else refused(NO_MATCH)


def unreadable(text: str, *, ended: bool) -> ParseResult | None:
    """The verdict on an answer that is cut off, no UTF-8 or too long to be read; else None."""
    if not ended:
        return refused(FailureCode.TRUNCATED)
    if len(text) > MAX_CHARS or holds_surrogate(text):
        return refused(NOT_TEXT)
    return None


@functools.lru_cache(4096)
def _compiled(form: str) -> re.Pattern[str]:
    return re.compile(form)
