"""What stands around an answer as part of its contract: a fence, or a block of thoughts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from opdcliff.contract.verdict import Asked, Contract, FailureCode, ParseResult, refused

NO_WRAPPER, FENCE, THINK = "none", "fence", "think"
WRAPPERS = (NO_WRAPPER, FENCE, THINK)
WRAPPER = "wrapper"

_INSIDE = {
    # What the fence holds may hold a fence itself, as a text of it.
    FENCE: re.compile(r"```json\n(.*)\n```", re.DOTALL),
    # Not possessive: Python before 3.11.5 matches a possessive group wrongly.
    THINK: re.compile(r"<think>(?:(?!</?think>).)*</think>\n\n(.*)", re.DOTALL),
}


@dataclass(frozen=True)
class Wrapped:
    """A contract whose answers stand in a wrapper, each character of which is asked for.

    fence: "```json", a line break, the answer, a line break, "```", and then the end token. think:
    "<think>", any text without another such tag, "</think>", two line breaks, the answer.
    A wrapper that is not there is refused with the code `wrapper`, behind `truncated`; what it
    holds is judged by the contract.
    """

    inner: Contract
    wrapper: str

    @property
    def name(self) -> str:
        """That of the contract inside."""
        return self.inner.name

    @property
    def codes(self) -> Sequence[str]:
        """`truncated`, `wrapper`, and the others of the contract inside."""
        first = FailureCode.TRUNCATED.value
        return (first, WRAPPER, *(code for code in self.inner.codes if code != first))

    @property
    def ranks(self) -> bool:
        """As the contract inside."""
        return self.inner.ranks

    @property
    def has_text(self) -> bool:
        """As the contract inside."""
        return self.inner.has_text

    @property
    def form_key(self) -> str | None:
        """As the contract inside."""
        return self.inner.form_key

    def read_form(self, value: object) -> str:
        """As the contract inside."""
        return self.inner.read_form(value)

    def judge(self, text: str, asked: Asked, *, ended: bool) -> ParseResult:
        """Accept or refuse one answer."""
        if not ended:
            return refused(FailureCode.TRUNCATED)
        found = _INSIDE[self.wrapper].fullmatch(text)
        if found is None:
            return refused(WRAPPER)
        return self.inner.judge(found[1], asked, ended=True)
