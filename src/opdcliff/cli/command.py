"""Command line: `opdcliff VERB [hydra overrides]`."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

# Importing these makes their verbs known, in the order of the list of verbs.
from opdcliff.cli import run_verbs  # noqa: F401

# isort: split
from opdcliff.cli import look_verbs  # noqa: F401

# isort: split
from opdcliff.cli import lock_verbs  # noqa: F401

# isort: split
from opdcliff.cli.verb import VERBS
from opdcliff.errors import ConfigError, OpdcliffError
from opdcliff.processes import listening

_HELP_FLAGS = ("-h", "--help", "help")
_INTERRUPTED = 130

_HEAD = "usage: opdcliff VERB [group=option] [key.field=value] ..."
_FOOT = (
    "opdcliff VERB --help lists the groups and their options; "
    "opdcliff --version prints the version."
)


def usage() -> str:
    """The list of verbs."""
    lines = [f"  {name:<10} {known.summary}" for name, known in VERBS.items()]
    return "\n".join([_HEAD, "", *lines, "", _FOOT])


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code (see opdcliff.errors)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in _HELP_FLAGS:
        print(usage())
        return 0 if words else ConfigError.exit_code
    if words[0] == "--version":
        print(f"opdcliff {version('opd-cliff')}")
        return 0
    try:
        with listening():
            return _run(words[0], words[1:])
    except OpdcliffError as error:
        # An error repeats the value at fault.
        from opdcliff.storage import redact_text

        print(f"opdcliff: {redact_text(' '.join(str(error).split()))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(
            "opdcliff: interrupted; finished cells are kept, run the command again to go on",
            file=sys.stderr,
        )
        return _INTERRUPTED


def _run(name: str, words: list[str]) -> int:
    if name not in VERBS:
        near = difflib.get_close_matches(name, VERBS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"verb {name} is unknown; allowed: {', '.join(VERBS)}{hint}")
    if any(word in _HELP_FLAGS[:2] for word in words):
        return _help(name)
    if sys.flags.optimize > 1:
        raise ConfigError(
            "Python was told to drop docstrings (PYTHONOPTIMIZE=2 or -OO), and transformers cannot "
            "be imported without them; unset it, or set 1"
        )
    # A notebook's backend may be no module of this environment; files need none of it.
    os.environ["MPLBACKEND"] = "Agg"
    # The heavy libraries are imported by the verb that needs them.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    return VERBS[name].run(words)


def _help(name: str) -> int:
    print(VERBS[name].usage)
    if VERBS[name].settings:
        from opdcliff.cli.groups import print_groups

        print()
        print_groups()
    return 0


if __name__ == "__main__":
    sys.exit(main())
