"""The preview's picture: predicted parse rate over lambda, one curve a clip."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from opdcliff.report.drawing import style


def draw_preview(
    table: pd.DataFrame, stars: Mapping[float, float], floors: Mapping[str, float], folder: Path
) -> None:
    """Write preview.png, .svg and .csv: a curve a strength with its interval, lambda*, the floors.

    table: `Preview.table`. stars: lambda* per strength, each a line in the colour of its curve.
    """
    with mpl.rc_context(style.RC):
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        axis = figure.subplots()
        ordered = table.sort_values("lam", kind="stable")
        for look, strength in zip(style.SERIES, table.c.unique(), strict=False):
            part = ordered[ordered.c == strength]
            c = float(str(strength))
            label = "no clip" if math.isinf(c) else f"c = {c:g}"
            axis.plot(
                part.lam, part.parse_rate, look.marker, ls=look.line, color=look.color, label=label
            )
            axis.fill_between(part.lam, part.parse_lo, part.parse_hi, color=look.color, alpha=0.12)
            star = stars.get(c, math.inf)
            if math.isfinite(star):
                axis.axvline(star, color=look.color, lw=1, ls=":")
                axis.text(star, 1.04, f"{star:.2f}", color=look.color, ha="center", size=7)
        for name, rate in floors.items():
            axis.axhline(rate, color=style.GREY, lw=0.7, ls="--")
            last, words = float(table.lam.max()), name.replace("_", " ")
            axis.text(last, rate, words, size=7, ha="right", va="bottom")
        axis.set(xlabel="lambda", ylabel="predicted parse rate", ylim=(-0.03, 1.1))
        axis.set_title("Settled students: predicted, no run made (dotted: lambda*)", fontsize=9.5)
        axis.legend(fontsize=8, handlelength=3.4)
        style.save(figure, table, folder, "preview", "settled students, predicted: no run made")
