"""The picture of `roofline.csv`: what an answer token costs as batch, length and size grow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

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
            for name, colour, drawn in series(of_kind, along, apart):
                x = [int(row[along]) for row in drawn]
                axis.plot(
                    x, [per_token(row, "all_s") for row in drawn], "o-", ms=3, lw=1, color=colour
                )
                axis.plot(x, [per_token(row, "floor_s") for row in drawn], ":", lw=1, color=colour)
                axis.annotate(name, (x[-1], per_token(drawn[-1], "all_s")), fontsize=6)
            axis.set(xscale="log", yscale="log", xlabel=label)
            axis.grid(alpha=0.3)
        line[0].set_ylabel("us per answer token")
        line[0].set_title(f"{kind} (dotted: floor)", fontsize=8, loc="left")
    figure.tight_layout()
    figure.savefig(file, dpi=140)
    plt.close(figure)


def per_token(row: Row, column: str) -> float:
    """A time in microseconds per answer token."""
    return float(row[column]) / (int(row["batch"]) * int(row["answer"])) * 1e6


def series(rows: Sequence[Row], along: str, apart: str) -> Iterator[tuple[str, str, list[Row]]]:
    """Lines of a panel as (label, colour, rows): the smallest and the largest of `apart`.

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
        for value in dict.fromkeys((held[0], held[-1])):
            drawn = sorted(groups[size, str(value)], key=lambda row: int(row[along]))
            label = f" {size} {apart} {value}".replace("  ", " ")
            yield label, COLOURS.get(size, "C7"), drawn
