"""How a table gets into a width: wrapped at words, stacked in blocks, or turned on its side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len

# Text of several words is not wrapped to less than this; it holds `0.9961 [0.9961, 0.9962]`.
_READABLE = 24
# What a frame takes: a line and two blanks per column, and a line at the end.
_PER_COLUMN, _EDGE = 3, 1


@dataclass(frozen=True)
class Column:
    """Texts of one column; right: aligned as numbers are."""

    header: str
    cells: Sequence[str]
    right: bool = False

    @property
    def natural(self) -> int:
        """Width in which nothing wraps."""
        return max(map(cell_len, (*self._lines(), "")))

    @property
    def least(self) -> int:
        """Width in which no word is broken and text stays readable."""
        words = [word for line in self._lines() for word in line.split()]
        return max(min(self.natural, _READABLE), *map(cell_len, (*words, "")))

    def _lines(self) -> list[str]:
        return [line for text in (self.header, *self.cells) for line in text.splitlines()]


@dataclass(frozen=True)
class Block:
    """Columns side by side, with the width of each. header: whether they have one."""

    columns: Sequence[Column]
    widths: Sequence[int]
    header: bool = True


def arrange(columns: Sequence[Column], width: int) -> list[Block]:
    """Blocks that hold all columns, none wider than `width`, each read without the others.

    What does not fit side by side is stacked; every block repeats the first columns that tell the
    rows apart, or numbers the rows where those take over half of the width. A table of one row
    becomes a list of names and values.
    """
    if not columns:
        return []
    widths = _widths(columns, width)
    if widths is not None:
        return [Block(columns, widths)]
    if len(columns[0].cells) == 1:
        return [_on_its_side(columns, width)]
    keys, rest = _split(columns, width)
    stacks: list[list[Column]] = []
    for column in rest:
        if not stacks or _widths([*stacks[-1], column], width) is None:
            stacks.append(list(keys))
        stacks[-1].append(column)
    return [Block(stack, _widths(stack, width) or _squeezed(stack, width)) for stack in stacks]


def _widths(columns: Sequence[Column], width: int) -> list[int] | None:
    """Widths that fit, taken from the widest first; None if words would have to break."""
    room = _room(len(columns), width)
    widths, least = [c.natural for c in columns], [c.least for c in columns]
    if sum(least) > room:
        return None
    while sum(widths) > room:
        loose = [place for place, own in enumerate(widths) if own > least[place]]
        widths[max(loose, key=lambda place: widths[place])] -= 1
    return widths


def _squeezed(columns: Sequence[Column], width: int) -> list[int]:
    """The last column takes what the others leave, and breaks its long words."""
    others = [column.natural for column in columns[:-1]]
    return [*others, max(1, _room(len(columns), width) - sum(others))]


def _split(columns: Sequence[Column], width: int) -> tuple[Sequence[Column], Sequence[Column]]:
    """The columns that every block repeats, and those to be stacked."""
    for count in range(1, len(columns)):
        keys = columns[:count]
        if sum(key.natural for key in keys) > _room(count, width // 2):
            break
        rows = list(zip(*(key.cells for key in keys), strict=True))
        if len(set(rows)) == len(rows):
            return keys, columns[count:]
    numbers = [str(number + 1) for number in range(len(columns[0].cells))]
    return [Column("#", numbers, right=True)], columns


def _on_its_side(columns: Sequence[Column], width: int) -> Block:
    names = Column("", [column.header for column in columns])
    values = Column("", [column.cells[0] for column in columns])
    pair = (names, values)
    most = max(1, _room(2, width) // 2)
    first = min(names.natural, most)
    last = max(1, min(values.natural, _room(2, width) - first))
    return Block(pair, (first, last), header=False)


def _room(count: int, width: int) -> int:
    return width - _PER_COLUMN * count - _EDGE
