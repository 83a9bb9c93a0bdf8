"""The generated extraction task: an order in words, and its fields as one flat JSON object.

The companion of `mini` for the contract `schema`: values of closed lists, a whole number, and a
note of free text, whose length is that of the reasons of `mini`. Everything is a function of the
seed.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np

from opdcliff.contract import Contract
from opdcliff.data.answer_style import (
    REASON_WORDS,
    AnswerStyle,
    Piece,
    draw_corruption,
    draw_words,
)
from opdcliff.data.example import Example, Splits
from opdcliff.data.mini import GARMENTS, SplitSizes
from opdcliff.errors import DataError

COLOURS = ("red", "blue", "green", "black", "white", "grey")
CITIES = ("oslo", "rome", "lima", "cairo", "paris", "quito", "delhi", "tokyo")
NAMES = ("ada", "ben", "cleo", "dan", "eve", "finn", "gus", "hana")
MOST = 9
SCHEMA = {
    "type": "object",
    "properties": {
        "item": {"enum": list(GARMENTS)},
        "colour": {"enum": list(COLOURS)},
        "count": {"type": "integer", "minimum": 1, "maximum": MOST},
        "city": {"enum": list(CITIES)},
        "note": {"type": "string"},
    },
    "required": ["item", "colour", "count", "city", "note"],
    "additionalProperties": False,
}
_DISTINCT = len(NAMES) * MOST * len(COLOURS) * len(GARMENTS) * len(CITIES)

# The fields of an answer before its note, as texts of JSON.
_Fields = dict[str, str]


def generate_orders(seed: int, sizes: SplitSizes, contract: Contract) -> Splits:
    """Disjoint train, calibration and test orders, deterministic in `seed`.

    contract: reads `SCHEMA`.

    Raises:
        DataError: more are asked for than there are distinct orders.
    """
    wanted = sizes.train + sizes.calibration + sizes.test
    if wanted > _DISTINCT:
        raise DataError(
            f"data.train + calibration + test is {wanted} and there are {_DISTINCT} distinct "
            "orders; lower them"
        )
    drawn = np.random.default_rng(seed).permutation(_DISTINCT)[:wanted]
    form = contract.read_form(SCHEMA)
    examples = [_order(int(number), form) for number in drawn]
    test = sizes.train + sizes.calibration
    return Splits(
        tuple(examples[: sizes.train]),
        tuple(examples[sizes.train : test]),
        tuple(examples[test:]),
    )


def _order(number: int, form: str) -> Example:
    chosen = []
    for values in (NAMES, range(1, MOST + 1), COLOURS, GARMENTS, CITIES):
        number, at = divmod(number, len(values))
        chosen.append(values[at])
    prompt = "{} orders {} {} {} to {}\n".format(*chosen)
    return Example(prompt, (), (), f"orders:{prompt}", form=form)


def fields_of(example: Example) -> dict[str, str | int]:
    """What a right answer says, apart from the note."""
    _, _, count, colour, item, _, city = example.prompt.split()
    return {"item": item, "colour": colour, "count": int(count), "city": city}


def draw_fields(
    example: Example, style: AnswerStyle, rng: np.random.Generator
) -> tuple[Piece, ...]:
    """One reference answer to an order, in text pieces; broken in one place by `corrupt_rate`."""
    fields = {name: json.dumps(value) for name, value in fields_of(example).items()}
    corruption = draw_corruption(_CORRUPTIONS, style, rng)
    if corruption in _EDITS:
        fields = _EDITS[corruption](fields, rng)
    head = "{" + "".join(f'"{name}":{value},' for name, value in fields.items())
    if corruption == "no_brace":
        head = head[1:]
    pieces = [Piece(head + '"note":"'), *draw_words(style, rng), Piece('"}')]
    if corruption == "extra_text":
        pieces.append(Piece(REASON_WORDS[0]))
    return tuple(pieces)


def _without_one(fields: _Fields, rng: np.random.Generator) -> _Fields:
    gone = list(fields)[int(rng.integers(len(fields)))]
    return {name: value for name, value in fields.items() if name != gone}


def _unknown_value(fields: _Fields, rng: np.random.Generator) -> _Fields:
    name = ("item", "colour", "city")[int(rng.integers(3))]
    return fields | {name: '"other"'}


def _count_as_text(fields: _Fields, rng: np.random.Generator) -> _Fields:
    return fields | {"count": f'"{fields["count"]}"'}


_EDITS: dict[str | None, Callable[[_Fields, np.random.Generator], _Fields]] = {
    "without_one": _without_one,
    "unknown_value": _unknown_value,
    "count_as_text": _count_as_text,
}
# None may break the closing of the note itself, as in `answers`.
_CORRUPTIONS = ("without_one", "unknown_value", "count_as_text", "no_brace", "extra_text")
