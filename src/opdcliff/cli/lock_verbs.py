"""Verbs of locked predictions: how far one is; lock, run, verify, keep."""

from __future__ import annotations

import contextlib

from opdcliff.cli.verb import verb
from opdcliff.cli.words import (
    LOCKED,
    committed,
    locked_words,
    on_road,
    own_word,
    paths_of,
    refuse_other_checkout,
    say,
    say_code,
    say_unknown_code,
)
from opdcliff.errors import ConfigError
from opdcliff.paths import StudyPaths
from opdcliff.processes import begin_loading
from opdcliff.terminal import console


@verb(
    "how far a protocol is on its road from raw rows to a verdict, and the next command",
    """usage: opdcliff status protocol=NAME
       opdcliff status experiment=NAME [group=option] [key.field=value] ...

Prints each step of the road (lists, grades, models, calibration, prediction, lock, runs, verdicts,
report), whether it is done, cells done, running and failed, device hours spent and about left, and
the next command. Hours are those of the locked cells, pilots apart. Makes nothing. protocol=NAME
alone takes the settings that its last step here was given (kept where protocol.ordered=true).""",
)
def status(words: list[str]) -> int:
    """Print how far a protocol is, and the next command."""
    from opdcliff.road import look, print_road, recall

    paths = StudyPaths()
    named, rest = own_word("protocol", words)
    begun = recall(named, paths) if named is not None and not rest else None
    print_road(look(begun or words, paths), console())
    return 0


@verb(
    "write locked predictions to prereg/<protocol>/",
    """usage: opdcliff lock [protocol=mini] [experiment=NAME] [supersedes=NAME] [field=value] ...

Calibrates, measures a pilot below the cliff, computes the prediction windows and writes
prereg/<protocol.name>/: one YAML file per test, and lock.json, which seals them together with the
settings of every cell and the code of metric and verdict. Commit that folder before `confirm`.
An existing lock is never replaced: lock a new version under another protocol.name.""",
)
def lock(words: list[str]) -> int:
    """Measure a pilot, compute the windows and write a lock."""
    refuse_other_checkout()
    from opdcliff.prereg import make_lock
    from opdcliff.settings import compose_one, load

    supersedes, settings = own_word("supersedes", words)
    config = load(compose_one(locked_words(settings)))
    with on_road("lock", config, settings):
        folder = make_lock(config, StudyPaths(), supersedes=supersedes)
        say(f"locked in {folder}; commit it before the first run, and run `opdcliff confirm`")
    return 0


@verb(
    "run the cells of a lock",
    """usage: opdcliff confirm [protocol=mini] [experiment=NAME] [arm=NAME,...] [field=value] ...

Runs the cells of the lock in prereg/<protocol.name>/ with the seeds derived from it, of bisected
arms those that bisection asks for. arm: these arms alone, all of them unless given. Finished cells
are reused; settings other than the locked ones are refused.""",
)
def confirm(words: list[str]) -> int:
    """Run the cells of a lock that have no outcome yet."""
    refuse_other_checkout()
    begin_loading()
    say_unknown_code()
    from opdcliff.prereg import run_locked
    from opdcliff.settings import compose_one, load

    arms, settings = own_word("arm", words)
    config = load(compose_one(locked_words(settings)))
    with on_road("runs", config, settings):
        run_locked(config, StudyPaths(), only=arms.split(",") if arms else ())
        which = f"runs of {arms}" if arms else "runs"
        name = config.protocol.name
        say(f"all {which} are done; `opdcliff verify protocol={name}` says the rest")
    return 0


@verb(
    "compare runs with the lock: verdicts, report, exit code",
    """usage: opdcliff verify [protocol=mini] [source=records|wandb|wandb_online|table]

Checks lock and records, estimates the onset per seed, and gives each locked test its verdict.
Writes verdicts.json, report.md and cells.csv in runs/results/locked/<protocol>/. source: where
metrics are read from; wandb reads the W&B files in the records' folders, wandb_online the server
(entity=NAME project=NAME), table the committed cells.csv. Exit codes: 0 all confirmed and clean,
10 a refutation, 11 inconclusive, or confirmed and not clean, 12 not run or inadmissible,
13 tampered.""",
    settings=False,
)
def verify(words: list[str]) -> int:
    """Compare runs with a lock: print and write verdicts; returns the exit code of the outcome."""
    refuse_other_checkout()
    from opdcliff.verification import report as report_module
    from opdcliff.verification import runs_of, verify_runs

    paths, words = paths_of(words)
    named = {}
    for name in ("protocol", "source", "entity", "project"):
        named[name], words = own_word(name, words)
    if words:
        raise ConfigError(
            f"{words[0]} is no setting of verify, whose settings are the lock's; allowed: "
            "protocol=, source=, entity=, project="
        )
    protocol, source = named["protocol"] or LOCKED.partition("=")[2], named["source"] or "records"
    with committed(paths) if source == "table" else contextlib.nullcontext():
        runs = runs_of(
            source,
            protocol,
            paths,
            entity=named["entity"],
            project=named["project"],
        )
    found = verify_runs(protocol, paths, runs)
    report_module.print_verification(found, console())
    say_code()
    folders = paths.readable if source == "table" else paths.output
    say(report_module.write_verification(found, folders.locked_dir(protocol)))
    return found.exit_code


@verb(
    "from a protocol's records to the compact tables that figures need",
    """usage: opdcliff collect protocol=NAME

Reads the records in runs/<NAME>/ and writes trajectories.csv (every evaluation of every run) and
provenance.json beside the protocol's other results in runs/results/, and cells.csv (the last
evaluation of each run) for a grid of `train -m`, which has no table of its own.""",
    settings=False,
)
def collect(words: list[str]) -> int:
    """Write the compact tables of a protocol's records that figures are drawn from."""
    from opdcliff.study import collect as collect_protocol

    paths, plain = paths_of(words)
    protocol, rest = own_word("protocol", plain)
    if rest or protocol is None:
        raise ConfigError(
            f"collect takes protocol=NAME, the folder in runs/, and nothing else; given: "
            f"{' '.join(words) or 'nothing'}"
        )
    found = collect_protocol(protocol, paths)
    left = f"; {found.left_out} without an outcome left out" if found.left_out else ""
    say(f"{found.runs} runs written to {found.folder}{left}")
    return 0
