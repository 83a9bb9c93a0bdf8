"""The contract of a Python function: it says of a whole answer why it is refused, or None."""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from opdcliff.contract.forms.pattern import NOT_TEXT, unreadable
from opdcliff.contract.verdict import ACCEPTED, Asked, FailureCode, ParseResult, refused
from opdcliff.errors import ConfigError, DataError

_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_CODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,60}")


@dataclass(frozen=True)
class FunctionContract:
    """`MODULE:FUNCTION`, looked for in the working directory first; it takes the answer's text.

    Codes: truncated and not_text, of which the function is not asked, and its own. It has to give
    the same for the same text: answers are judged in several processes and again on resume.
    """

    name: str = "python"
    ranks: bool = False
    has_text: bool = False
    form_key: None = None
    codes: Sequence[str] = (FailureCode.TRUNCATED.value, NOT_TEXT)

    def read_form(self, value: object) -> str:
        """The name with a digest of the module's file, so that another one is noticed.

        Raises:
            DataError: it is no such name, or there is no such function.
        """
        if not isinstance(value, str) or not _NAME.fullmatch(value):
            raise DataError("is not MODULE:FUNCTION, as in judge:check; give that")
        return f"{value}@{_digest(_function(value))}"

    def judge(self, text: str, asked: Asked, *, ended: bool) -> ParseResult:
        """Accept or refuse one answer.

        Raises:
            DataError: the function fails, gives no code, or its file is another one by now.
        """
        unread = unreadable(text, ended=ended)
        if unread is not None:
            return unread
        name, check = _loaded(asked.form)
        try:
            code = check(text)
        except Exception as error:
            words = " ".join(str(error).split())[:200]
            raise DataError(
                f"data.form={name} fails on the answer {text[:80]!r}: {words or 'no word of why'}; "
                "it has to give a code or None for any text"
            ) from error
        if code is None:
            return ACCEPTED
        if not isinstance(code, str) or not _CODE.fullmatch(code):
            raise DataError(
                f"data.form={name} gives {str(code)[:80]!r} for an answer; allowed: None, or a "
                "code of letters, digits, _ . and -"
            )
        return refused(code)


@functools.cache
def _loaded(form: str) -> tuple[str, Callable[[str], object]]:
    name, _, digest = form.rpartition("@")
    function = _function(name)
    if _digest(function) != digest:
        raise DataError(
            f"data.form={name} is in a file that was changed since the prompts were prepared; run "
            "the command again, all in one version of it"
        )
    return name, function


def _function(name: str) -> Callable[[str], object]:
    module_name, _, function = name.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise DataError(
            f"names the module {module_name}, which cannot be imported: {error}; it is looked for "
            "in the working directory and where Python looks"
        ) from error
    finally:
        sys.path.pop(0)
    found = getattr(module, function, None)
    if not callable(found):
        raise DataError(f"names no function of {module_name}; give one that is there")
    return found  # type: ignore[no-any-return]


def _digest(function: Callable[[str], object]) -> str:
    file = inspect.getsourcefile(inspect.unwrap(function))
    if file is None:
        raise ConfigError("data.form names a function without a source file; write one in Python")
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]
