"""Whether a JSON Schema can be judged by here: valid, closed, without endless references."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, cast

from jsonschema import Draft202012Validator, SchemaError
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for
from referencing import Registry, Resource
from referencing.exceptions import Unresolvable
from referencing.jsonschema import specification_with

from opdcliff.errors import DataError

# Keywords whose schemas speak of the value itself, by what they hold: a schema, a list, an object.
_ALONE, _LISTS = ("not", "if", "then", "else"), ("allOf", "anyOf", "oneOf")
_OBJECTS = ("dependentSchemas",)
_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
_EXTRA = 'pip install "opd-cliff[formats]"'
# What the extra brings checks for; other formats are checked by nothing.
_KNOWN_FORMATS = (
    *("date-time", "time", "duration", "hostname", "uri", "uri-reference"),
    *("uri-template", "json-pointer", "relative-json-pointer", "color"),
)


def checked_class(schema: Any) -> type[Validator]:
    """The validator class of a schema's draft.

    Raises:
        DataError: what is wrong with it, as the end of a sentence.
    """
    if not isinstance(schema, bool | dict):
        raise DataError("is no JSON Schema; give an object, true or false")
    kind = _draft(schema)
    try:
        kind.check_schema(cast(Any, schema))
    except SchemaError as error:
        place = "/".join(str(part) for part in error.absolute_path)
        raise DataError(
            f"is not valid at {place or 'its root'}: {_short(error.message)}; mend it"
        ) from error
    except RecursionError as error:
        raise DataError("is nested too deeply; flatten it") from error
    _check_closed(schema, kind)
    return kind


def _draft(schema: Any) -> type[Validator]:
    named = schema.get("$schema") if isinstance(schema, dict) else None
    if named is None:
        return Draft202012Validator
    with warnings.catch_warnings():
        # An unknown name is told by the default that comes back.
        warnings.simplefilter("ignore", DeprecationWarning)
        unknown = cast(Any, None)
        found = validator_for({"$schema": named}, unknown) if isinstance(named, str) else None
    if found is None:
        raise DataError(
            f"names $schema {_short(str(named))}, which is no known draft; allowed: drafts 3 to 7, "
            "2019-09 and 2020-12, e.g. https://json-schema.org/draft/2020-12/schema"
        )
    kind: type[Validator] = found
    return kind


def _check_closed(schema: Any, kind: type[Validator]) -> None:
    """Refuse references that lead outside or round in a circle, and formats nothing checks."""
    named = kind.META_SCHEMA.get("$schema", kind.META_SCHEMA.get("$id"))
    resource: Resource[Any] = specification_with(str(named)).create_resource(schema)
    resolver = Registry().with_resource("", resource).resolver_with_root(resource)
    edges: dict[int, list[Any]] = {}
    for node, inner in _walk(resource, resolver):
        edges[id(node)] = list(_same_value(node, inner))
        form = node.get("format")
        if isinstance(form, str) and form not in kind.FORMAT_CHECKER.checkers:
            raise DataError(_format_problem(form))
    _refuse_circles(edges)


def _walk(resource: Resource[Any], resolver: Any) -> Iterator[tuple[dict[str, Any], Any]]:
    """Every schema that is an object inside a schema, with the resolver of its place."""
    if isinstance(resource.contents, dict):
        yield resource.contents, resolver
    for inner in resource.subresources():
        yield from _walk(inner, resolver.in_subresource(inner))


def _same_value(node: dict[str, Any], resolver: Any) -> Iterator[Any]:
    """Schemas that the value itself is held against beside this one."""
    for keyword in _REFERENCES:
        if isinstance(node.get(keyword), str):
            try:
                yield resolver.lookup(node[keyword]).contents
            except Unresolvable as error:
                raise DataError(
                    f"refers to {_short(node[keyword])}, which is not in it; nothing is looked up "
                    "elsewhere: put it into $defs"
                ) from error
    yield from (node[keyword] for keyword in _ALONE if keyword in node)
    for keyword in _LISTS:
        yield from node.get(keyword, ())
    for keyword in _OBJECTS:
        yield from node.get(keyword, {}).values()


def _refuse_circles(edges: dict[int, list[Any]]) -> None:
    done: set[int] = set()

    def visit(node: int, above: frozenset[int]) -> None:
        if node in above:
            raise DataError(
                "refers to itself without going into the value, so that judging would never end; "
                "let the reference stand below properties or items"
            )
        if node not in done:
            for following in edges.get(node, ()):
                visit(id(following), above | {node})
            done.add(node)

    for node in edges:
        visit(node, frozenset())


def _format_problem(form: str) -> str:
    if form in _KNOWN_FORMATS:
        return f"has the format {form}, for which a check is not installed: {_EXTRA}"
    return f"has the format {_short(form)}, which nothing checks; leave it out, or give a pattern"


def _short(text: str) -> str:
    return text if len(text) <= 120 else f"{text[:117]}..."
