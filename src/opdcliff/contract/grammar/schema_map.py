"""What a schema says of the value at a place: its kinds, and whether it can go on without end.

A schema at a place is a list of ways to be valid, each a list of schemas that hold together. What
this does not look into (references by anchor, very many ways) counts as a schema that takes all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import product
from typing import Any

from opdcliff.contract.grammar.tracker import Step

Way = tuple[dict[str, Any], ...]
_MOST_WAYS = 256
_CLOSED = ("enum", "const")


class SchemaMap:
    """Looks up places in a schema, see `Position.steps`."""

    def __init__(self, form: str) -> None:
        self._root: Any = json.loads(form)
        self._ways: dict[tuple[Step, ...], list[Way]] = {}
        self._nesting: dict[tuple[Step, ...], bool] = {}

    def kinds(self, steps: tuple[Step, ...]) -> frozenset[str]:
        """JSON types that the value may have; integer counts as number."""
        found: set[str] = set()
        for way in self.ways(steps):
            allowed = set(_TYPES)
            for schema in way:
                allowed &= _types_of(schema)
            found |= allowed
        return frozenset(found)

    def is_listed(self, steps: tuple[Step, ...], kind: str) -> bool:
        """Whether all values of that type are listed by enum or const."""
        ways = [way for way in self.ways(steps) if _admits(way, kind)]
        return bool(ways) and all(any(_has(s, _CLOSED) for s in way) for way in ways)

    def is_free_text(self, steps: tuple[Step, ...]) -> bool:
        """Whether the value may be a text of any letters."""
        ways = [way for way in self.ways(steps) if _admits(way, "string")]
        return any(not any(_has(s, (*_CLOSED, "pattern", "format")) for s in way) for way in ways)

    def takes_any_key(self, steps: tuple[Step, ...]) -> bool:
        """Whether the object may have keys that the schema does not name."""
        ways = [way for way in self.ways(steps) if _admits(way, "object")]
        return any(not any(_names_all(s) for s in way) for way in ways)

    def may_nest(self, steps: tuple[Step, ...]) -> bool:
        """Whether the value may hold a value of the same schema, and so on without end."""
        if steps not in self._nesting:
            self._nesting[steps] = self._nests(steps)
        return self._nesting[steps]

    def _nests(self, steps: tuple[Step, ...]) -> bool:
        start = {id(schema) for way in self.ways(steps) for schema in way}
        seen: set[int] = set()
        waiting = [(*steps, *step) for step in self._inner(steps)]
        for _ in range(_MOST_WAYS):
            if not waiting:
                return False
            place = waiting.pop()
            here = {id(schema) for way in self.ways(place) for schema in way}
            if here & start or not here:
                return True
            if not here <= seen:
                seen |= here
                waiting += [(*place, *step) for step in self._inner(place)]
        return True

    def ways(self, steps: tuple[Step, ...]) -> list[Way]:
        """The ways to be valid at a place. A way without schemas takes anything."""
        if steps and isinstance(steps[-1], int):
            steps = (*steps[:-1], min(steps[-1], self._alike(steps[:-1])))
        if steps not in self._ways:
            if not steps:
                found = list(self._expanded(self._root))
            else:
                before = self.ways(steps[:-1])
                found = [way for outer in before for way in self._stepped(outer, steps[-1])]
            self._ways[steps] = found if len(found) <= _MOST_WAYS else [()]
        return self._ways[steps]

    def _alike(self, steps: tuple[Step, ...]) -> int:
        """The first item of an array from which on all items are judged alike."""
        return max((len(_first_items(s)) for way in self.ways(steps) for s in way), default=0)

    def _inner(self, steps: tuple[Step, ...]) -> list[tuple[Step, ...]]:
        found: list[tuple[Step, ...]] = []
        kinds = self.kinds(steps)
        if "array" in kinds:
            found += [(i,) for i in range(self._alike(steps) + 1)]
        if "object" in kinds:
            names = {name for w in self.ways(steps) for s in w for name in s.get("properties", {})}
            found += [(name,) for name in sorted(names)]
            if self.takes_any_key(steps):
                found.append(("\0",))
        return found

    def _stepped(self, way: Way, step: Step) -> Iterator[Way]:
        """Ways of an item or property of a value that is valid in one way."""
        inner = [schema for outer in way for schema in _inner_schemas(outer, step)]
        for parts in product(*(list(self._expanded(schema)) for schema in inner)):
            yield tuple(schema for part in parts for schema in part)

    def _expanded(self, schema: Any, depth: int = 0) -> Iterator[Way]:
        """A schema with its references and combinations worked out."""
        if schema is False:
            return
        if schema is True or depth > 24:
            yield ()
            return
        choices: list[list[Way]] = [[(schema,)]]
        for reference in (schema[k] for k in ("$ref",) if k in schema):
            target = self._target(reference)
            choices.append([()] if target is None else list(self._expanded(target, depth + 1)))
        for inner in schema.get("allOf", ()):
            choices.append(list(self._expanded(inner, depth + 1)))
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                options = (self._expanded(inner, depth + 1) for inner in schema[keyword])
                choices.append([way for option in options for way in option])
        for parts in product(*choices):
            yield tuple(each for part in parts for each in part)

    def _target(self, reference: str) -> Any:
        """What a pointer into the schema itself leads to; None for any other reference."""
        if reference != "#" and not reference.startswith("#/"):
            return None
        found = self._root
        for part in self._parts(reference):
            try:
                found = found[int(part)] if isinstance(found, list) else found[part]
            except (KeyError, ValueError, IndexError, TypeError):
                return None
        return found

    @staticmethod
    def _parts(reference: str) -> list[str]:
        return [
            re.sub("%([0-9A-Fa-f]{2})", lambda m: chr(int(m[1], 16)), part)
            .replace("~1", "/")
            .replace("~0", "~")
            for part in reference.split("/")[1:]
        ]


@lru_cache(1024)
def schema_map(form: str) -> SchemaMap:
    """The map of a schema as `SchemaContract.read_form` gave it."""
    return SchemaMap(form)


_TYPES = ("object", "array", "string", "number", "boolean", "null")
_PYTHON = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}


def _types_of(schema: dict[str, Any]) -> set[str]:
    found = set(_TYPES)
    if "type" in schema:
        named = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        found = {"number" if name == "integer" else name for name in named}
    for values in ([schema["const"]] if "const" in schema else None, schema.get("enum")):
        if values is not None:
            found &= {_PYTHON.get(type(value), "number") for value in values}
    return found


def _admits(way: Way, kind: str) -> bool:
    return all(kind in _types_of(schema) for schema in way)


def _has(schema: dict[str, Any], keywords: tuple[str, ...]) -> bool:
    return any(keyword in schema for keyword in keywords)


def _names_all(schema: dict[str, Any]) -> bool:
    closed = (schema.get(name) for name in ("additionalProperties", "unevaluatedProperties"))
    return any(value is False for value in closed) and not schema.get("patternProperties")


def _first_items(schema: dict[str, Any]) -> list[Any]:
    """Schemas of items by their number; older drafts have a list of `items`."""
    items = schema.get("items")
    return items if isinstance(items, list) else list(schema.get("prefixItems", ()))


def _inner_schemas(schema: dict[str, Any], step: Step) -> Iterator[Any]:
    if isinstance(step, int):
        first = _first_items(schema)
        rest = "additionalItems" if isinstance(schema.get("items"), list) else "items"
        if step < len(first):
            yield first[step]
        elif rest in schema:
            yield schema[rest]
        return
    known = schema.get("properties", {})
    matched = [s for p, s in schema.get("patternProperties", {}).items() if re.search(p, step)]
    if step in known:
        yield known[step]
    yield from matched
    if step not in known and not matched and "additionalProperties" in schema:
        yield schema["additionalProperties"]
