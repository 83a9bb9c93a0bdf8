"""YAML as plain values, read by libyaml where that is safe."""

from __future__ import annotations

from typing import Any

import yaml

# Ten times as fast: a config takes 2 ms instead of 20, and a study has hundreds.
_FAST = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# libyaml's loader ends the process where values are nested too deeply (20,000 levels were read on a
# stack of 8 MB, 32,500 were not [M]), which takes as many characters; the other one raises a
# RecursionError.
SAFE_LENGTH = 8_000


def read_yaml(text: str | bytes) -> Any:
    """The value of a YAML document.

    Raises:
        yaml.YAMLError: it is none. RecursionError: it is nested too deeply. ValueError: a date or a
            number that is none.
    """
    return yaml.load(text, Loader=_FAST if len(text) <= SAFE_LENGTH else yaml.SafeLoader)
