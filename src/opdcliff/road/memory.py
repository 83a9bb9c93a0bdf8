"""The settings that a road was begun with, so that its name alone tells where it is."""

from __future__ import annotations

import json
from collections.abc import Sequence

from opdcliff.errors import ConfigError
from opdcliff.paths import StudyPaths
from opdcliff.storage import in_words, write_json_atomic


def remember(protocol: str, words: Sequence[str], paths: StudyPaths) -> None:
    """Keep the settings that a step of the road was given."""
    path = paths.road_file(protocol)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json_atomic(path, {"words": list(words)})


def recall(protocol: str, paths: StudyPaths) -> list[str] | None:
    """The settings of the last step of that protocol; None if it made none here.

    Raises:
        ConfigError: its file cannot be read.
    """
    path = paths.road_file(protocol)
    try:
        return [str(word) for word in json.loads(path.read_text(encoding="utf-8"))["words"]]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ConfigError(f"{path} {in_words(error)}; give the settings to `status`") from error
