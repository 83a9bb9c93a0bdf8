"""Stands in for Slurm's commands: an array's jobs run here at once, and can be signalled, requeued.

`install(FOLDER)` writes sbatch, srun, scontrol and sacct. The submitted script is kept as
FOLDER/script. $FAKE_SLURM_WATCH is `NUMBER PATTERN`: when a file that the pattern matches has two
lines, the processes of that job get USR2 once, all of them, as Slurm does before a time limit.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

WATCH = "FAKE_SLURM_WATCH"
NAMES = ("sbatch", "srun", "scontrol", "sacct")
_JOB = 7


def install(folder: Path) -> None:
    """Put the commands into a folder."""
    for name in NAMES:
        text = f'#!/bin/sh\nexec {sys.executable} {__file__} {name} {folder} "$@"\n'
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)


def sbatch(folder: Path, words: list[str]) -> None:
    """Submit: keep the script and run it once per number of its array."""
    shutil.copy(words[-1], folder / "script")
    array = re.search(r"--array=0-(\d+)", (folder / "script").read_text())
    for number in range(int(array[1]) + 1 if array else 1):
        run = [sys.executable, __file__, "run", str(folder), str(number)]
        with (folder / f"batch{number}.log").open("w") as log:
            subprocess.Popen(run, stdout=log, stderr=log, start_new_session=True)
    print(f"Submitted batch job {_JOB}")


def run(folder: Path, words: list[str]) -> None:
    """One job of the array, again for as long as it was requeued."""
    one = {"PROCID": 0, "LOCALID": 0, "NODEID": 0, "NTASKS": 1, "JOB_NUM_NODES": 1}
    of_array = {"ARRAY_JOB_ID": _JOB, "ARRAY_TASK_ID": words[0], "JOB_ID": _JOB + int(words[0])}
    slurm = {f"SLURM_{name}": str(value) for name, value in (one | of_array).items()}
    requeued = folder / f"requeued-{_JOB}_{words[0]}"
    while True:
        subprocess.run(["bash", folder / "script"], env=os.environ | slurm, check=False)
        if not requeued.exists():
            return
        requeued.rename(f"{requeued}.done")


def srun(folder: Path, words: list[str]) -> None:
    """The job's step: what follows the options, in a session that can be signalled as a whole."""
    command = words[next(n for n, word in enumerate(words) if word == sys.executable) :]
    number = os.environ["SLURM_ARRAY_TASK_ID"]
    watched, _, pattern = os.environ.get(WATCH, "").partition(" ")
    with (folder / f"step{number}.log").open("a") as log:
        step = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    while step.poll() is None:
        if watched == number and not (folder / "signalled").exists():
            for file in Path.cwd().glob(pattern):
                if file.read_text().count("\n") > 1:
                    (folder / "signalled").touch()
                    os.killpg(step.pid, signal.SIGUSR2)
        time.sleep(0.02)
    sys.exit(step.returncode)


def scontrol(folder: Path, words: list[str]) -> None:
    """`scontrol requeue JOB`."""
    assert words[0] == "requeue"
    (folder / f"requeued-{words[1]}").touch()


def sacct(folder: Path, words: list[str]) -> None:
    """States are not told; submitit then goes by the files of results."""
    print("JobID|State|NodeList")


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]), sys.argv[3:])
