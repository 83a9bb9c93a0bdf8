"""What each verb of the command line does; heavy libraries are imported by the verb itself."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from opdcliff.errors import ConfigError, StudyIncompleteError
from opdcliff.paths import StudyPaths
from opdcliff.tables import console

if TYPE_CHECKING:
    from opdcliff.compose import Grid

_MULTIRUN = ("-m", "--multirun")
# The verbs whose cells are named on the command line have no arms.
_NO_ARMS = "protocol=grid"
# The protocol that is locked and confirmed unless another one is named.
_LOCKED = "protocol=mini"
# A study's arms set these; on its command line they would do nothing.
_SET_BY_ARMS = ("clip", "seed", "lam.value", "lam.of_threshold")


def study(words: list[str]) -> int:
    """Run or finish a study and print its tables."""
    from opdcliff.compose import compose_one
    from opdcliff.settings import load
    from opdcliff.study import run_study
    from opdcliff.summary import show

    for word in words:
        name = word.partition("=")[0]
        if name in _SET_BY_ARMS or name.startswith("clip."):
            raise ConfigError(
                f"{word} has no effect on a study: protocol.arms sets it; change protocol.arms, or "
                "use `opdcliff train`"
            )
    result = run_study(load(compose_one(words)), StudyPaths())
    out = console()
    show(result.summary, out)
    _say(f"written to {result.folder}")
    return 0


def lock(words: list[str]) -> int:
    """Measure a pilot, compute the windows and write a lock."""
    from opdcliff.compose import compose_one
    from opdcliff.locking import make_lock
    from opdcliff.settings import load

    supersedes, settings = _own_word("supersedes", words)
    folder = make_lock(load(compose_one([_LOCKED, *settings])), StudyPaths(), supersedes=supersedes)
    _say(f"locked in {folder}; commit it before the first run, and run `opdcliff confirm`")
    return 0


def confirm(words: list[str]) -> int:
    """Run the cells of a lock that have no outcome yet."""
    from opdcliff.compose import compose_one
    from opdcliff.confirm import run_locked
    from opdcliff.settings import load

    config = load(compose_one([_LOCKED, *words]))
    run_locked(config, StudyPaths())
    _say(
        f"all cells are done; `opdcliff verify protocol={config.protocol.name}` says what they say"
    )
    return 0


def verify(words: list[str]) -> int:
    """Compare runs with a lock: print and write verdicts; returns the exit code of the outcome."""
    from opdcliff import verify_report
    from opdcliff.sources import read_runs
    from opdcliff.verify import verify as verify_protocol

    named = {}
    for name in ("protocol", "source", "entity", "project"):
        named[name], words = _own_word(name, words)
    if words:
        raise ConfigError(
            f"{words[0]} is no setting of verify, whose settings are the lock's; allowed: "
            "protocol=, source=, entity=, project="
        )
    protocol, paths = named["protocol"] or _LOCKED.partition("=")[2], StudyPaths()
    runs = read_runs(
        named["source"] or "records",
        protocol,
        paths,
        entity=named["entity"],
        project=named["project"],
    )
    found = verify_protocol(protocol, paths, runs)
    verify_report.show(found, console())
    _say(verify_report.write(found, paths.verdicts_dir(protocol)))
    return found.exit_code


def train(words: list[str]) -> int:
    """Run one cell, or with -m a grid of them, and print their table."""
    settings = [_NO_ARMS, *(word for word in words if word not in _MULTIRUN)]
    if len(settings) <= len(words):
        return _train_grid(settings)
    from opdcliff.compose import GridCell, compose_one
    from opdcliff.settings import load

    config = load(compose_one(settings))
    from rich.console import Console

    from opdcliff.cell_table import print_cells
    from opdcliff.jobs import run_one

    result = run_one(config, StudyPaths(), Console(stderr=True))
    print_cells([GridCell(config, ())], [result], console())
    return 0


def _train_grid(settings: list[str]) -> int:
    from opdcliff.compose import compose_grid

    grid = compose_grid(settings)
    _require_slurm(grid)
    from opdcliff.cell_table import print_cells
    from opdcliff.jobs import run_grid

    results = run_grid(grid, settings, StudyPaths())
    print_cells(grid.cells, results, console())
    failed = [
        f"{' '.join(cell.varied) or 'the cell'} ({result.problem})"
        for cell, result in zip(grid.cells, results, strict=True)
        if result.problem is not None
    ]
    if failed:
        raise StudyIncompleteError(
            f"{len(failed)} of {len(results)} cells have no outcome: {'; '.join(failed)}; run the "
            "same command again to retry them"
        )
    return 0


def calibrate(words: list[str]) -> int:
    """Measure p, b and lambda* of a teacher and a warm start; print and write the table."""
    from opdcliff.compose import compose_one
    from opdcliff.settings import load

    # Nothing is evaluated, so prompts for that need not be there.
    unused = [f"evaluation.{name}=${{data.test}}" for name in ("prompts", "final_prompts")]
    config = load(compose_one([_NO_ARMS, *unused, *words]))
    from opdcliff.calibration_report import report

    folder = report(config, StudyPaths(), console())
    _say(f"written to {folder}")
    return 0


def threshold(words: list[str]) -> int:
    """Print the closed form at given p, b and c."""
    from opdcliff.closed_form import print_thresholds

    print_thresholds(words, console())
    return 0


def config(words: list[str]) -> int:
    """Print the resolved configuration."""
    from omegaconf import OmegaConf

    from opdcliff.compose import compose_one
    from opdcliff.settings import load

    composed = compose_one(words)
    load(composed)
    print(OmegaConf.to_yaml(composed, resolve=True), end="")
    return 0


def _own_word(name: str, words: list[str]) -> tuple[str | None, list[str]]:
    """The value of the verb's own word `name=VALUE`, and the words that are settings."""
    values = [word.partition("=")[2] for word in words if word.startswith(f"{name}=")]
    if len(values) > 1 or "" in values:
        raise ConfigError(f"{name}= takes one value, given once")
    rest = [word for word in words if not word.startswith(f"{name}=")]
    return (values[0] if values else None), rest


def _require_slurm(grid: Grid) -> None:
    if grid.launcher.endswith("SlurmLauncher") and shutil.which("sbatch") is None:
        raise ConfigError(
            "launcher=slurm needs sbatch, which is not here; run on a Slurm login node, or use "
            "launcher=basic or joblib"
        )


def _say(text: str) -> None:
    console().print(text, markup=False, highlight=False, soft_wrap=True)
