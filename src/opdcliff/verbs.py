"""What each verb of the command line does."""

from __future__ import annotations

from omegaconf import OmegaConf
from rich.console import Console

from opdcliff.compose import compose_one
from opdcliff.config import load
from opdcliff.errors import ConfigError
from opdcliff.paths import StudyPaths


def study(words: list[str]) -> int:
    """Run or finish a study and print its tables."""
    from opdcliff.study import run_study
    from opdcliff.summary import show

    result = run_study(load(compose_one(words)), StudyPaths())
    console = _console()
    show(result.summary, console)
    console.print(f"written to {result.folder}")
    return 0


def train(words: list[str]) -> int:
    raise ConfigError("train")


def calibrate(words: list[str]) -> int:
    raise ConfigError("calibrate")


def threshold(words: list[str]) -> int:
    raise ConfigError("threshold")


def config(words: list[str]) -> int:
    """Print the resolved configuration."""
    composed = compose_one(words)
    load(composed)
    print(OmegaConf.to_yaml(composed, resolve=True), end="")
    return 0


def _console() -> Console:
    out = Console()
    return out if out.is_terminal else Console(width=200)
