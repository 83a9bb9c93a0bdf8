"""Preparing prompts from files of the public set's size: time, memory and disk, in fresh processes.

    .venv/bin/python benchmarks/full_data.py FOLDER [--rows N] [--packed] [--keep]

Writes a generated pair of files (`made_rows`) into FOLDER, prepares prompts from them as `train`
and `calibrate` do (`data=amazon_fashion`), and again with another seed and other lists, which read
what the first has kept. Prints a line of JSON for each. The files and all that was prepared are
deleted at the end, unless `--keep`; files that are there are used.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import made_rows

# The second and third differ in what the lists are, not in what is read.
SETTINGS: tuple[tuple[str, ...], ...] = (
    (),
    ("data.seed=1",),
    ("data.candidates=20", "data.negatives=popularity"),
)


def main(words: Sequence[str]) -> None:
    """Write, measure, delete."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=made_rows.FULL_ROWS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--packed", action="store_true", help="files packed by gzip")
    parser.add_argument("--keep", action="store_true", help="delete nothing")
    parser.add_argument("--words", nargs="*", default=[], help="settings of every preparation")
    parser.add_argument("--measure", action="store_true", help="one preparation, in this process")
    asked = parser.parse_args(words)
    if asked.measure:
        print(json.dumps(measure(asked.folder, asked.words)))
        return
    rows = asked.folder / "rows"
    try:
        if not rows.is_dir():
            begun = time.monotonic()
            made = made_rows.make(rows, asked.rows, asked.seed, packed=asked.packed)
            print(json.dumps({"made": made.sizes, "rows": made.rows, "items": made.items}))
            print(f"written in {time.monotonic() - begun:.0f} s", file=sys.stderr)
        for own in SETTINGS:
            words_of = [*asked.words, *own]
            done = subprocess.run(
                [sys.executable, __file__, str(asked.folder), "--measure", "--words", *words_of],
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            print(done.stdout, end="", flush=True)
    finally:
        if not asked.keep:
            for folder in (rows, asked.folder / "runs"):
                shutil.rmtree(folder, ignore_errors=True)


def measure(folder: Path, words: Sequence[str]) -> dict[str, object]:
    """Prepare prompts in this process; seconds, bytes and counts."""
    from opdcliff.models import prepare_data
    from opdcliff.paths import StudyPaths
    from opdcliff.settings import compose_one, load
    from opdcliff.storage import asset_cache

    config = load(compose_one(["data=amazon_fashion", f"data.path={folder / 'rows'}", *words]))
    libraries, used = peak_bytes(), cpu_seconds()
    paths = StudyPaths(folder / "runs", folder / "results")
    begun = time.monotonic()
    data = prepare_data(config, paths)
    wall = time.monotonic() - begun
    report = asset_cache.manifest(data)["facts"]["report"]
    return {
        "words": list(words),
        "wall_s": round(wall, 2),
        "cpu_s": round(cpu_seconds() - used, 2),
        "peak_mb": round(peak_bytes() / 1e6),
        "of_that_libraries_mb": round(libraries / 1e6),
        "kept_mb": round(tree_bytes(folder / "runs") / 1e6, 1),
        "raw_mb": round(tree_bytes(folder / "rows") / 1e6, 1),
        "report": report,
    }


def peak_bytes() -> int:
    """The most memory that this process has had at once.

    As the kernel counts it for this program alone; what getrusage says begins with the parent's.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def cpu_seconds() -> float:
    """User and system time of this process and the processes that it waited for."""
    whose = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    used = [resource.getrusage(one) for one in whose]
    return sum(one.ru_utime + one.ru_stime for one in used)


def tree_bytes(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    main(sys.argv[1:])
