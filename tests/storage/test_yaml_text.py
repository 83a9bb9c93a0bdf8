"""YAML is read as the slow safe loader reads it, and no file ends the process."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from opdcliff.paths import REPO_ROOT
from opdcliff.storage.yaml_text import SAFE_LENGTH, read_yaml

LOCKED = sorted((REPO_ROOT / "prereg").glob("mini/*.yaml"))


@pytest.mark.parametrize("path", LOCKED, ids=lambda path: path.stem)
def test_it_is_what_the_slow_loader_reads(path: Path) -> None:
    text = path.read_text("ascii")
    assert read_yaml(text) == read_yaml(text.encode()) == yaml.safe_load(text)


@pytest.mark.parametrize("opening", ["[", "{a: ", "- "])
@pytest.mark.parametrize("length", [SAFE_LENGTH, 60_000], ids=["libyaml", "the other loader"])
def test_no_nesting_ends_the_process(opening: str, length: int) -> None:
    text = (opening * ((length - 1) // len(opening))).ljust(length - 1) + "]"
    assert len(text) == length
    with pytest.raises((yaml.YAMLError, RecursionError)):
        read_yaml(text)
