"""The verb `threshold`: lambda* and the fixed point of one position, from p, b and c alone."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd
from rich.console import Console

from opdcliff.errors import ConfigError
from opdcliff.terminal import print_table
from opdcliff.theory import (
    clip_safe_logit,
    fixed_point,
    fixed_point_logit,
    lambda_star,
    no_threshold_reason,
)

DEFAULTS = {"b": "0.5", "c": "5"}
_SYMBOLS = ("p", "b", "c", "lam")
# Shown when no lam is given: plain distillation, around the cliff, and past it.
_SHARES = (0.5, 0.9, 1.0, 1.1, 1.5)
_WITHOUT_CLIFF = (1.0, 1.5, 2.0, 4.0)


def print_thresholds(words: Sequence[str], console: Console) -> None:
    """Print the thresholds of every combination of the given p, b and c, and fixed points.

    words: `p=0.99`, `b=0.5`, `c=2,5,10` and, if wanted, `lam=1,1.2`.

    Raises:
        ConfigError: a word that is none of these, or not numbers, or no p.
        TheoryDomainError: a number outside its domain.
    """
    values = _parse(words)
    rows, points, reasons = [], [], []
    for p, b, c in itertools.product(values["p"], values["b"], values["c"]):
        star, boundary = float(lambda_star(p, b, c)), float(clip_safe_logit(p, c))
        rows.append({"p": p, "b": b, "c": c, "lambda*": star, "z_c": boundary})
        points += _points(p, b, c, star, boundary, values.get("lam"))
        reasons.append(no_threshold_reason(p, b))
    print_table(console, "Threshold lambda* and clip boundary z_c", pd.DataFrame(rows), digits=7)
    for reason in dict.fromkeys(filter(None, reasons)):
        console.print(f"lambda* is infinite: {reason}", highlight=False)
    title = "Fixed point q*(lambda): the student's modal mass, and teacher over student tail"
    print_table(console, title, pd.DataFrame(points), digits=6)


def _points(
    p: float, b: float, c: float, star: float, boundary: float, lams: Sequence[float] | None
) -> list[dict[str, object]]:
    if lams is None:
        shares = [1.0 + share * (star - 1.0) for share in _SHARES]
        lams = [1.0, *shares] if np.isfinite(star) else _WITHOUT_CLIFF
    return [
        {
            "p": p,
            "b": b,
            "c": c,
            "lambda": lam,
            "q*": float(fixed_point(p, b, lam)),
            "z*": (z := float(fixed_point_logit(p, b, lam))),
            "(1-p)/(1-q*)": (1.0 - p) * (1.0 + float(np.exp(z))),
            "clip": "holds" if lam < star else "at the cliff" if lam == star else "gives way",
        }
        for lam in lams
    ]


def _parse(words: Sequence[str]) -> dict[str, list[float]]:
    texts = dict(DEFAULTS)
    for word in words:
        name, equals, text = word.partition("=")
        if name not in _SYMBOLS or not equals:
            raise ConfigError(
                f"{word} is unknown; allowed: p=, b=, c= and lam=, each a number or several "
                "separated by commas, e.g. p=0.99 b=0.5 c=2,5,10"
            )
        texts[name] = text
    if "p" not in texts:
        raise ConfigError("p is missing; give the teacher's modal mass, e.g. p=0.99")
    return {name: [_number(name, part) for part in text.split(",")] for name, text in texts.items()}


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ConfigError(f"{name}={text} is not a number; e.g. {name}=0.99") from error
