"""The seam of contracts: what judges whole answers, and what a verdict says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class FailureCode(StrEnum):
    """Why a ranking is refused. Members are in order of precedence: the first that holds is given.

    truncated   generation ended without EOS, whatever the text looks like.
    not_json    no complete JSON value starts at the first non-blank character, nor at the first
                `{`. Also text that is not read: longer than MAX_CHARS, nested deeper than
                MAX_DEPTH, or holding a raw surrogate (UTF-8 cannot encode it).
    extra_text  such a value is there, with anything before or after it, whitespace included.
    schema      the value is not an object with exactly the contract's keys, or anywhere in it a
                key is repeated or NaN, Infinity or -Infinity stands for a value.
    type        `ranking` is not a list of strings, or `reason` is not a string.
    count       more than K entries.
    duplicate   an entry occurs twice.
    unknown_id  an entry is no candidate id.
    missing     all entries are distinct candidate ids, but fewer than K.
    """

    TRUNCATED = "truncated"
    NOT_JSON = "not_json"
    EXTRA_TEXT = "extra_text"
    SCHEMA = "schema"
    TYPE = "type"
    COUNT = "count"
    DUPLICATE = "duplicate"
    UNKNOWN_ID = "unknown_id"
    MISSING = "missing"


@dataclass(frozen=True)
class ParseResult:
    """Outcome of one judgement: ok, or the one `failure` code.

    ranking: the K ids, best first, of an accepted answer to a contract that ranks; else None.
    """

    ok: bool
    ranking: tuple[str, ...] | None
    failure: str | None


ACCEPTED = ParseResult(True, None, None)


def refused(failure: str) -> ParseResult:
    """The verdict on a broken answer."""
    return ParseResult(False, None, failure)


class Asked(Protocol):
    """What a prompt asks of its answer.

    candidates: ids to rank; empty where nothing is ranked. form: what the contract is made of for
    this prompt, as `Contract.read_form` gave it; empty for contracts that need none.
    """

    @property
    def candidates(self) -> tuple[str, ...]: ...

    @property
    def form(self) -> str: ...


class Contract(Protocol):
    """Judge of whole answers: accepted as it stands, or refused with one code, without repair.

    Whether answers have token classes beside it is a matter of `labels_of`.
    """

    @property
    def name(self) -> str:
        """As in `data.contract`."""
        ...

    @property
    def codes(self) -> Sequence[str]:
        """Failure codes that are always counted, in order of precedence."""
        ...

    @property
    def ranks(self) -> bool:
        """Whether an answer ranks the candidates of its prompt."""
        ...

    @property
    def has_text(self) -> bool:
        """Whether a ranking has a reason beside it, which a calibration makes go on."""
        ...

    @property
    def form_key(self) -> str | None:
        """The key of a line of prompts that holds a form of its own; None where there is none."""
        ...

    def read_form(self, value: object) -> str:
        """A schema, pattern or grammar as read from JSON, checked, as the text that is judged by.

        Raises:
            DataError: the end of a sentence on what is wrong with it.
        """
        ...

    def judge(self, text: str, asked: Asked, *, ended: bool) -> ParseResult:
        """The verdict on one answer.

        text: the decoded answer without its end token; bytes that are no UTF-8 stand in it as
        surrogates. ended: whether generation emitted an end token.
        """
        ...
