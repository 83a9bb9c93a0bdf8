"""The grammar engine, an optional package."""

from __future__ import annotations

from typing import Any

from opdcliff.errors import ConfigError

_EXTRA = 'pip install "opd-cliff[grammar]"'


def engine() -> Any:
    """The module of the grammar engine. Raises ConfigError where it is not installed."""
    try:
        import llguidance
    except ImportError as error:
        raise ConfigError(
            f"grammars are read by llguidance, which is not installed: {_EXTRA}"
        ) from error
    return llguidance
