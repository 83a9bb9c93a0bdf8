"""Tables fit any width and lose nothing."""

from __future__ import annotations

import io
import math
import random
import re
import string
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from opdcliff.terminal.tables import console, print_table, print_text

NARROW = (80, 40)
EDGE = "\N{BOX DRAWINGS LIGHT VERTICAL}"
BOTTOM = "\N{BOX DRAWINGS LIGHT UP AND RIGHT}"
HEAVY = "\N{BOX DRAWINGS HEAVY VERTICAL}"


def printed(frame: pd.DataFrame, width: int, title: str = "Title") -> str:
    out = Console(file=io.StringIO(), width=width)
    print_table(out, title, frame, digits=4)
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue()


def columns_of(text: str) -> set[str]:
    """Every column of every block, its header and cells joined, without blanks and wraps."""
    found: set[str] = set()
    parts: list[str] = []
    for line in text.split("\n"):
        if line.startswith((EDGE, HEAVY)):
            cells = map(squeezed, re.split(f"[{EDGE}{HEAVY}]", line)[1:-1])
            parts = [a + b for a, b in zip(parts, cells, strict=True)] if parts else [*cells]
        elif line.startswith(BOTTOM):
            found |= set(parts)
            parts = []
    return found


def squeezed(text: str) -> str:
    """Without blanks: what wrapping and breaking of words leaves the same."""
    return "".join(text.split())


def random_frame(random_: random.Random) -> pd.DataFrame:
    """Numbers, words, sentences and long words in up to twelve columns and six rows."""

    def word(most: int) -> str:
        letters = string.ascii_letters + "[]/-_"
        return "".join(random_.choices(letters, k=random_.randint(1, most)))

    kinds: list[Callable[[], Any]] = [
        lambda: random_.choice([math.nan, math.inf, random_.gauss(0, 1e3), 1e-9]),
        lambda: random_.randint(-5, 10**6),
        lambda: word(9),
        lambda: " ".join(word(12) for _ in range(random_.randint(0, 20))),
        lambda: word(70),
    ]
    rows = random_.randint(0, 6)
    columns = {}
    for number in range(random_.randint(1, 12)):
        kind = random_.choice(kinds)
        columns[f"{number}{word(14)}"] = [kind() for _ in range(rows)]
    return pd.DataFrame(columns)


def shown(value: Any) -> str:
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.4g}"
    return str(value)


@pytest.mark.parametrize("width", NARROW)
def test_every_value_is_printed_and_no_line_is_too_long(width: int) -> None:
    for seed in range(150):
        frame = random_frame(random.Random(seed))
        text = printed(frame, width)
        assert max(map(len, text.split("\n"))) <= width, seed
        expected = {squeezed("".join([name, *map(shown, frame[name])])) for name in frame.columns}
        on_its_side = {
            squeezed("".join(frame.columns)),
            squeezed("".join(shown(value) for name in frame for value in frame[name])),
        }
        found = columns_of(text)
        assert expected <= found or (len(frame) == 1 and on_its_side == found), seed


@pytest.mark.parametrize("width", NARROW)
def test_values_stay_beside_their_keys(width: int) -> None:
    """Cells of one line: every block is read alone, by the keys or the numbers of its rows."""
    rows = 4
    keys = {
        "clip": [f"c{row // 2}" for row in range(rows)],
        "seed": [row % 2 for row in range(rows)],
    }
    values = {f"metric_{n}": [f"v{n}r{row}" for row in range(rows)] for n in range(11)}
    text = printed(pd.DataFrame(keys | values), width)
    lines = [
        [cell.strip() for cell in line.split(EDGE)[1:-1]]
        for line in text.split("\n")
        if line.startswith(EDGE)
    ]
    seen = set()
    for clip, seed, *rest in lines:
        row = 2 * int(clip[1]) + int(seed)
        for cell in rest:
            assert cell.endswith(f"r{row}")
            seen.add(cell)
    assert len(seen) == rows * len(values)
    heads = [line for line in text.split("\n") if line.startswith(HEAVY)]
    assert len(heads) > 1
    assert all(re.match(rf"{HEAVY} clip {HEAVY} seed {HEAVY} metric_", line) for line in heads)


def test_rows_are_numbered_where_no_short_key_tells_them_apart() -> None:
    frame = pd.DataFrame({f"column_number_{n}": ["same", "same"] for n in range(9)})
    heads = [line for line in printed(frame, 40).split("\n") if line.startswith(HEAVY)]
    assert len(heads) > 1
    assert all(line.startswith(f"{HEAVY} # {HEAVY} column_number_") for line in heads)


def test_one_wide_row_is_a_list_of_names_and_values() -> None:
    frame = pd.DataFrame({f"column_number_{n}": [n] for n in range(9)})
    lines = printed(frame, 80).split("\n")
    assert [line.split(EDGE)[1:-1] for line in lines if line.startswith(EDGE)] == [
        [f" column_number_{n} ", f" {n} "] for n in range(9)
    ]


@pytest.mark.parametrize("width", NARROW)
def test_long_text_wraps_at_its_words(width: int) -> None:
    reason = "the upper end of the interval lies below the window that was locked for this arm"
    frame = pd.DataFrame({"test": ["lift", "onset"], "reason": [reason, "none"]})
    lines = [line.split(EDGE) for line in printed(frame, width).split("\n") if EDGE in line]
    assert " ".join(cells[2].strip() for cells in lines[:-1]) == reason
    assert max(len(cells[2]) for cells in lines) > 20


def test_a_table_that_fits_is_one_block_of_one_line_per_row() -> None:
    frame = pd.DataFrame({"class": ["text"] * 3, "p": [0.25, math.nan, math.inf]})
    lines = [line for line in printed(frame, 80).split("\n") if line.startswith(EDGE)]
    assert [line.split(EDGE)[2].strip() for line in lines] == ["0.25", "-", "inf"]


def test_intervals_are_no_markup() -> None:
    assert "[inf, inf]" in printed(pd.DataFrame({"[b]": ["inf [inf, inf]"]}), 80)


def test_a_frame_without_columns_is_its_title() -> None:
    assert printed(pd.DataFrame(), 80) == "Title\n"


def test_titles_wrap_at_words_and_paths_stay_whole() -> None:
    out = Console(file=io.StringIO(), width=40)
    path = "/" + "very-long-folder-name/" * 4
    print_text(out, f"a sentence that has more words than a line can hold, about {path} and more")
    assert isinstance(out.file, io.StringIO)
    lines = out.file.getvalue().splitlines()
    assert path in lines
    assert all(len(line) <= 40 for line in lines if line != path)


@pytest.mark.parametrize(
    ("columns", "width"), [(None, 80), ("40", 40), ("132", 132), ("", 80), ("0", 80), ("wide", 80)]
)
def test_without_a_terminal_the_width_is_that_of_columns_or_80(
    columns: str | None, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr("sys.stdout", io.StringIO())
    assert console().width == width
