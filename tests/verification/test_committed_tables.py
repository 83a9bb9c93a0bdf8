"""Any edit of a committed table is told before a number of it is used."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from opdcliff.errors import TamperedError
from opdcliff.paths import REPO_ROOT
from opdcliff.verification.committed import PROVENANCE, check_tables

FOLDERS = sorted(path.parent for path in (REPO_ROOT / "results").rglob(PROVENANCE))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_one_changed_digit_of_any_file_is_tampered(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / folder.name
    shutil.copytree(folder, copy)
    for name in [*check_tables(copy)["files"], PROVENANCE]:
        path = copy / name
        text = path.read_bytes()
        half = range(len(text) // 2, len(text))
        # A table without a row has no digit: it gets one.
        at = next((i for i in half if text[i : i + 1].isdigit()), len(text))
        other = b"1" if text[at : at + 1] != b"1" else b"2"
        path.write_bytes(text[:at] + other + text[at + 1 :])
        with pytest.raises(TamperedError):
            check_tables(copy)
        path.write_bytes(text)
    check_tables(copy)
