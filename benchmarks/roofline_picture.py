"""The picture of `roofline.csv`: what an answer token costs as batch, length and size grow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from made_models import SHAPES

mpl.use("Agg")

from matplotlib import pyplot as plt

Row = dict[str, str]
# Column along the axis, its label, and what tells the lines of a panel apart.
PANELS = (
    ("batch", "answers in a batch", "answer"),
    ("answer", "tokens of an answer", "batch"),
    ("parameters", "parameters", "batch"),
)
# Of the smallest and the largest value that tells lines apart.
MARKERS = ("o", "s")
COLOURS = {size: f"C{number}" for number, size in enumerate(SHAPES)}


def draw(rows: Sequence[Row], file: Path) -> None:
    """A row of panels per device, number format, threads and backend; floors are dotted."""
    kinds: dict[str, list[Row]] = {}
    for row in rows:
        name = f"{row['device']} {row['dtype']}, {row['threads']} threads, {row['backend']}"
        kinds.setdefault(name, []).append(row)
    figure, axes = plt.subplots(
        len(kinds), len(PANELS), figsize=(12, 3.6 * len(kinds)), squeeze=False, sharey="row"
    )
    for line, (kind, of_kind) in zip(axes, kinds.items(), strict=True):
        for axis, (along, label, apart) in zip(line, PANELS, strict=True):
            for name, colour, marker, drawn in series(of_kind, along, apart):
                x = [int(row[along]) for row in drawn]
                y = [per_token(row, "all_s") for row in drawn]
                look: dict[str, Any] = {"color": colour, "lw": 1, "ms": 4, "marker": marker}
                axis.plot(x, y, "-", label=name, **look)
                floors = [per_token(row, "floor_s") for row in drawn]
                axis.plot(x, floors, ":", **look | {"marker": ""})
            axis.set(xscale="log", yscale="log", xlabel=label)
            if along != "parameters":
                ticks = sorted({int(row[along]) for row in of_kind})
                axis.set_xticks(ticks, [str(tick) for tick in ticks])
                axis.minorticks_off()
            axis.grid(alpha=0.3)
            axis.legend(fontsize=7, loc="upper left", ncols=2, framealpha=0.7)
        # Room for the legends.
        line[0].set_ylim(top=line[0].get_ylim()[1] * 6)
        line[0].set_ylabel("microseconds per answer token")
        line[0].set_title(f"{kind} (dotted: floor)", fontsize=8, loc="left")
    figure.tight_layout()
    with mpl.rc_context({"svg.hashsalt": file.stem}):
        figure.savefig(file, dpi=140, metadata={"Date": None} if file.suffix == ".svg" else None)
    plt.close(figure)


def per_token(row: Row, column: str) -> float:
    """A time in microseconds per answer token."""
    return float(row[column]) / (int(row["batch"]) * int(row["answer"])) * 1e6


def series(
    rows: Sequence[Row], along: str, apart: str
) -> Iterator[tuple[str, str, str, list[Row]]]:
    """Lines of a panel as (label, colour, marker, rows): the smallest and the largest of `apart`.

    Against size the length is held at its smallest, which most sizes have been measured at.
    """
    groups: dict[tuple[str, str], list[Row]] = {}
    least = min(int(row["answer"]) for row in rows)
    for row in rows:
        if along != "parameters":
            groups.setdefault((row["size"], row[apart]), []).append(row)
        elif int(row["answer"]) == least:
            groups.setdefault(("", row[apart]), []).append(row)
    for size in {key[0]: None for key in groups}:
        held = sorted((int(value) for of, value in groups if of == size))
        for value, marker in zip(dict.fromkeys((held[0], held[-1])), MARKERS, strict=False):
            drawn = sorted(groups[size, str(value)], key=lambda row: int(row[along]))
            yield f"{size} {apart} {value}".strip(), COLOURS.get(size, "C7"), marker, drawn
