"""The committed tables of the quick study, and copies of them to be changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from opdcliff.paths import REPO_ROOT, StudyPaths

QUICK = StudyPaths(results=REPO_ROOT / "results").committed.study_dir("mini", "quick")
Change = Callable[[pd.DataFrame], pd.DataFrame | None]


def edited(folder: Path, change: Change, name: str = "cells") -> Path:
    """The same folder, one table changed and written as `study` writes it."""
    table = pd.read_csv(folder / f"{name}.csv")
    changed = change(table)
    changed = table if changed is None else changed
    changed.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")
    return folder
