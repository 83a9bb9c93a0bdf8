"""Keep secrets out of everything that is written or sent: records, manifests, the W&B mirror."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from opdcliff.errors import ConfigError
from opdcliff.storage.canonical import canonical_json

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_SECRET_NAME = re.compile(
    r"password|passwd|passphrase|secret|credential|authorization|apikey|(api|access|private) key"
)
# A name that ends in "token" is a secret unless it is one of a language model's.
_PLAIN_TOKEN = re.compile(
    r"\b(pad|eos|bos|unk|mask|sep|cls|start|end|stop|special|first|last|next|per|modal) token$"
)
_MIN_SECRET_LENGTH = 8


def redact(config: Mapping[str, Any]) -> dict[str, Any]:
    """Copy `config` as plain containers with every secret replaced by `***`.

    A secret is any value under a key that names one (`wandb.api_key`, `hf_token`, but not
    `max_new_tokens` or `eos_token`), and any text that contains the value of an environment
    variable so named.

    Raises:
        ConfigError: the config holds NaN or something JSON has no form for.
    """
    plain: dict[str, Any] = json.loads(canonical_json(_redact(config, _environment_secrets())))
    return plain


def redact_text(text: str) -> str:
    """Replace every value of an environment variable that names a secret by `***`."""
    return _redact_text(text, _environment_secrets())


def redact_file(path: Path) -> None:
    """`redact_text` of a text file that others wrote, in place."""
    text = path.read_text(encoding="utf-8", errors="surrogateescape")
    clean = redact_text(text)
    if clean != text:
        path.write_text(clean, encoding="utf-8", errors="surrogateescape")


def refuse_secrets(settings: object, name: str = "settings") -> None:
    """Refuse settings that contain the value of an environment variable that names a secret.

    They become names of folders and of W&B runs, which no redaction reaches.

    Raises:
        ConfigError: the setting and the variable, not the value.
    """
    _refuse(settings, name, _named_secrets())


def _refuse(settings: object, name: str, secrets: Sequence[tuple[str, str]]) -> None:
    if isinstance(settings, Mapping | list):
        items = settings.items() if isinstance(settings, Mapping) else enumerate(settings)
        for key, value in items:
            _refuse(value, f"{name}.{key}".removeprefix("settings."), secrets)
    elif isinstance(settings, str):
        for variable, secret in secrets:
            if secret in settings:
                raise ConfigError(
                    f"{name} contains the value of the environment variable {variable}, which "
                    "looks like a secret; give another value, or unset the variable"
                )


def _names_secret(key: str) -> bool:
    words = " ".join(_WORDS.findall(key)).lower()
    if _SECRET_NAME.search(words):
        return True
    return words.split()[-1:] == ["token"] and not _PLAIN_TOKEN.search(words)


def _environment_secrets() -> list[str]:
    values = {value for _, value in _named_secrets()}
    # An error is folded into one line before it gets here. The longest first: one secret may be
    # the beginning of another.
    values |= {" ".join(value.split()) for value in values}
    return sorted(values, key=len, reverse=True)


def _named_secrets() -> list[tuple[str, str]]:
    named = [(key, value) for key, value in os.environ.items() if _names_secret(key)]
    return [(key, value) for key, value in named if len(value.strip()) >= _MIN_SECRET_LENGTH]


def _redact(value: Any, secrets: Sequence[str]) -> Any:
    if isinstance(value, Mapping):
        return {
            key: "***" if _names_secret(str(key)) and _holds(item) else _redact(item, secrets)
            for key, item in value.items()
        }
    if isinstance(value, str):
        return _redact_text(value, secrets)
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [_redact(item, secrets) for item in value]
    return value


def _redact_text(text: str, secrets: Sequence[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, "***")
    return text


def _holds(value: Any) -> bool:
    return value is not None and not isinstance(value, bool)
