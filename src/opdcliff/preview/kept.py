"""Points of a preview that were sampled before, found again: an interrupted curve goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from opdcliff.preview.breaks import Break
from opdcliff.preview.points import Clip
from opdcliff.storage import decode_floats, encode_floats, write_json_atomic

_FLOORS = "floors"


class KeptPoints:
    """A file a point in one folder, whose name stands for models, prompts and seed.

    folder: None keeps nothing. A file that cannot be read counts as not there.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def find(
        self, clip: Clip, lam: float, margin: float
    ) -> tuple[dict[str, Any], list[Break]] | None:
        """The row of the table and the breaks of a point; None if it was not sampled yet."""
        found = self._read(_name(clip, lam, margin))
        try:
            return dict(found["row"]), [Break(**each) for each in found["breaks"]]
        except (LookupError, TypeError):
            return None

    def keep(
        self, clip: Clip, lam: float, margin: float, row: dict[str, Any], breaks: list[Break]
    ) -> None:
        """Write a point down."""
        # JSON sorts its keys, and the columns of a table have an order.
        content = {"row": list(row.items()), "breaks": [asdict(each) for each in breaks]}
        self._write(_name(clip, lam, margin), content)

    def floors(self, measure: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Parse rates of teacher and warm start, measured once."""
        found = self._read(_FLOORS)
        if not found:
            found = measure()
            self._write(_FLOORS, found)
        return found

    def _read(self, name: str) -> dict[str, Any]:
        if self._folder is None:
            return {}
        try:
            content = decode_floats(json.loads((self._folder / f"{name}.json").read_text()))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def _write(self, name: str, content: dict[str, Any]) -> None:
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_json_atomic(self._folder / f"{name}.json", encode_floats(content))


def _name(clip: Clip, lam: float, margin: float) -> str:
    return f"{clip.rule}-{clip.strength!r}-{lam!r}-{margin!r}"
