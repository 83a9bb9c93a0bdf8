"""The command and the environment that start the ranks of one cell.

torchrun starts them on this machine, and so does DeepSpeed's launcher, which with a hostfile of
several hosts starts them there, by pdsh and ssh, the first host's ranks first. Where neither is
asked for and the ranks run on a CPU there is no such command, see `forks_ranks`.
"""

from __future__ import annotations

import base64
import json
import shutil
import socket
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from opdcliff.errors import ConfigError
from opdcliff.models import pick_device
from opdcliff.settings import EngineConfig, Host, RunConfig, read_hostfile, resolved

# Slurm announces a time limit by one of these to all processes of a job. The parent acts on it and
# sends its ranks SIGTERM; those and their launcher would die of it.
_DEAF = ("/bin/sh", "-c", "trap '' USR1 USR2; exec \"$@\"", "sh")
_LOOPBACK = "127.0.0.1"
_TORCHRUN_OPTIONS = ("PET_", "TORCHELASTIC_")


def forks_ranks(engine: EngineConfig) -> bool:
    """Whether ranks are forked from a process with the libraries: CPUs, and no launcher asked for.

    A GPU must not have been touched before a fork, which libraries may do when they are imported.
    """
    return engine.launcher == "auto" and pick_device(engine).type == "cpu"


def launch_command(
    engine: EngineConfig, module: str, job: Path, *, port: int, environment: Mapping[str, str]
) -> list[str]:
    """The words of the command that runs `python -m MODULE JOB` on all ranks.

    port: a free one of the first host, for the ranks to meet at; torchrun finds its own.
    environment: of this process.

    Raises:
        ConfigError: as `read_hostfile`.
    """
    hosts = _hosts(engine)
    if engine.launcher != "deepspeed":
        words = _torchrun(engine, module, job)
    elif len(hosts) > 1:
        words = _on_hosts(engine, module, job, port)
    else:
        words = _deepspeed_here(engine, module, job, port, environment)
    return [*_DEAF, *words]


def launch_environment(engine: EngineConfig, environment: Mapping[str, str]) -> dict[str, str]:
    """What the launcher needs in its environment: that of this process and `_own_variables`.

    torchrun takes PET_* as options of its own, and operators of clusters set them for theirs.
    """
    kept = {k: v for k, v in environment.items() if not k.startswith(_TORCHRUN_OPTIONS)}
    return {**kept, **_own_variables(engine)}


def require_launcher(engine: EngineConfig) -> None:
    """Raise ConfigError if the hosts cannot be reached from this machine for want of a program."""
    missing = [name for name in ("pdsh", "ssh") if shutil.which(name) is None]
    if len(_hosts(engine)) > 1 and missing:
        raise ConfigError(
            f"engine.hostfile={engine.hostfile} names several hosts and {' and '.join(missing)} is "
            "not installed here; install it, or use one host"
        )


def for_ranks(config: RunConfig) -> RunConfig:
    """The config for the ranks, whose hosts need not see the hostfile."""
    return replace(config, engine=replace(config.engine, hostfile=None))


def free_port() -> int:
    """A TCP port that nobody listens on; DeepSpeed's own choice is the same for every run."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        port: int = listener.getsockname()[1]
    return port


def _torchrun(engine: EngineConfig, module: str, job: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "torch.distributed.run"),
        # A free local port; the address given, since not every host can look up its own name.
        *("--standalone", f"--local-addr={_LOOPBACK}", "--nnodes=1", "--node-rank=0"),
        *(f"--nproc-per-node={engine.ranks}", "-m", module, str(job)),
    ]


def _deepspeed_here(
    engine: EngineConfig, module: str, job: Path, port: int, environment: Mapping[str, str]
) -> list[str]:
    """What `deepspeed` starts on every node: it passes signals on, and leaves GPUs their names.

    `deepspeed --num_gpus` takes GPUs 0, 1, ... even where a scheduler has assigned others.
    """
    world = {"localhost": _devices(engine.ranks, environment)}
    packed = base64.urlsafe_b64encode(json.dumps(world).encode()).decode()
    return [
        *(sys.executable, "-m", "deepspeed.launcher.launch", f"--world_info={packed}"),
        *(f"--master_addr={_LOOPBACK}", f"--master_port={port}"),
        *("--log_level=error", "--no_local_rank", "--module", module, str(job)),
    ]


def _on_hosts(engine: EngineConfig, module: str, job: Path, port: int) -> list[str]:
    assert engine.hostfile is not None
    # ssh does not carry the environment over, and DeepSpeed only some of it.
    own = [f"{name}={value}" for name, value in _own_variables(engine).items()]
    return [
        *(sys.executable, "-m", "deepspeed.launcher.runner"),
        *(f"--hostfile={resolved(engine.hostfile)}", f"--master_port={port}"),
        *("--log_level=error", "--no_local_rank", "--no_python"),
        *("env", *own, sys.executable, "-m", module, str(job)),
    ]


def _own_variables(engine: EngineConfig) -> dict[str, str]:
    hosts = _hosts(engine)
    here = replace(engine, ranks=hosts[0].slots) if hosts else engine
    return {
        "DS_ACCELERATOR": pick_device(here).type,
        "OMP_NUM_THREADS": str(engine.threads),
        "TOKENIZERS_PARALLELISM": "false",
    }


def _devices(ranks: int, environment: Mapping[str, str]) -> list[str]:
    """Names of the GPUs for the ranks: those this process was given, which may be UUIDs."""
    given = [name.strip() for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    return given[:ranks] if len(given) >= ranks and all(given) else [str(n) for n in range(ranks)]


def _hosts(engine: EngineConfig) -> list[Host]:
    return [] if engine.hostfile is None else read_hostfile(engine.hostfile)
