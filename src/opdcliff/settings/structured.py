"""From what Hydra composed to the types of the schema, with errors as one line each."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from opdcliff.errors import ConfigError
from opdcliff.settings.schema import RunConfig
from opdcliff.settings.typed_text import refuse_retyped

# A reference with a colon calls a resolver; one to another setting has none.
_RESOLVER = re.compile(r"(?<!\\)\$\{[^{}]*:")

_TYPES = {
    "Float": "a number",
    "Integer": "a whole number",
    "Boolean": "true or false",
    "String": "a text",
}


def typed(composed: DictConfig | Mapping[str, Any]) -> RunConfig:
    """The composed config with its types checked, but no range.

    Raises:
        ConfigError: one line naming the field, its value and what is allowed.
    """
    return as_object(structured(composed))


def structured(composed: DictConfig | Mapping[str, Any]) -> DictConfig:
    """The composed config as nodes that have the types of the schema.

    Raises:
        ConfigError: as `typed`.
    """
    plain = composed
    if isinstance(composed, DictConfig):
        plain = cast(dict[str, Any], OmegaConf.to_container(composed, resolve=False))
    refuse_retyped(plain)
    with in_words():
        return cast(DictConfig, OmegaConf.merge(OmegaConf.structured(RunConfig), composed))


def as_object(config: DictConfig) -> RunConfig:
    """A structured config as a `RunConfig` of its own.

    Raises:
        ConfigError: as `typed`, or a reference to a value outside of the settings.
    """
    with in_words():
        _refuse_resolvers(OmegaConf.to_container(config, resolve=False))
        return cast(RunConfig, OmegaConf.to_object(config))


@contextlib.contextmanager
def in_words() -> Iterator[None]:
    """What the types of the schema refuse in this block, as ConfigError."""
    try:
        yield
    except OmegaConfBaseException as error:
        raise ConfigError(_in_words(error)) from error


def _in_words(error: OmegaConfBaseException) -> str:
    """What the types of the schema refused."""
    name, text = error.full_key, str(error).strip().splitlines()[0]
    if isinstance(error, MissingMandatoryValue):
        return f"{name} is missing; set {name}=VALUE"
    if isinstance(error, ConfigKeyError):
        allowed = ", ".join(map(str, error.parent_node or ()))
        return f"there is no setting {name}; allowed there: {allowed}"
    if match := re.search(r"could not be converted to (\w+)", text):
        return f"{name}={error.value} is not {_TYPES.get(match[1], match[1])}"
    if "is not a valid bool" in text:
        return f"{name}={error.value} is not {_TYPES['Boolean']}"
    if text.startswith("Incompatible value 'None'"):
        return f"{name}=null is not allowed; give a value"
    if text.startswith("Invalid type assigned"):
        return f"{name}={error.value} is not allowed; set one of its fields, {name}.FIELD=VALUE"
    if text.startswith("Invalid value assigned"):
        return f"{name}={error.value} is not a list; write {name}=[VALUE,...]"
    return f"{name}: {text}"


def _refuse_resolvers(plain: object, name: str = "") -> None:
    """Refuse `${oc.env:NAME}` and its like: records would get secrets of the environment."""
    if isinstance(plain, Mapping | list):
        items = plain.items() if isinstance(plain, Mapping) else enumerate(plain)
        for key, value in items:
            _refuse_resolvers(value, f"{name}.{key}".strip("."))
    elif isinstance(plain, str) and _RESOLVER.search(plain):
        raise ConfigError(f"{name} refers to a value outside of the settings; write the value out")
