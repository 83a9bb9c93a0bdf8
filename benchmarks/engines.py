"""Two grammar engines beside the judge: which answers to a schema they take, and what they refuse.

    python benchmarks/engines.py

Needs xgrammar and apache-tvm-ffi (tests/tokenizers.txt) and the extra `grammar`. Prints every
answer on which an engine differs from the judge, schemas that it refuses, and counts: answers taken
that the judge refuses, answers refused that it takes, and the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import llguidance
import xgrammar

from opdcliff.contract.forms.schema import SchemaContract, schema_failure
from opdcliff.contract.grammar.vocabulary import grammar_of
from opdcliff.errors import DataError

END = 256
BYTES = llguidance.LLTokenizer("byte")
TABLE = xgrammar.TokenizerInfo(
    [*(bytes([byte]) for byte in range(256)), b"<end>"],
    vocab_type=xgrammar.VocabType.RAW,
    stop_token_ids=[END],
)
COMPILER = xgrammar.GrammarCompiler(TABLE)
Takes = Callable[[str], bool]


def closed(**properties: Any) -> dict[str, Any]:
    whole = {"type": "object", "properties": properties, "required": [*properties]}
    return whole | {"additionalProperties": False}


CASES: dict[str, tuple[Any, list[str]]] = {
    "string": (
        {"type": "string"},
        ['"a"', '"\\u0041\\ud83d"', '"\\ud800"', '"\u00e9\U0001f600"', '""', ' "a"', '"a" '],
    ),
    "call": (
        closed(name={"const": "book"}, seats={"type": "integer", "minimum": 1}),
        [
            '{"name":"book","seats":1}',
            '{ "name" : "book" ,\n "seats" : 12 }',
            '{"seats":1,"name":"book"}',
            '{"n\\u0061me":"book","seats":1}',
            '{"name":"bo\\u006fk","seats":1}',
            '{"name":"book","seats":0}',
            '{"name":"book","seats":1.0}',
            '{"name":"book","seats":1e1}',
            '{"name":"book","seats":-0}',
        ],
    ),
    "array": (
        {"type": "array", "items": {"type": "integer"}},
        ["[]", "[1]", "[1,2,3]", "[ 1 , 2 ]", "[\n]", "[1.0]", "[-1]", "[01]"],
    ),
    "nested": (
        {"type": "array", "items": {"type": "array", "items": {"type": "boolean"}}},
        ["[[true],[]]", "[[[]]]"],
    ),
    "number": ({"type": "number"}, ["1", "-1.5e+10", "1E5", "1.", "01", "-0", "1e400"]),
    "bounds": (
        {"type": "number", "minimum": 0.5, "exclusiveMaximum": 2},
        ["0.5", "0.49", "1.99", "2", "5e-1", "1.9999999", "0.05e1", "2e0"],
    ),
    "multiple": ({"type": "integer", "multipleOf": 7}, ["14", "15", "0"]),
    "recursion": (
        {
            "$ref": "#/$defs/n",
            "$defs": {
                "n": closed(
                    v={"type": "integer"}, c={"type": "array", "items": {"$ref": "#/$defs/n"}}
                )
            },
        },
        ['{"v":1,"c":[{"v":2,"c":[]}]}', '{"v":1,"c":[{"v":2}]}'],
    ),
    "pattern": ({"type": "string", "pattern": "^[a-z]+$"}, ['"abc"', '"aBc"', '"a\\u0062"', '""']),
    "pattern_unanch": ({"type": "string", "pattern": "ab"}, ['"xxabyy"', '"ab"', '"ba"']),
    "lookahead": ({"type": "string", "pattern": "^(?=a)b"}, ['"b"']),
    "maxLength": (
        {"type": "string", "maxLength": 3},
        ['"abc"', '"abcd"', '"\\u0061bc"', '"\U0001f600bc"', '"\\ud83d\\ude00bc"'],
    ),
    "format": ({"type": "string", "format": "date"}, ['"2026-02-28"', '"2026-02-30"', '"x"']),
    "email": ({"type": "string", "format": "email"}, ['"a@b.c"', '"a@b"', '"@"']),
    "unique": (
        {"type": "array", "items": {"enum": ["a", "b"]}, "uniqueItems": True},
        ['["a","b"]', '["a","a"]'],
    ),
    "contains": ({"type": "array", "contains": {"const": 1}}, ["[1]", "[2]"]),
    "enum": (
        {"enum": ["a", "\u00e9", 1, None, {"x": [1]}]},
        ['"a"', '"\u00e9"', '"\\u00e9"', "1", "1.0", "null", '{"x":[1]}', '{"x": [ 1 ] }'],
    ),
    "anyOf": ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, ["1", '"x"', "true"]),
    "oneOf": (
        {"oneOf": [{"type": "integer"}, {"type": "number", "minimum": 5}]},
        ["1", "6", "5.5", "7.0"],
    ),
    "not": ({"not": {"type": "string"}}, ["1", '"x"']),
    "allOf": ({"allOf": [{"type": "integer"}, {"minimum": 3}]}, ["3", "2"]),
    "if": (
        {"if": {"properties": {"a": {"const": 1}}}, "then": {"required": ["b"]}},
        ['{"a":1}', '{"a":2}'],
    ),
    "open": (
        {"type": "object", "properties": {"a": {"type": "integer"}}},
        [
            "{}",
            '{"a":1}',
            '{"a":1,"b":[{}]}',
            '{"b":1,"a":1}',
            '{"a":"x"}',
            '{"a":1,"a":2}',
            '{"b":1,"b":2}',
        ],
    ),
    "additional": (
        {"type": "object", "additionalProperties": {"type": "integer"}},
        ["{}", '{"x":1,"y":2}', '{"x":"y"}', '{"x":1,"x":2}'],
    ),
    "patternProps": (
        {
            "type": "object",
            "patternProperties": {"^x": {"type": "integer"}},
            "additionalProperties": False,
        },
        ['{"x1":1}', '{"y":1}'],
    ),
    "propNames": ({"type": "object", "propertyNames": {"pattern": "^a"}}, ['{"a":1}', '{"b":1}']),
    "minProps": ({"type": "object", "minProperties": 1}, ["{}", '{"a":1}']),
    "depReq": ({"type": "object", "dependentRequired": {"a": ["b"]}}, ['{"a":1}', '{"a":1,"b":1}']),
    "optional": (
        {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "additionalProperties": False,
        },
        ["{}", '{"a":1}', '{"b":1}', '{"a":1,"b":2}', '{"b":2,"a":1}', '{"a":1,}'],
    ),
    "tuple": (
        {
            "type": "array",
            "prefixItems": [{"type": "integer"}, {"type": "string"}],
            "items": False,
            "minItems": 2,
        },
        ['[1,"a"]', "[1]", '[1,"a",2]'],
    ),
    "minItems": (
        {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 2},
        ["[]", "[1]", "[1,2]", "[1,2,3]"],
    ),
    "any": (True, ['{"a":[1,"x",null]}', "1", "["]),
    "typelist": ({"type": ["string", "null"]}, ["null", '"x"', "1"]),
}


def of_llguidance(form: str) -> Takes | str:
    """What it takes, or why it refuses the schema."""
    try:
        start = llguidance.LLMatcher(BYTES, grammar_of(form))
    except DataError as error:
        return str(error)

    def takes(text: str) -> bool:
        matcher, data = start.deep_copy(), list(text.encode())
        return matcher.try_consume_tokens(data) == len(data) and bool(matcher.is_accepting())

    return takes


def of_xgrammar(form: str) -> Takes | str:
    try:
        grammar = COMPILER.compile_json_schema(form, any_whitespace=True, strict_mode=False)
    except RuntimeError as error:
        return str(error)

    def takes(text: str) -> bool:
        matcher = xgrammar.GrammarMatcher(grammar)
        return all(matcher.accept_token(byte) for byte in [*text.encode(), END])

    return takes


ENGINES = {"llguidance": of_llguidance, "xgrammar": of_xgrammar}


def main() -> None:
    counts = {name: Counter[str]() for name in ENGINES}
    for case, (schema, texts) in CASES.items():
        form = SchemaContract().read_form(schema)
        for name, engine in ENGINES.items():
            takes = engine(form)
            if isinstance(takes, str):
                counts[name]["schemas refused"] += 1
                print(f"{case}: {name} refuses it: {takes}")
                continue
            for text in texts:
                right, own = schema_failure(text, form) is None, takes(text)
                kind = "same" if right == own else "too much" if own else "too little"
                counts[name][kind] += 1
                if right != own:
                    print(f"{case}: {name} {'takes' if own else 'refuses'} {text!r}")
    print(f"{len(CASES)} schemas, {sum(len(texts) for _, texts in CASES.values())} answers")
    for name, found in counts.items():
        print(name, dict(found))


if __name__ == "__main__":
    main()
