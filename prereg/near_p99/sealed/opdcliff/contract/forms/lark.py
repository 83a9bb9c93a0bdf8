"""The contract of a Lark grammar, as llguidance reads it: the whole answer is a sentence of it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from opdcliff.contract.engine import engine
from opdcliff.contract.forms.pattern import NOT_TEXT, unreadable
from opdcliff.contract.verdict import ACCEPTED, Asked, FailureCode, ParseResult, refused
from opdcliff.errors import DataError

NO_PARSE, INCOMPLETE = "no_parse", "incomplete"


@dataclass(frozen=True)
class LarkContract:
    """Codes: truncated; not_text, as for expressions; no_parse, where a byte cannot follow those
    before it; incomplete, where all can and more has to follow.
    """

    name: str = "lark"
    ranks: bool = False
    has_text: bool = False
    form_key: str = "lark"
    codes: Sequence[str] = (FailureCode.TRUNCATED.value, NOT_TEXT, NO_PARSE, INCOMPLETE)

    def read_form(self, value: object) -> str:
        """The grammar itself. Raises DataError where it is none."""
        if not isinstance(value, str):
            raise DataError("is no text; give a Lark grammar")
        matcher = engine().LLMatcher
        wrong, said = matcher.validate_grammar_with_warnings(matcher.grammar_from_lark(value))
        if wrong:
            words = " ".join(said[0].split())
            raise DataError(f"is no Lark grammar of llguidance: {words[:200]}; mend it")
        return value

    def judge(self, text: str, asked: Asked, *, ended: bool) -> ParseResult:
        """Accept or refuse one answer."""
        unread = unreadable(text, ended=ended)
        if unread is not None:
            return unread
        data = text.encode()
        matcher = _matcher(asked.form).deep_copy()
        if matcher.try_consume_tokens(list(data)) < len(data):
            return refused(NO_PARSE)
        return ACCEPTED if matcher.is_accepting() else refused(INCOMPLETE)


@functools.cache
def _bytes() -> Any:
    """A tokenizer whose tokens 0 to 255 are the bytes."""
    return engine().LLTokenizer("byte")


@functools.lru_cache(1024)
def _matcher(form: str) -> Any:
    """A matcher at the start of a grammar, of which judgements take copies."""
    kind = engine().LLMatcher
    return kind(_bytes(), kind.grammar_from_lark(form))
