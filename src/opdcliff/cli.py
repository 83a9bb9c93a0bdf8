"""Command line: `opdcliff VERB [hydra overrides]`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

from rich.console import Console

from opdcliff.errors import OpdcliffError

USAGE = """usage: opdcliff VERB [group=option] [key.field=value] ...

  study      data -> models -> calibration -> grid of cells -> onset beside the prediction
  train      one run; with -m a grid: opdcliff train -m lam.value=1.0,1.4 clip=c5,c2 seed=0,1
  calibrate  measure p, b and lambda* per token class of a teacher and a warm start
  threshold  the closed form: opdcliff threshold p=0.99 b=0.5 c=5
  config     print the resolved configuration

Groups and their options lie in conf/; add --help to a verb for them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code (see opdcliff.errors)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0 if words else 2
    try:
        return _verb(words[0])(words[1:])
    except OpdcliffError as error:
        print(f"opdcliff: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(
            "opdcliff: interrupted; finished cells are kept, run the command again to go on",
            file=sys.stderr,
        )
        return 130


def _verb(name: str) -> Callable[[list[str]], int]:
    # The heavy libraries are imported by the verb that needs them.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from opdcliff import verbs

    known = {
        "study": verbs.study,
        "train": verbs.train,
        "calibrate": verbs.calibrate,
        "threshold": verbs.threshold,
        "config": verbs.config,
    }
    if name not in known:
        from opdcliff.errors import ConfigError

        raise ConfigError(f"verb {name} is unknown; allowed: {', '.join(known)}")
    return known[name]


def console() -> Console:
    """Where tables go: as wide as the terminal, and wide enough for a table in a log."""
    out = Console()
    return out if out.is_terminal else Console(width=160)
