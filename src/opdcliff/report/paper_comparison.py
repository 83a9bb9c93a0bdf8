"""The table "paper beside ours": rows written by hand, our numbers read from committed results."""

from __future__ import annotations

from pathlib import Path

from opdcliff.paths import StudyPaths
from opdcliff.report.drawing.inputs import Inputs, MissingInputError
from opdcliff.report.paper_numbers import OurNumbers, Row
from opdcliff.report.paper_rows import AFTER, BEFORE, ROWS
from opdcliff.storage import write_text_atomic

HEAD = ("quantity", "paper", "ours", "file of ours", "setting", "why they differ, or may")


def rendered(paths: StudyPaths) -> list[tuple[str, ...]]:
    """All rows as text in the order of `HEAD`; what is not run says which file is missing."""
    committed = OurNumbers(Inputs(paths))
    return [
        (row.what, row.paper, _ours(row, committed), row.files, row.setting, row.why)
        for row in ROWS
    ]


def _ours(row: Row, committed: OurNumbers) -> str:
    try:
        return row.ours(committed)
    except MissingInputError as error:
        return f"nothing: {error}"


def page(paths: StudyPaths) -> str:
    """The page docs/paper_beside_ours.md."""
    rows = [HEAD, ("---",) * len(HEAD), *rendered(paths)]
    lines = ["| " + " | ".join(cell.replace("|", "/") for cell in row) + " |" for row in rows]
    return "\n".join([BEFORE, *lines, "", AFTER])


def write_page(paths: StudyPaths, path: Path) -> None:
    """Write the page.

    Raises:
        RecordError: the disk refuses.
    """
    write_text_atomic(path, page(paths))
