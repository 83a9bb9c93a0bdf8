"""`python -m fake_study FOLDER DEED...` runs fake cells of these deeds, one worker."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from opdcliff.errors import OpdcliffError
from opdcliff.processes import begin_loading, listening, spare_imports


def main(folder: Path, deeds: list[str]) -> None:
    """Run them as the command line runs a study."""
    spare_imports()
    begin_loading()
    from fake_cells import PREPARED, make
    from opdcliff.study.pool import run_cells

    cells, roots = make(deeds, folder)
    with listening():
        run_cells(cells, PREPARED, roots, workers=1)


if __name__ == "__main__":
    # A shell that starts tests in the background has it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        main(Path(sys.argv[1]), sys.argv[2:])
    except OpdcliffError as error:
        sys.exit(error.exit_code)
