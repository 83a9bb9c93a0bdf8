"""Small drawings inside a report's tables: an interval beside its window, the seeds of a cell."""

from __future__ import annotations

import math
from collections.abc import Sequence

from opdcliff.report.html_tags import Html, tag

_WIDTH, _HEIGHT, _EDGE = 176.0, 27.0, 4.0


def scale(
    window: tuple[float, float],
    interval: tuple[float, float],
    mean: float,
    reference: float | None,
    says: str,
) -> Html:
    """Window as a box, interval as a bar with its mean, reference as a dashed line, to scale.

    An open side of the window runs to the edge of the drawing. says: the same in words.
    """
    if math.isnan(mean):
        return Html("")
    values = [*window, *interval, mean, *([] if reference is None else [reference])]
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite), max(finite)
    pad = 0.12 * (high - low or 1.0)
    low, high = low - pad, high + pad

    def x(value: float) -> float:
        inside = min(max(value, low), high)
        return _EDGE + (_WIDTH - 2 * _EDGE) * (inside - low) / (high - low)

    left, right = x(window[0]), x(window[1])
    start, end = x(interval[0]), x(interval[1])
    middle = _HEIGHT / 2
    parts = [
        tag("title", says),
        tag(
            "rect",
            x=_n(left),
            y="4",
            width=_n(right - left),
            height=_n(_HEIGHT - 8),
            fill="currentColor",
            fill_opacity=".16",
        ),
        *(
            _line(edge, 4, edge, _HEIGHT - 4, width="1.2")
            for edge, bound in ((left, window[0]), (right, window[1]))
            if math.isfinite(bound)
        ),
        _line(start, middle, end, middle, width="2.6"),
        tag("circle", cx=_n(x(mean)), cy=_n(middle), r="3.6", fill="currentColor"),
    ]
    if reference is not None:
        parts.append(_line(x(reference), 0, x(reference), _HEIGHT, width="1.2", dash="2.5 2.5"))
    return _svg(_WIDTH, _HEIGHT, "scale", says, parts)


def strip(rates: Sequence[float], says: str) -> Html:
    """One dot a seed on a line from 0 to 1."""
    width, middle = 128.0, 8.0
    dots = [
        tag(
            "circle",
            cx=_n(_EDGE + (width - 2 * _EDGE) * rate),
            cy=_n(middle),
            r="3.4",
            fill="currentColor",
            fill_opacity=".55",
        )
        for rate in rates
        if not math.isnan(rate)
    ]
    base = tag("g", _line(_EDGE, middle, width - _EDGE, middle, width="1"), opacity=".35")
    return _svg(width, 2 * middle, "strip", says, [tag("title", says), base, *dots])


def _svg(width: float, height: float, kind: str, says: str, parts: Sequence[Html]) -> Html:
    return tag(
        "svg",
        *parts,
        class_=kind,
        viewBox=f"0 0 {_n(width)} {_n(height)}",
        preserveAspectRatio="xMinYMid",
        role="img",
        aria_label=says,
    )


def _line(
    x1: float, y1: float, x2: float, y2: float, *, width: str, dash: str | None = None
) -> Html:
    return tag(
        "line",
        x1=_n(x1),
        y1=_n(y1),
        x2=_n(x2),
        y2=_n(y2),
        stroke="currentColor",
        stroke_width=width,
        stroke_dasharray=dash,
    )


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
