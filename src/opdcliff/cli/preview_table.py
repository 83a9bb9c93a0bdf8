"""The verb `preview`: the curve of settled students, printed, written and drawn."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path

import pandas as pd
from rich.console import Console

from opdcliff.paths import StudyPaths
from opdcliff.preview import Preview
from opdcliff.report import draw_preview
from opdcliff.settings import RunConfig
from opdcliff.storage import encode_floats, write_json_atomic
from opdcliff.terminal import print_table, print_text

# Share of answers from which on a break is printed.
_WORTH = 0.05
_SHOWN = {
    "parse_rate": "parse rate",
    "truncated_rate": "truncated",
    "mean_length": "length",
    "kl_teacher": "KL to teacher",
}


def report(found: Preview, config: RunConfig, paths: StudyPaths, console: Console) -> Path:
    """Print the preview; write preview.csv, .json, .png and .svg; returns their folder."""
    print_table(console, "Settled students: predicted, no run made", _view(found.table))
    costly = _costliest(found)
    if costly:
        title = "What breaks: the entry whose loss costs most answers (all: preview.json)"
        print_table(console, title, pd.DataFrame(costly))
    for floor, rate in found.floors.items():
        said = ", ".join(f"{lam:g} {_under(c)}" for c, lam in found.recommended(floor).items())
        name = floor.replace("_", " ")
        print_text(console, f"Not below the {name}'s rate, {rate:.3f}, up to lambda = {said}.")
    print_text(
        console,
        "A settled student has had time and small steps without end, and holds the mixture "
        "exactly: `opdcliff predict` measures how far your steps are from that.",
    )
    folder = paths.output.study_dir(config.data.name, "preview")
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "table": found.table.to_dict("records"),
        "breaks": [asdict(each) for each in found.breaks],
        "lambda_star": [{"c": c, "lambda_star": star} for c, star in found.stars.items()],
        "floors": found.floors,
        "margin": config.preview.margin,
    }
    write_json_atomic(folder / "preview.json", encode_floats(content))
    draw_preview(found.table, found.stars, found.floors, folder)
    return folder


def _costliest(found: Preview) -> list[dict[str, object]]:
    """At each lambda and clip the entry behind most failed answers, if it is behind some."""
    rows: dict[tuple[float, float], dict[str, object]] = {}
    for each in found.breaks:
        if each.rate < _WORTH or (each.c, each.lam) in rows:
            continue
        rows[each.c, each.lam] = {
            "c": _clip(each.c),
            "lambda": each.lam,
            "answers": round(each.rate, 3),
            "what is gone": each.entry,
            "behind": each.context,
            "teacher's mass": round(each.lost, 3),
        }
    return list(rows.values())


def _view(table: pd.DataFrame) -> pd.DataFrame:
    view = pd.DataFrame({"c": [_clip(c) for c in table.c], "lambda": table.lam})
    for name, title in _SHOWN.items():
        view[title] = table[name].round(3)
    spans = zip(table.parse_lo, table.parse_hi, strict=True)
    view.insert(3, "95%", [f"[{low:.2f}, {high:.2f}]" for low, high in spans])
    for name in (column for column in table.columns if column.startswith("ndcg")):
        view[name.replace("_", " ")] = table[name].round(3)
    return view


def _under(strength: float) -> str:
    return "without a clip" if math.isinf(strength) else f"at c = {strength:g}"


def _clip(strength: float) -> str:
    return "none" if math.isinf(strength) else f"{strength:g}"
