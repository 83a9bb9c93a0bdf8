"""Markup as a type: text is escaped where it enters an element, unless it is markup already."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

# In SVG every element is closed: there a void one would swallow those after it.
_VOID = ("img", "meta", "br")


class Html(str):
    """Text that is markup; `tag` escapes every other text."""

    __slots__ = ()


def tag(name: str, /, *children: str, **attributes: str | None) -> Html:
    """One element. `class_` stands for class and `_` for `-`; an attribute of None is left out."""
    pairs = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    inner = join(children)
    return Html(f"<{name}{pairs}>" if name in _VOID else f"<{name}{pairs}>{inner}</{name}>")


def join(parts: Iterable[str], between: str = "") -> Html:
    """Markup of all parts, the plain ones escaped."""
    return Html(between.join(p if isinstance(p, Html) else html.escape(p) for p in parts))


def prose(text: str) -> Html:
    """Plain text in which `backquotes` mark code."""
    parts = text.split("`")
    return join(tag("code", part) if n % 2 else part for n, part in enumerate(parts))


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, kind: str, marked: Sequence[int] = ()
) -> Html:
    """A table. kind: its class; "stack" turns rows into cards on a narrow screen. marked: rows."""
    body = [
        tag(
            "tr",
            *(tag("td", cell, data_label=name) for name, cell in zip(head, row, strict=True)),
            class_="marked" if number in marked else None,
        )
        for number, row in enumerate(rows)
    ]
    columns = tag("thead", tag("tr", *(tag("th", name, scope="col") for name in head)))
    found = tag("table", columns, tag("tbody", *body), class_=kind)
    return tag("div", found, class_="scroll", tabindex="0", role="region", aria_label="table")
