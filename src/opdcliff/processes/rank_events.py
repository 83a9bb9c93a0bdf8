"""How ranks tell the parent what happens: marked lines in a stream that others write to as well.

A launcher may log to the standard output its ranks inherit, and one that reaches other hosts puts
the host's name before each line. So an event is what follows `MARK` up to the end of its line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

# The separator of information in ASCII: no launcher prints it.
MARK = "\x1eopdcliff "
# What pdsh puts before a line.
_LABEL = re.compile(r"\S+: ")


def encode(event: str, **fields: Any) -> bytes:
    """An event as one line."""
    return f"{MARK}{json.dumps({'event': event, **fields})}\n".encode()


def decode(lines: Iterable[str], other: Callable[[str], object]) -> Iterator[dict[str, Any]]:
    """The events among the lines; what else is there, torn events included, goes to `other`."""
    for line in lines:
        before, mark, text = line.partition(MARK)
        try:
            event = json.loads(text) if mark else None
        except json.JSONDecodeError:
            event = None
        if event is None:
            other(line)
            continue
        if before and not _LABEL.fullmatch(before):
            other(f"{before}\n")
        yield event
