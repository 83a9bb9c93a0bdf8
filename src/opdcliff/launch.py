"""Training a cell on several ranks, from the one process that owns its record.

The ranks are started by torch's launcher and run `opdcliff.rank`. They tell this process what
happens through a pipe, one JSON line per event:

    {"event": "advance", "update": 3}                     rank 0, after every update
    {"event": "report", "update": 20, "metrics": {...}}   rank 0, at every evaluation
    {"event": "outcome", ...fields of Outcome}            rank 0, at the end
    {"event": "error", "rank": 1, "text": "..."}          any rank that raises

All else they print goes to a log file. If this process dies, the pipe breaks and so do the ranks.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from omegaconf import OmegaConf

from opdcliff.config import EngineConfig, RunConfig
from opdcliff.engine import pick_device
from opdcliff.errors import EngineError
from opdcliff.prepare import Prepared
from opdcliff.settings import load
from opdcliff.train import Outcome

RANK_MODULE = "opdcliff.rank"


@dataclass(frozen=True)
class Job:
    """What a rank has to know."""

    config: RunConfig
    lam: float
    prepared: Prepared

    def write(self, path: Path) -> None:
        """Write the job as YAML."""
        prepared = {name: str(value) for name, value in asdict(self.prepared).items()}
        plain = {"config": asdict(self.config), "lam": self.lam, "prepared": prepared}
        OmegaConf.save(OmegaConf.create(plain), path)

    @classmethod
    def read(cls, path: Path) -> Job:
        """Read what `write` wrote; the config is checked again."""
        plain: Any = OmegaConf.load(path)
        prepared = plain.prepared
        return cls(
            load(plain.config),
            plain.lam,
            Prepared(Path(prepared.data), Path(prepared.models), prepared.models_identity),
        )


def train_on_ranks(
    job: Job,
    *,
    log: Path,
    report: Callable[[int, dict[str, float]], None],
    advance: Callable[[int], None],
) -> Outcome:
    """Train a cell on `engine.ranks` processes of this machine; callbacks as in `train.train`.

    log: file that takes what the ranks print.

    Raises:
        EngineError: a rank raised, died or left without an outcome; the text says which.
    """
    engine = job.config.engine
    with tempfile.TemporaryDirectory(prefix="opdcliff-") as folder, log.open("wb") as output:
        file = Path(folder, "job.yaml")
        job.write(file)
        with _ranks(engine, file, output) as launcher:
            assert launcher.stdout is not None
            told = _follow(launcher.stdout, report, advance)
            code = launcher.wait()
    if told.outcome is None or code != 0:
        raise EngineError(f"{_cause(told, engine.ranks, code)}; what the ranks printed is in {log}")
    return told.outcome


@contextmanager
def _ranks(engine: EngineConfig, job: Path, output: IO[bytes]) -> Iterator[subprocess.Popen[str]]:
    """The running launcher; leaving the block ends it and its ranks."""
    launcher = subprocess.Popen(
        [
            *(sys.executable, "-m", "torch.distributed.run"),
            # A free local port; the address given, since not every host can look up its own name.
            *("--standalone", "--local-addr=127.0.0.1"),
            *(f"--nproc-per-node={engine.ranks}", "-m", RANK_MODULE, str(job)),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=output,
        text=True,
        env=_environment(engine),
    )
    with launcher:
        try:
            yield launcher
        finally:
            # The launcher passes it on to its ranks; one that has ended takes no harm.
            launcher.terminate()
            launcher.wait()


def _environment(engine: EngineConfig) -> dict[str, str]:
    return {
        **os.environ,
        "DS_ACCELERATOR": pick_device(engine).type,
        "OMP_NUM_THREADS": str(engine.threads),
        "TOKENIZERS_PARALLELISM": "false",
    }


@dataclass
class _Told:
    """What the ranks said about the end; of the errors the first causes the others."""

    outcome: Outcome | None = None
    errors: dict[int, str] = field(default_factory=dict)


def _follow(
    lines: IO[str],
    report: Callable[[int, dict[str, float]], None],
    advance: Callable[[int], None],
) -> _Told:
    told = _Told()
    for line in lines:
        event = json.loads(line)
        match event.pop("event"):
            case "advance":
                advance(event["update"])
            case "report":
                report(event["update"], event["metrics"])
            case "outcome":
                told.outcome = Outcome(**event)
            case "error":
                told.errors[event["rank"]] = event["text"]
    return told


def _cause(told: _Told, ranks: int, code: int) -> str:
    silent = " or ".join(str(rank) for rank in range(ranks) if rank not in told.errors)
    if not told.errors:
        return f"all {ranks} ranks ended without a word (exit code {code}): killed, out of memory"
    rank, text = next(iter(told.errors.items()))
    if silent and "by peer" in text:
        return f"rank {silent} was killed or ran out of memory; rank {rank} lost touch with it"
    return f"rank {rank} failed: {text}"
