"""Stands in for pdsh and ssh, so that DeepSpeed's launcher "reaches" several hosts: all are here.

Written as `pdsh` and `ssh` into a folder of PATH. `pdsh ... -w A,B WORDS` runs the command once per
host, with %n as the host's number and the host's name before every line, as pdsh does.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_SSH = """#!/bin/sh
# ... HOST hostname [-I]
echo 127.0.0.1
"""


def install(folder: Path) -> None:
    """Put `pdsh` and `ssh` into a folder."""
    pdsh = f'#!/bin/sh\nexec {sys.executable} {__file__} "$@"\n'
    for name, text in (("pdsh", pdsh), ("ssh", _SSH)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)


def main(words: list[str]) -> int:
    """Run the words after `-w HOSTS` on every host; the highest exit code."""
    at = words.index("-w")
    hosts, command = words[at + 1].split(","), " ".join(words[at + 2 :])
    running = [
        subprocess.Popen(
            f"({command.replace('%n', str(number))}) | sed -u 's/^/{host}: /'", shell=True
        )
        for number, host in enumerate(hosts)
    ]
    return max(process.wait() for process in running)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
