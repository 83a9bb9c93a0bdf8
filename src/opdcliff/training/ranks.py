"""Training a cell on several ranks, from the one process that owns its record.

The ranks run `opdcliff.processes.rank`, started by a launcher (see `launch_command`) or forked (see
`ForkedRanks`). They tell this process what happens through a pipe, one JSON line per event (see
`rank_events`):

    {"event": "started", "rank": 1, "pid": 321, ...}      any rank, before anything else
    {"event": "advance", "update": 3}                     rank 0, after every update
    {"event": "report", "update": 20, "metrics": {...}}   rank 0, at every evaluation
    {"event": "remark", "text": "..."}                    rank 0, a line for the user
    {"event": "outcome", ...fields of Outcome}            rank 0, at the end
    {"event": "error", "rank": 1, "text": "..."}          any rank that raises

All else they print goes to a log file. If this process dies, the pipe breaks and so do the ranks.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO

import torch

from opdcliff.engine import (
    for_ranks,
    forks_ranks,
    free_port,
    launch_command,
    launch_environment,
    require_launcher,
)
from opdcliff.errors import EngineError
from opdcliff.models import free_device
from opdcliff.processes import ForkedRanks, decode, deferred, requested
from opdcliff.records import PREEMPTED
from opdcliff.settings import EngineConfig
from opdcliff.storage import redact_file
from opdcliff.training.job import Job
from opdcliff.training.loop import RunOutcome
from opdcliff.training.run import train_here

_log = logging.getLogger(__name__)

RANK_MODULE = "opdcliff.processes.rank"


def train_on_ranks(
    job: Job,
    *,
    log: Path,
    report: Callable[[int, dict[str, float]], None],
    advance: Callable[[int], None],
) -> RunOutcome:
    """Train a cell on `engine.ranks` processes; callbacks as in `train.train`.

    log: file that takes what the ranks print.

    Raises:
        EngineError: a rank raised, died or left without an outcome; the text says which.
    """
    engine = job.config.engine
    require_launcher(engine)
    free_device()
    # Other hosts see the folder of the record, which they share, but not this one's own.
    place = None if engine.hostfile is None else log.parent
    with (
        tempfile.TemporaryDirectory(prefix="opdcliff-", dir=place) as folder,
        _log_of_ranks(log) as output,
    ):
        file = Path(folder, "job.yaml")
        replace(job, config=for_ranks(job.config)).write(file)
        told = _Told()
        # Rank 0 alone is asked to go, not the launcher, which would end all ranks where they are.
        with _ranks(engine, file, output, told) as launcher, deferred(told.first):
            assert launcher.stdout is not None
            _follow(told, launcher.stdout, lambda line: _note(line, output), report, advance)
            code = launcher.wait()
    # Asked to go together with its ranks, a launcher ends by an error of its own.
    left = told.outcome is not None and told.outcome.status == PREEMPTED and not told.errors
    if told.outcome is None or (code != 0 and not left):
        raise EngineError(f"{_cause(told, engine.ranks, code)}; what the ranks printed is in {log}")
    return told.outcome


@contextmanager
def _log_of_ranks(path: Path) -> Iterator[IO[bytes]]:
    """The log open for writing; leaving the block takes secrets out of what others wrote."""
    with path.open("ab") as output:
        try:
            yield output
        finally:
            redact_file(path)


@contextmanager
def _ranks(
    engine: EngineConfig, job: Path, output: IO[bytes], told: _Told
) -> Iterator[subprocess.Popen[str] | ForkedRanks]:
    """The running launcher or ranks; leaving the block ends them."""
    launcher = _start(engine, job, output)
    try:
        yield launcher
    finally:
        if launcher.poll() is None:
            told.kill()
            launcher.terminate()
        launcher.wait()
        if launcher.stdout is not None:
            launcher.stdout.close()


def _start(
    engine: EngineConfig, job: Path, output: IO[bytes]
) -> subprocess.Popen[str] | ForkedRanks:
    port, environment = free_port(), launch_environment(engine, os.environ)
    if forks_ranks(engine):
        return ForkedRanks(
            RANK_MODULE,
            [str(job)],
            ranks=engine.ranks,
            port=port,
            environment=environment,
            errors=Path(output.name),
        )
    return subprocess.Popen(
        launch_command(engine, RANK_MODULE, job, port=port, environment=os.environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=output,
        text=True,
        env=environment,
    )


@dataclass
class _Told:
    """What the ranks said; of errors the first causes the others. pids: of those on this host."""

    outcome: RunOutcome | None = None
    errors: dict[int, str] = field(default_factory=dict)
    pids: dict[int, int] = field(default_factory=dict)

    def first(self) -> list[int]:
        """Whom to ask to go: rank 0, once it has told."""
        return [self.pids[0]] if 0 in self.pids else []

    def kill(self) -> None:
        """End ranks that wait for one that is gone: asked by SIGTERM they would try to save.

        One that has failed goes by itself, once it has printed where.
        """
        for rank, pid in self.pids.items():
            if rank not in self.errors:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def _follow(
    told: _Told,
    lines: IO[str],
    other: Callable[[str], object],
    report: Callable[[int, dict[str, float]], None],
    advance: Callable[[int], None],
) -> None:
    for event in decode(lines, other):
        match event.pop("event"):
            # A process id of another host is somebody else's here.
            case "started" if event["host"] == socket.gethostname():
                told.pids[event["rank"]] = event["pid"]
                if told.errors:
                    # Slower to start than another was to fail: a launcher would wait 30 s for it.
                    told.kill()
                if event["rank"] == 0 and requested():
                    with suppress(ProcessLookupError):
                        os.kill(event["pid"], signal.SIGTERM)
            case "advance":
                advance(event["update"])
            case "report":
                report(event["update"], event["metrics"])
            case "remark":
                _log.warning("%s", event["text"])
            case "outcome":
                told.outcome = RunOutcome(**event)
            case "error":
                told.errors[event["rank"]] = event["text"]
                told.kill()


def _note(line: str, output: IO[bytes]) -> None:
    """Keep what a launcher prints itself, in the log of its ranks."""
    output.write(line.encode())
    output.flush()


def _cause(told: _Told, ranks: int, code: int) -> str:
    silent = " or ".join(str(rank) for rank in range(ranks) if rank not in told.errors)
    if not told.errors:
        return f"all {ranks} ranks ended without a word (exit code {code}): killed, out of memory"
    rank, text = next(iter(told.errors.items()))
    if silent and "by peer" in text:
        return f"rank {silent} was killed or ran out of memory; rank {rank} lost touch with it"
    return f"rank {rank} failed: {text}"


def train_rank(path: Path, tell: Callable[..., None]) -> None:
    """One rank's part of the job in the file `path`; `tell` sends the events above."""
    outcome = train_here(
        Job.read(path),
        report=lambda update, metrics: tell("report", update=update, metrics=metrics),
        advance=lambda update: tell("advance", update=update),
        remark=lambda text: tell("remark", text=text),
    )
    tell("outcome", **asdict(outcome))
    torch.distributed.destroy_process_group()
