"""What a contract is made of for all prompts of a file, from the setting `data.form`."""

from __future__ import annotations

import json
from pathlib import Path

from opdcliff.contract import Contract
from opdcliff.errors import DataError
from opdcliff.storage import in_words

# Contracts whose form is a file; of the others the setting is the form itself.
_FILES = {"schema": "a JSON Schema", "lark": "a Lark grammar"}


def read_form(contract: Contract, form: str | None) -> str:
    """The form as text that answers are judged by; empty for null.

    Raises:
        DataError: the file cannot be read, or what is given is refused (`Contract.read_form`).
    """
    if form is None:
        return ""
    value: object = form
    if contract.name in _FILES:
        try:
            text = Path(form).expanduser().read_text(encoding="utf-8-sig")
            value = json.loads(text) if contract.name == "schema" else text
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(
                f"data.form={form} {in_words(error)}; give a file with {_FILES[contract.name]}"
            ) from error
    try:
        return contract.read_form(value)
    except DataError as error:
        raise DataError(f"data.form={form} {error}") from error
