"""What each verb of the command line does; heavy libraries are imported by the verb itself."""

from __future__ import annotations

from opdcliff.errors import ConfigError
from opdcliff.paths import StudyPaths
from opdcliff.terminal import console

_MULTIRUN = ("-m", "--multirun")
# The verbs whose cells are named on the command line have no arms.
_NO_ARMS = "protocol=grid"
# The protocol that is locked and confirmed unless another one is named.
_LOCKED = "protocol=mini"
_DRY_RUN_NEEDS = (
    "prints the script of a grid that goes to Slurm; use `opdcliff train -m ... launcher=slurm`"
)
# A study's arms set these; on its command line they would do nothing.
_SET_BY_ARMS = ("clip", "seed", "lam.value", "lam.of_threshold")


def study(words: list[str]) -> int:
    """Run or finish a study and print its tables."""
    paths, words = _paths(words)
    from opdcliff.report import draw_study
    from opdcliff.settings import compose_one, load
    from opdcliff.study import incomplete, print_summary, run_study

    for word in words:
        name = word.partition("=")[0]
        if name in _SET_BY_ARMS or name.startswith("clip."):
            raise ConfigError(
                f"{word} has no effect on a study: protocol.arms sets it; change protocol.arms, or "
                "use `opdcliff train`"
            )
    result = run_study(load(compose_one(words)), paths, _say_aside)
    draw_study(result.summary, result.folder)
    if result.failures:
        raise incomplete(result.failures, result.cells)
    out = console()
    print_summary(result.summary, out)
    _say(f"written to {result.folder}")
    return 0


def lock(words: list[str]) -> int:
    """Measure a pilot, compute the windows and write a lock."""
    from opdcliff.prereg import make_lock
    from opdcliff.settings import compose_one, load

    supersedes, settings = _own_word("supersedes", words)
    folder = make_lock(load(compose_one([_LOCKED, *settings])), StudyPaths(), supersedes=supersedes)
    _say(f"locked in {folder}; commit it before the first run, and run `opdcliff confirm`")
    return 0


def confirm(words: list[str]) -> int:
    """Run the cells of a lock that have no outcome yet."""
    from opdcliff.prereg import run_locked
    from opdcliff.settings import compose_one, load

    config = load(compose_one([_LOCKED, *words]))
    run_locked(config, StudyPaths())
    _say(
        f"all cells are done; `opdcliff verify protocol={config.protocol.name}` says what they say"
    )
    return 0


def verify(words: list[str]) -> int:
    """Compare runs with a lock: print and write verdicts; returns the exit code of the outcome."""
    from opdcliff.verification import read_runs
    from opdcliff.verification import report as report_module
    from opdcliff.verification import verify as verify_protocol

    paths, words = _paths(words)
    named = {}
    for name in ("protocol", "source", "entity", "project"):
        named[name], words = _own_word(name, words)
    if words:
        raise ConfigError(
            f"{words[0]} is no setting of verify, whose settings are the lock's; allowed: "
            "protocol=, source=, entity=, project="
        )
    protocol, source = named["protocol"] or _LOCKED.partition("=")[2], named["source"] or "records"
    runs = read_runs(
        source,
        protocol,
        paths,
        entity=named["entity"],
        project=named["project"],
    )
    found = verify_protocol(protocol, paths, runs)
    report_module.print_verification(found, console())
    folders = paths.readable if source == "table" else paths.output
    _say(report_module.write_verification(found, folders.locked_dir(protocol)))
    return found.exit_code


def collect(words: list[str]) -> int:
    """Write the compact tables of a protocol's records that figures are drawn from."""
    from opdcliff.study import collect as collect_protocol

    paths, plain = _paths(words)
    protocol, rest = _own_word("protocol", plain)
    if rest or protocol is None:
        raise ConfigError(
            f"collect takes protocol=NAME, the folder in runs/, and nothing else; given: "
            f"{' '.join(words) or 'nothing'}"
        )
    found = collect_protocol(protocol, paths)
    left = f"; {found.left_out} without an outcome left out" if found.left_out else ""
    _say(f"{found.runs} runs written to {found.folder}{left}")
    return 0


def figures(words: list[str]) -> int:
    """Rebuild the figures whose inputs are there; those asked for by name must be."""
    from opdcliff.report import build_figures

    paths, words = _paths(words)
    only, rest = _own_word("only", words)
    if rest:
        raise ConfigError(f"{rest[0]} is no setting of figures; allowed: only=NAME,NAME")
    for line in build_figures(paths, None if only is None else only.split(",")):
        _say(line)
    return 0


def report(words: list[str]) -> int:
    """Write the page on a locked protocol and the table beside the paper's numbers."""
    from opdcliff.report import make_report, write_beside

    paths, words = _paths(words)
    protocol, rest = _own_word("protocol", words)
    if rest:
        raise ConfigError(f"{rest[0]} is no setting of report; allowed: protocol=NAME")
    made = make_report(protocol or _LOCKED.partition("=")[2], paths)
    _say(f"written to {made.path}{made.note}")
    table = write_beside(paths)
    if table is not None:
        _say(f"written to {table}")
    return 0


