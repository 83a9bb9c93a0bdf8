"""An asset built by a function, for tests of what is built."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from opdcliff.paths import StudyPaths
from opdcliff.storage import Asset


def ensure(
    paths: StudyPaths,
    kind: str,
    key: Mapping[str, Any],
    build: Callable[[Path], dict[str, Any]],
) -> Path:
    """The folder of the asset, filled by `build` if it is not there yet; it returns the facts."""
    asset = Asset.of(paths, kind, key)
    with asset.building() as draft:
        if draft is not None:
            draft.facts = build(draft.folder)
    return asset.folder
