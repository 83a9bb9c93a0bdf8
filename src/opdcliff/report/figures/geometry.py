"""Geometry of one position: the fixed point climbs with lambda until it meets the clip."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from opdcliff.report.drawing import style
from opdcliff.report.drawing.inputs import THEORY, Inputs
from opdcliff.report.drawing.page import Page, new_figure, panel_title
from opdcliff.theory import threshold

CLIP = 5.0
# (p, b) of the reference values of docs/theory.md, point 5.
PAIRS = ((0.9, 0.5), (0.99, 0.5), (0.99, 0.9), (0.999, 0.5))
_LAMS = np.linspace(1.0, 2.0, 21)


def table() -> pd.DataFrame:
    """Fixed point (logit) and tail ratio (1 - p)/(1 - q*) against lambda for each (p, b)."""
    frames = []
    for p, b in PAIRS:
        star = threshold.lambda_star(p, b, CLIP)
        lams = np.sort(np.append(_LAMS, star))
        logits = threshold.fixed_point_logit(p, b, lams)
        frames.append(
            pd.DataFrame(
                {
                    "p": p,
                    "b": b,
                    "c": CLIP,
                    "lam": lams,
                    "fixed_point_logit": logits,
                    "tail_ratio": (1.0 - p) / threshold.sigmoid(-logits),
                    "z_c": threshold.clip_safe_logit(p, CLIP),
                    "lambda_star": star,
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def build(inputs: Inputs) -> Page:
    """From `theory` alone."""
    data = table()
    figure = new_figure(
        8.6,
        4.8,
        "The fixed point leaves the clip-safe region at lambda*",
        "Closed form, theory points 2 to 4 [D, S]; clip strength c = 5. Nothing here is measured.",
    )
    left, right = figure.subplots(1, 2)
    for (p, b), look in zip(PAIRS, style.SERIES, strict=False):
        part = data[(data.p == p) & (data.b == b)]
        inside = part.lam <= part.lambda_star
        star, boundary = part.lambda_star.iloc[0], part.z_c.iloc[0]
        for axis, column, at in (
            (left, "fixed_point_logit", boundary),
            (right, "tail_ratio", CLIP),
        ):
            axis.plot(part.lam[inside], part[column][inside], color=look.color, ls=look.line)
            axis.plot(
                part.lam[~inside | (part.lam == star)],
                part[column][~inside | (part.lam == star)],
                color=look.color,
                ls=look.line,
                lw=0.7,
                alpha=0.6,
            )
            axis.plot([star], [at], look.marker, color=look.color, ms=7, mec="white", zorder=5)
        left.hlines(boundary, 1.0, star, color=look.color, lw=0.7, ls=":")
        right.plot(
            [],
            [],
            color=look.color,
            ls=look.line,
            marker=look.marker,
            label=f"p = {p:g}, b = {b:g}: {star:.3f}",
        )
    _left(left)
    _right(right)
    return Page(figure, data, [THEORY])


def _left(axis: Axes) -> None:
    axis.set(xlabel="lambda", ylabel="logit of the student's modal mass, z", xlim=(1, 2))
    axis.set_ylim(1.5, 13)
    panel_title(axis, "fixed point z*(lambda); dotted: boundary z_c of that p")


def _right(axis: Axes) -> None:
    axis.set_yscale("log")
    axis.axhspan(0.9, CLIP, color=style.PALE, alpha=0.6, lw=0)
    axis.axhline(CLIP, color=style.BLACK, lw=1)
    axis.text(1.98, 1.05, "clip-safe: ratio <= c", ha="right", va="bottom", size=8)
    axis.text(1.98, 4.6, "c", ha="right", va="top", size=8)
    axis.text(1.02, 5.4, "beyond", va="bottom", size=8)
    axis.set(xlabel="lambda", ylabel="tail ratio (1 - p)/(1 - q*)", xlim=(1, 2), ylim=(0.9, 60))
    axis.set_yticks([1, 2, 5, 10, 20, 50], ["1", "2", "5", "10", "20", "50"])
    axis.minorticks_off()
    # Under the panel: the lines cross all of it.
    axis.legend(
        title="lambda* at",
        loc="upper center",
        bbox_to_anchor=(0.5, -0.14),
        ncols=2,
        fontsize=7.5,
        title_fontsize=8,
        handlelength=3.2,
    )
    panel_title(axis, "the same in the ratio that the clip acts on")
