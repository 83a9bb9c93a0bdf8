"""The rehearsal of the paper's road, killed at random again and again, and what is lost by it.

    python benchmarks/road_kills.py [rows=FOLDER] [kills=12] [seed=0] [most_seconds=150]

`benchmarks/rehearsal.sh` is started again when a kill ended it, as a user would. A kill is SIGKILL,
at a time drawn from 0 to most_seconds after the start or the kill before: of all processes of the
road at once (a machine that goes down), or of one of them (a rank, a worker, the judge, the
command, the script). What was finished when a kill ended the road has to be there, byte for byte,
at the end. Prints a line a kill and a JSON line; ends with 1 if something finished was lost or
changed, or if the road was not gone to its end.
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
# Of a run, when it is over.
OVER = ("finished", "collapsed", "diverged")
# What the judge said; grows line by line.
ANSWERS = "answers.jsonl"


def main(words: list[str]) -> int:
    given = {"rows": "", "kills": "12", "seed": "0", "most_seconds": "150"}
    given |= dict(word.split("=", 1) for word in words)
    draw = random.Random(int(given["seed"]))
    folder = Path(os.environ.get("OPDCLIFF_RUNS", ROOT / "runs")) / "rehearsal"
    log = folder.parent / "road_kills.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    done: dict[Path, str] = {}
    replies: dict[Path, bytes] = {}
    hit: list[str] = []
    begun = time.monotonic()
    starts, code = 0, 1
    with log.open("ab") as output:
        while code and starts < 3 * int(given["kills"]) + 3:
            starts += 1
            road = subprocess.Popen(
                ["bash", str(ROOT / "benchmarks" / "rehearsal.sh"), *filter(None, [given["rows"]])],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            # A start that lives on without the process it lost is hit again.
            while len(hit) < int(given["kills"]):
                after = draw.uniform(0, float(given["most_seconds"]))
                what = _kill(road, after, whole=draw.random() < 0.5, draw=draw)
                if what is None:
                    break
                hit.append(what)
                print(f"{time.monotonic() - begun:6.0f} s  {what}", flush=True)
            code = road.wait()
            _end(road.pid)
            if code:
                done |= {path: _digest(path) for path in _finished(folder / "checkout")}
                replies |= {path: path.read_bytes() for path in _logs(folder / "checkout")}
    changed = [str(path) for path, was in done.items() if not path.exists() or _digest(path) != was]
    cut = [str(p) for p, was in replies.items() if not p.exists() or not _goes_on(p, was)]
    kinds = collections.Counter(line.split(" ", 1)[0] for line in hit)
    result = {
        "kills": len(hit),
        "of all processes": kinds["all"],
        "starts": starts,
        "finished before a kill": len(done),
        "changed or lost": changed + cut,
        "exit code": code,
        "seconds": round(time.monotonic() - begun),
    }
    print(json.dumps(result))
    return int(bool(code or changed or cut))


def _kill(
    road: subprocess.Popen[bytes], after: float, *, whole: bool, draw: random.Random
) -> str | None:
    """Kill something of the road after so many seconds; what, in words, None if it ended before."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        road.wait(after)
        return None
    alive = [each for each in _of_session(road.pid) if "git" not in _name(each)]
    victims = alive if whole else [draw.choice(alive)]
    words = _name(max(alive, key=lambda each: each.pid) if whole else victims[0])
    for victim in victims:
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim.pid, signal.SIGKILL)
    what = f"all {len(victims)} processes, the newest" if whole else f"one of {len(alive)}:"
    return f"{what} {words} after {after:.0f} s"


def _of_session(leader: int) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def _end(leader: int) -> None:
    """Orphans of the last start: a judge whose script was killed. Waits for those that save."""
    ends = time.monotonic() + 30
    while (left := [p for p in _of_session(leader) if "judge" not in _name(p)]) and (
        time.monotonic() < ends
    ):
        time.sleep(0.2)
    for process in [*left, *_of_session(leader)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _name(process: psutil.Process) -> str:
    try:
        words = process.cmdline()
    except psutil.NoSuchProcess:
        return "gone"
    # Code given by -c is a text of its own.
    short = ["..." if " " in word else Path(word).name if "/" in word else word for word in words]
    return " ".join(short)[:70]


def _finished(checkout: Path) -> list[Path]:
    """What is never to change again: records that are over, assets, lists, grades, the lock."""
    over = []
    for manifest in checkout.glob("runs/*/*/manifest.json"):
        try:
            content = json.loads(manifest.read_text())
        except ValueError:
            over.append(manifest)
            continue
        if content.get("status") in OVER:
            over += [p for p in manifest.parent.glob("*") if p.is_file() and p.suffix != ".lock"]
    for asset in checkout.glob("runs/assets/*/asset.json"):
        over += [p for p in asset.parent.rglob("*") if p.is_file() and p.name != ANSWERS]
    over += [p for p in checkout.glob("prereg/rehearsal/**/*") if p.is_file()]
    over += checkout.glob("runs/grades/rehearsal.jsonl")
    return over


def _logs(checkout: Path) -> list[Path]:
    """What only grows: replies of the judge."""
    return [p for p in checkout.glob(f"runs/**/{ANSWERS}") if p.is_file()]


def _goes_on(path: Path, was: bytes) -> bool:
    """Whether it begins with the whole lines that were there; a torn last one may be mended."""
    whole = was[: was.rfind(b"\n") + 1]
    return path.read_bytes().startswith(whole)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
