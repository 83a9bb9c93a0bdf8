"""The verb `preview`: the curve of settled students, printed, written and drawn."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path

import pandas as pd
from rich.console import Console

from opdcliff.cli.words import NO_ARMS
from opdcliff.paths import StudyPaths
from opdcliff.preview import Agreement, Preview, Seen, agreement
from opdcliff.report import draw_preview
from opdcliff.settings import RunConfig
from opdcliff.storage import encode_floats, write_json_atomic, write_text_atomic
from opdcliff.terminal import print_table, print_text
from opdcliff.verification import seal_tables

# The protocol of settings that belong to none (`words.NO_ARMS`).
_NO_PROTOCOL = NO_ARMS.partition("=")[2]
# Share of answers from which on a break is printed.
_WORTH = 0.05
_SHOWN = {
    "parse_rate": "parse rate",
    "truncated_rate": "truncated",
    "mean_length": "length",
    "kl_teacher": "KL to teacher",
}


def report(
    found: Preview,
    seen: Seen | None,
    config: RunConfig,
    paths: StudyPaths,
    console: Console,
) -> Path:
    """Print the preview, and the rates of runs beside it where some were seen; its folder.

    Writes preview.csv, .json, .png and .svg, and beside.csv and onsets.csv of runs.
    """
    print_table(console, "Settled students: predicted, no run made", _view(found.table))
    for outside in found.outside:
        print_text(console, outside.in_words())
    costly = _costliest(found)
    if costly:
        title = "What breaks: the entry whose loss costs most answers (all: preview.json)"
        print_table(console, title, pd.DataFrame(costly))
    for floor, rate in found.floors.items():
        said = ", ".join(f"{lam:g} ({clip})" for clip, lam in found.recommended(floor).items())
        owner = "" if floor.startswith("floor") else "'s rate"
        name = floor.replace("_", " ")
        print_text(console, f"Not below the {name}{owner}, {rate:.3f}, up to lambda = {said}.")
    print_text(
        console,
        "A settled student has had time and small steps without end, and holds the mixture "
        "exactly: `opdcliff predict` measures how far your steps are from that.",
    )
    if config.preview.rare > 0.0:
        print_text(
            console,
            f"Entries that the warm start holds at less than {config.preview.rare:g} "
            "(preview.rare) stay where they are.",
        )
    folder = paths.output.preview_dir(_name(config, found))
    folder.mkdir(parents=True, exist_ok=True)
    beside = None if seen is None or seen.table.empty else agreement(found, seen.table)
    if beside is not None:
        _print_beside(beside, console)
        for each in ("table", "onsets"):
            table: pd.DataFrame = getattr(beside, each)
            file = folder / f"{'beside' if each == 'table' else each}.csv"
            write_text_atomic(file, table.to_csv(index=False, float_format="%.6g"))
    content = {
        "table": found.table.to_dict("records"),
        "breaks": [asdict(each) for each in found.breaks],
        "lambda_star": [
            {"rule": str(clip.rule), "c": clip.strength, "lambda_star": star}
            for clip, star in found.stars.items()
        ],
        "floors": found.floors,
        "reached": config.preview.reached,
        "rare": config.preview.rare,
        "identity": found.identity,
    }
    write_json_atomic(folder / "preview.json", encode_floats(content))
    stars = {(str(clip.rule), clip.strength): star for clip, star in found.stars.items()}
    draw_preview(found.table, stars, found.floors, folder, None if beside is None else beside.table)
    about = {} if seen is None else seen.about
    seal_tables(folder, {**about, "preview": found.identity})
    return folder


def _name(config: RunConfig, found: Preview) -> str:
    """Of its folder: the protocol's, and of what a run is taken to fall short in."""
    if config.protocol.name == _NO_PROTOCOL:
        return found.identity[:12]
    short = {"rare": config.preview.rare > 0.0, "part": config.preview.reached < 1.0}
    return "_".join([config.protocol.name, *(name for name, holds in short.items() if holds)])


def _print_beside(beside: Agreement, console: Console) -> None:
    table = beside.table
    view = pd.DataFrame({"c": [_clip(c) for c in table.c], "lambda": table.lam})
    if (table.rule != "none").any() and table.rule[table.rule != "none"].nunique() > 1:
        view.insert(0, "rule", table.rule)
    view["predicted"] = table.predicted.round(3)
    spans = zip(table.lo, table.hi, strict=True)
    view["band"] = [f"[{low:.2f}, {high:.2f}]" for low, high in spans]
    view["runs, mean"] = table.seen.round(3)
    runs = zip(table.least, table.most, table.seeds, strict=True)
    view["least to most"] = [f"{least:.2f} to {most:.2f} ({n})" for least, most, n in runs]
    view["in band"] = table.inside.map({True: "yes", False: "no"})
    view["length"] = table.length.round(1)
    view["of runs"] = table.length_seen.round(1)
    print_table(console, "Predicted beside the final rates of runs", view)
    onsets = beside.onsets.rename(columns={"with_margin": "with margin"})
    onsets["c"] = [_clip(c) for c in onsets.c]
    print_table(console, "Where rates fall through one half", onsets.round(4))
    print_text(
        console,
        f"{beside.inside} of {len(table)} rates of runs lie in the band; the mean difference is "
        f"{beside.error:.3f}.",
    )


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
        # A zero has no sign.
        view[title] = table[name].round(3) + 0.0
    spans = zip(table.parse_lo, table.parse_hi, strict=True)
    view.insert(3, "95%", [f"[{low:.2f}, {high:.2f}]" for low, high in spans])
    if table.margin.any():
        view.insert(2, "margin", table.margin)
    for name in (column for column in table.columns if column.startswith("ndcg")):
        view[name.replace("_", " ")] = table[name].round(3)
    return view


def _clip(strength: float) -> str:
    return "none" if math.isinf(strength) else f"{strength:g}"
