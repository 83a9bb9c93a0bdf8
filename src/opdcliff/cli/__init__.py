"""The command line: one verb a function, errors as one line."""

from __future__ import annotations

import contextlib
import select
import signal
import sys
from collections.abc import Sequence

__all__ = [
    "main",
]

# That of a program that SIGPIPE ends.
_NOBODY_READS = 141
# Of SIGINT and of SIGTERM, see `command` and `PreemptedError`.
_INTERRUPTED, _PREEMPTED = 130, 9


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of a process; returns the exit code (see opdcliff.errors)."""
    # Not at the top: `python -m opdcliff.cli.command` would find its module loaded, and warn.
    from opdcliff.cli.command import main as run
    from opdcliff.processes import spare_imports
    from opdcliff.terminal import output_dropped

    spare_imports()
    try:
        code = run(arguments)
        sys.stdout.flush()
        if output_dropped():
            # What the command came to goes before that.
            code = code or _NOBODY_READS
    except BrokenPipeError:
        if not _reader_left():
            raise
        return _NOBODY_READS
    except OSError as error:
        if error.errno is None:
            # A library's word for something else.
            raise
        return _say_disk(error)
    except KeyboardInterrupt:
        # Asked once more, while the answer to the first time was given.
        code = _INTERRUPTED
    if code in (_INTERRUPTED, _PREEMPTED):
        # Whoever asks often shall get the same exit code; all that is left is to end.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
    return code


def _say_disk(error: OSError) -> int:
    """One line on a file, or the output, that the system refuses; the exit code of such."""
    from opdcliff.errors import RecordError
    from opdcliff.storage import in_words, redact_text
    from opdcliff.terminal import drop_output

    what = "the output" if error.filename is None else str(error.filename)
    line = f"opdcliff: {what}: {in_words(error)}; mend that and run the command again"
    with contextlib.suppress(OSError):
        print(redact_text(line), file=sys.stderr)
    drop_output()
    return RecordError.exit_code


def _reader_left() -> bool:
    """Whether standard output has lost its reader, as `| head` goes; what is left is dropped."""
    from opdcliff.terminal import drop_output

    output = sys.stdout.fileno()
    asked = select.poll()
    asked.register(output, select.POLLOUT)
    if not any(event & select.POLLERR for _, event in asked.poll(0)):
        return False
    drop_output()
    return True
