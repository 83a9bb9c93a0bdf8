"""Texts stay as they were typed: Hydra and YAML take `1e5`, `1_0` and `true` for something else.

A setting whose type in the schema is text gets quotes around such a value before Hydra reads the
override. What a YAML file spells that way is known only once it has been read: it is refused.
"""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any

from hydra.core.override_parser.overrides_visitor import HydraErrorListener
from hydra.errors import HydraException
from hydra.grammar.gen.OverrideLexer import CommonTokenStream, InputStream, OverrideLexer
from hydra.grammar.gen.OverrideParser import OverrideParser

from opdcliff.errors import ConfigError
from opdcliff.settings.schema import RunConfig

_NOT_TEXT = (OverrideLexer.INT, OverrideLexer.FLOAT, OverrideLexer.BOOL)
# Functions of the override grammar that hand their arguments on.
_HANDS_ON = ("choice", "shuffle", "sort", "str", "tag")


def keep_texts(overrides: Sequence[str]) -> list[str]:
    """The overrides with quotes around each value of a text that would be read as another type.

    One that cannot be parsed is left as it is, for whoever composes to refuse.
    """
    return [_with_quotes(word) for word in overrides]


def refuse_retyped(plain: object, kind: Any = RunConfig, name: str = "") -> None:
    """Refuse a number or a truth value where the schema has a text.

    plain: settings as containers; kind: the type that they have to have.

    Raises:
        ConfigError: the name of the first one.
    """
    kind = _without_null(kind)
    if kind is str and isinstance(plain, bool | int | float):
        raise ConfigError(
            f"{name}={plain} is not a text, as which it is used; write it in quotes, or nothing "
            "says how it was spelled"
        )
    if isinstance(plain, Mapping):
        for key, value in plain.items():
            refuse_retyped(value, _inner(kind, str(key)), f"{name}.{key}".strip("."))
    elif isinstance(plain, list):
        for number, value in enumerate(plain):
            refuse_retyped(value, _inner(kind, str(number)), f"{name}[{number}]")


def _with_quotes(word: str) -> str:
    try:
        parser = _parser(word)
        tree = parser.override()
    except HydraException:
        return word
    value = tree.value()
    if value is None or "@" in tree.key().getText():
        return word
    kind: Any = RunConfig
    for part in tree.key().getText().split("."):
        kind = _inner(kind, part)
    for start, stop in reversed(list(_retyped(value, kind))):
        word = f"{word[:start]}'{word[start:stop]}'{word[stop:]}"
    return word


def _parser(word: str) -> OverrideParser:
    lexer = OverrideLexer(InputStream(word))
    parser = OverrideParser(CommonTokenStream(lexer))
    for part in (lexer, parser):
        part.removeErrorListeners()
        part.addErrorListener(HydraErrorListener())
    return parser


def _retyped(node: Any, kind: Any) -> Iterator[tuple[int, int]]:
    """Where in the word, from left to right, a text stands that would not be read as one."""
    kind = _without_null(kind)
    if isinstance(node, OverrideParser.PrimitiveContext):
        tokens = [leaf.symbol for leaf in node.getChildren() if leaf.symbol.text.strip()]
        if kind is str and len(tokens) == 1 and tokens[0].type in _NOT_TEXT:
            yield tokens[0].start, tokens[0].stop + 1
    elif isinstance(node, OverrideParser.ListContainerContext):
        for element in node.element():
            yield from _retyped(element, _inner(kind, "0"))
    elif isinstance(node, OverrideParser.DictContainerContext):
        for pair in node.dictKeyValuePair():
            yield from _retyped(pair.element(), _inner(kind, pair.dictKey().getText()))
    elif isinstance(node, OverrideParser.FunctionContext):
        if node.ID().getText() in _HANDS_ON:
            for element in node.element():
                yield from _retyped(element, kind)
    elif isinstance(node, OverrideParser.ValueContext | OverrideParser.ElementContext):
        yield from _retyped(node.getChild(0), kind)
    elif isinstance(node, OverrideParser.SimpleChoiceSweepContext):
        for element in node.element():
            yield from _retyped(element, kind)


def _inner(kind: Any, name: str) -> Any:
    """The type of a field, or of an element of a list; None where the schema has none."""
    kind = _without_null(kind)
    if isinstance(kind, type) and is_dataclass(kind):
        return _fields(kind).get(name)
    return typing.get_args(kind)[0] if typing.get_origin(kind) is list else None


def _without_null(kind: Any) -> Any:
    if isinstance(kind, types.UnionType):
        (kind,) = (inner for inner in typing.get_args(kind) if inner is not types.NoneType)
    return kind


@functools.cache
def _fields(schema: type) -> dict[str, Any]:
    return typing.get_type_hints(schema)
