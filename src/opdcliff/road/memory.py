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


def recall(protocol: str, paths: StudyPaths) -> list[str]:
    """The settings of the last step of that protocol.

    Raises:
        ConfigError: none is on the way, or its file cannot be read.
    """
    path = paths.road_file(protocol)
    try:
        return [str(word) for word in json.loads(path.read_text(encoding="utf-8"))["words"]]
    except FileNotFoundError as error:
        raise ConfigError(
            f"no step of protocol={protocol} was made here with protocol.ordered=true; give the "
            "settings too, e.g. `opdcliff status experiment=paper data.path=FOLDER`"
        ) from error
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ConfigError(f"{path} {in_words(error)}; give the settings to `status`") from error
