"""Tables of a small made-up study, for the tests of summaries and figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

STARS = {"c5": 1.8, "c2": 1.4, "none_": math.nan}
STRENGTHS = {"c5": 5.0, "c2": 2.0, "none_": math.nan}


def cell(clip: str, lam: float, seed: int, parse_rate: float, **changes: Any) -> dict[str, Any]:
    """One row of a cell table."""
    row = {
        "clip": clip,
        "c": STRENGTHS[clip],
        "estimator": "sampled",
        "warmup": 80,
        "budget": 160,
        "lam": lam,
        "lambda_star": STARS[clip],
        "seed": seed,
        "status": "finished" if parse_rate > 0.2 else "collapsed",
        "updates": 160,
        "collapsed_at": math.nan if parse_rate > 0.2 else 120,
        "prompts": 256,
        "parse_rate": parse_rate,
        "parse_lo": max(0.0, parse_rate - 0.05),
        "parse_hi": min(1.0, parse_rate + 0.05),
        "ndcg1_parsed": 0.85 if parse_rate else math.nan,
        "ndcg1_all": 0.85 * parse_rate,
        "truncated": 1.0 - parse_rate,
        "mean_length": 20.0 + 100.0 * (1.0 - parse_rate),
        "tail_ratio": 1.5,
        "clip_fraction": 0.01,
        "residual": -0.03,
        "record": f"{clip}-{lam}-{seed}",
    }
    return row | changes


def cells(
    rates: Mapping[str, Mapping[float, float]], seeds: Sequence[int] = (0, 1, 2)
) -> pd.DataFrame:
    """Rows for rates[clip][lam] and every seed; each seed falls a little faster."""
    return pd.DataFrame(
        [
            cell(clip, lam, seed, max(0.0, rate - 0.02 * seed))
            for clip, of_lam in rates.items()
            for lam, rate in of_lam.items()
            for seed in seeds
        ]
    )


CLIFF = {
    "c5": {1.5: 0.95, 1.7: 0.9, 1.9: 0.2, 2.1: 0.04},
    "c2": {1.2: 0.96, 1.35: 0.9, 1.45: 0.1, 1.6: 0.0},
    "none_": {2.1: 0.9},
}


def calibration(**changes: Any) -> pd.DataFrame:
    """A calibration table: an id class, and the text class with the bin that binds."""
    masses = {"p": 0.9, "p_lo": 0.89, "p_hi": 0.91, "b": 0.5, "b_lo": 0.48, "b_hi": 0.52}
    stars = {
        f"lambda_star_{clip}{end}": STARS[clip] + shift
        for clip in ("c5", "c2")
        for end, shift in (("", 0.0), ("_lo", -0.05), ("_hi", 0.06))
    }
    rows = [
        {
            "class": name,
            "offsets": offsets,
            "positions": 900,
            "prompts": 128,
            "tail_needed": name == "text",
            **masses,
            **stars,
            "binding": offsets == "28-55",
        }
        for name, offsets in (("id", "all"), ("text", "all"), ("text", "0-27"), ("text", "28-55"))
    ]
    return pd.DataFrame([row | changes for row in rows])