def compare(words: list[str]) -> int:
    """Set one's own tables of a study beside the committed ones, number by number."""
    from opdcliff.report import compare as compare_study
    from opdcliff.report import print_comparison, write_comparison

    protocol, rest = _own_word("protocol", words)
    data, rest = _own_word("data", rest)
    if rest:
        raise ConfigError(f"{rest[0]} is no setting of compare; allowed: protocol=NAME, data=NAME")
    name, paths = (data or "mini", protocol or "quick"), StudyPaths()
    found, folder = compare_study(*name, paths), paths.own.study_dir(*name)
    write_comparison(found, folder)
    print_comparison(found, console())
    _say(f"written to {folder}: comparison.csv, comparison.png, comparison.svg")
    found.raise_if_different()
    _say(found.last_line())
    return 0


def train(words: list[str]) -> int:
    """Run one cell, or with -m a grid of them, and print their table."""
    dry_run, words = _flag("dry_run", words)
    settings = [_NO_ARMS, *(word for word in words if word not in _MULTIRUN)]
    if len(settings) <= len(words):
        return _train_grid(settings, dry_run)
    if dry_run:
        raise ConfigError(f"dry_run=true {_DRY_RUN_NEEDS}")
    from opdcliff.settings import GridCell, compose_one, load

    config = load(compose_one(settings))
    from rich.console import Console

    from opdcliff.study import print_cells, run_one

    result = run_one(config, StudyPaths(), Console(stderr=True))
    print_cells([GridCell(config, ())], [result], console())
    return 0


def _train_grid(settings: list[str], dry_run: bool) -> int:
    from opdcliff.settings import compose_grid
    from opdcliff.study import check_slurm, is_slurm, launcher_settings, sbatch_script

    grid = compose_grid(settings)
    if is_slurm(grid):
        check_slurm(grid, launcher_settings(settings), submit=not dry_run)
    elif dry_run:
        raise ConfigError(f"dry_run=true {_DRY_RUN_NEEDS}")
    from opdcliff.study import incomplete, print_cells, run_grid, sweep_words

    if dry_run:
        words = sweep_words(settings, StudyPaths())
        print(sbatch_script(launcher_settings(words), len(grid.cells)), end="")
        return 0
    results = run_grid(grid, settings, StudyPaths())
    print_cells(grid.cells, results, console())
    failed = {
        " ".join(cell.varied) or "the cell": result.problem
        for cell, result in zip(grid.cells, results, strict=True)
        if result.problem is not None
    }
    if failed:
        raise incomplete(failed, len(results))
    return 0


def calibrate(words: list[str]) -> int:
    """Measure p, b and lambda* of a teacher and a warm start; print and write the table."""
    from opdcliff.settings import compose_one, load

    paths, words = _paths(words)
    # Nothing is evaluated, so prompts for that need not be there.
    unused = [f"evaluation.{name}=${{data.test}}" for name in ("prompts", "final_prompts")]
    config = load(compose_one([_NO_ARMS, *unused, *words]))
    from opdcliff.cli.calibration_table import report

    folder = report(config, paths, console())
    _say(f"written to {folder}")
    return 0


def threshold(words: list[str]) -> int:
    """Print the closed form at given p, b and c."""
    from opdcliff.cli.threshold_table import print_thresholds

    print_thresholds(words, console())
    return 0


def config(words: list[str]) -> int:
    """Print the resolved configuration."""
    from omegaconf import OmegaConf

    from opdcliff.settings import compose_one, load

    composed = compose_one(words)
    load(composed)
    print(OmegaConf.to_yaml(composed, resolve=True), end="")
    return 0


def plan(words: list[str]) -> int:
    """Print the memory of a run per rank, and whether it fits."""
    from opdcliff.planning import report

    prompt, words = _own_word("prompt_tokens", words)
    memory_gb, words = _own_word("memory_gb", words)
    settings = [_NO_ARMS, *(word for word in words if word not in _MULTIRUN)]
    report(settings, console(), prompt=prompt, memory_gb=memory_gb)
    return 0


def _own_word(name: str, words: list[str]) -> tuple[str | None, list[str]]:
    """The value of the verb's own word `name=VALUE`, and the words that are settings."""
    values = [word.partition("=")[2] for word in words if word.startswith(f"{name}=")]
    if len(values) > 1 or "" in values:
        raise ConfigError(f"{name}= takes one value, given once")
    rest = [word for word in words if not word.startswith(f"{name}=")]
    return (values[0] if values else None), rest


def _paths(words: list[str]) -> tuple[StudyPaths, list[str]]:
    """Where the verb reads and writes, and the words that are settings."""
    renew, rest = _flag("renew_committed", words)
    return StudyPaths(renew=renew), rest


def _flag(name: str, words: list[str]) -> tuple[bool, list[str]]:
    value, rest = _own_word(name, words)
    if value not in (None, "true", "false"):
        raise ConfigError(f"{name}={value} is not true or false")
    return value == "true", rest


def _say_aside(text: str) -> None:
    """To where progress is shown, not among the results."""
    from rich.console import Console

    Console(stderr=True).print(text, markup=False, highlight=False, soft_wrap=True)


def _say(text: str) -> None:
    console().print(text, markup=False, highlight=False, soft_wrap=True)
