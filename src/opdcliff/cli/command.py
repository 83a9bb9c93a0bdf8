"""Command line: `opdcliff VERB [hydra overrides]`."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from opdcliff.errors import ConfigError, OpdcliffError
from opdcliff.processes import listening

_HELP_FLAGS = ("-h", "--help", "help")
_INTERRUPTED = 130

USAGE = """usage: opdcliff VERB [group=option] [key.field=value] ...

  study      data -> models -> calibration -> grid of cells -> onset beside the prediction
  train      one run; with -m a grid: opdcliff train -m lam.value=1.0,1.4 clip=c5,c2 seed=0,1
  calibrate  measure p, b and lambda* per token class of a teacher and a warm start
  threshold  the closed form: opdcliff threshold p=0.99 b=0.5 c=2,5,10
  config     print the resolved configuration
  plan       memory per GPU before launch, and whether it fits
  lock       write locked predictions to prereg/<protocol>/
  confirm    run the cells of a lock
  verify     compare runs with the lock: verdicts, report, exit code
  compare    your tables of a study beside the committed ones, number by number
  collect    from a protocol's records to the compact tables that figures need
  figures    rebuild the figures from the committed results
  report     one page on a locked protocol, report.html, from the committed results

opdcliff VERB --help lists the groups and their options; opdcliff --version prints the version."""

VERBS = {
    "study": """usage: opdcliff study [protocol=OPTION] [group=option] [key.field=value] ...

Prepares data and models, measures p and b, trains the cells of protocol.arms, and sets the observed
onset beside lambda*. Finished cells are reused. Says beforehand about how long it takes on this
machine. Writes runs/results/studies/<data.name>/<protocol.name>/.""",
    "train": """usage: opdcliff train [group=option] [key.field=value] ...
       opdcliff train -m key.field=value,value,... [group=option,option,...] ...

One run, e.g. `opdcliff train lam.value=1.2 clip=c2 seed=1`; or with -m every combination of the
listed values. A grid is checked as a whole before its first cell starts, finished cells are reused;
launcher=joblib runs cells side by side, launcher=slurm as Slurm jobs; with dry_run=true that prints
the script for sbatch and submits nothing.
Records go to runs/<protocol.name>/.
Whole grids are ready as experiments: opdcliff train -m experiment=mini_fine_grid""",
    "calibrate": """usage: opdcliff calibrate [group=option] [key.field=value] ...

Measures p and b per token class on the warm start's own answers and prints lambda* at each of
calibration.strengths, and a safe lambda below it. A pair of your own:
  opdcliff calibrate model.student=DIR model.teacher=DIR data=prompts data.path=FILE.jsonl
Writes runs/results/studies/<data.name>/calibration/calibration.csv.""",
    "threshold": """usage: opdcliff threshold p=NUMBER [b=NUMBER] [c=NUMBER] [lam=NUMBER]

lambda*, the clip boundary z_c and the fixed point of one position, from the closed form.
p is the teacher's mass on the modal class, b the warm start's (default 0.5), c the clip strength
(default 5), lam the extrapolation. Each may list several values:
  opdcliff threshold p=0.99 b=0.5 c=2,5,10""",
    "lock": """usage: opdcliff lock [protocol=mini] [supersedes=NAME] [key.field=value] ...

Calibrates, measures a pilot below the cliff, computes the prediction windows and writes
prereg/<protocol.name>/: one YAML file per test, and lock.json, which seals them together with the
settings of every cell and the code of metric and verdict. Commit that folder before `confirm`.
An existing lock is never replaced: lock a new version under another protocol.name.""",
    "confirm": """usage: opdcliff confirm [protocol=mini] [group=option] [key.field=value] ...

Runs the cells of the lock in prereg/<protocol.name>/ with the seeds derived from it. Finished cells
are reused; settings other than the locked ones are refused.""",
    "verify": """usage: opdcliff verify [protocol=mini] [source=records|wandb|wandb_online|table]

Checks lock and records, estimates the onset per seed, and gives each locked test its verdict.
Writes verdicts.json, report.md and cells.csv in runs/results/locked/<protocol>/. source: where
metrics are read from; wandb reads the W&B files in the records' folders, wandb_online the server
(entity=NAME project=NAME), table the committed cells.csv. Exit codes: 0 all confirmed and clean,
10 a refutation, 11 inconclusive, or confirmed and not clean, 12 not run or inadmissible,
13 tampered.""",
    "collect": """usage: opdcliff collect protocol=NAME

Reads the records in runs/<NAME>/ and writes trajectories.csv (every evaluation of every run) and
provenance.json beside the protocol's other results in runs/results/, and cells.csv (the last
evaluation of each run) for a grid of `train -m`, which has no table of its own.""",
    "compare": """usage: opdcliff compare [protocol=quick] [data=mini]

Sets the tables that `study` wrote here, runs/results/studies/<data>/<protocol>/, beside the
committed ones in results/studies/, number by number: the same printed bits, within the tolerance
(docs/reproduction.md), or outside. Writes comparison.csv, .png and .svg there. Ends with error 15
if a number is outside.""",
    "figures": """usage: opdcliff figures [only=NAME,NAME]

Rebuilds NAME.svg, .png and .csv (the plotted numbers) in runs/results/figures/ from the tables in
results/ and the lock in prereg/mini/; no run is needed. A table that is not committed is looked for
in runs/results/. A figure whose inputs are missing is skipped with a
line that names the command that makes them; with only= that is an error.""",
    "report": """usage: opdcliff report [protocol=mini]

Writes runs/results/locked/<protocol>/report.html, one self-contained page (verdicts, figures,
calibration, deviations, cells, provenance), and the table runs/results/paper_beside_ours.md, from
committed results alone. Verdicts are first computed again from the committed table; ends with error
12 if they are not those of verdicts.json, 13 if lock or code were changed.""",
    "config": """usage: opdcliff config [group=option] [key.field=value] ...

Prints the resolved configuration of these settings.""",
    "plan": """usage: opdcliff plan [memory_gb=N] [prompt_tokens=N] [group=option] [key.field=value]

Prints what a rank of `train` with these settings will hold, part by part and phase by phase, and
whether that fits. Nothing is loaded: neither data nor weights need be there. memory_gb: memory of
one device in 10^9 bytes (default: this machine's GPU, or its memory shared by the ranks);
prompt_tokens: the longest prompt (default: an estimate). Ends with error 14 if it does not fit:
  opdcliff plan experiment=paper_fine_grid memory_gb=80""",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code (see opdcliff.errors)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in _HELP_FLAGS:
        print(USAGE)
        return 0 if words else ConfigError.exit_code
    if words[0] == "--version":
        print(f"opdcliff {version('opd-cliff')}")
        return 0
    try:
        with listening():
            return _run(words[0], words[1:])
    except OpdcliffError as error:
        # An error repeats the value at fault.
        from opdcliff.storage import redact_text

        print(f"opdcliff: {redact_text(' '.join(str(error).split()))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(
            "opdcliff: interrupted; finished cells are kept, run the command again to go on",
            file=sys.stderr,
        )
        return _INTERRUPTED


def _run(name: str, words: list[str]) -> int:
    if name not in VERBS:
        near = difflib.get_close_matches(name, VERBS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"verb {name} is unknown; allowed: {', '.join(VERBS)}{hint}")
    if any(word in _HELP_FLAGS[:2] for word in words):
        return _help(name)
    # The heavy libraries are imported by the verb that needs them.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from opdcliff.cli import verbs

    code: int = getattr(verbs, name)(words)
    return code


def _help(name: str) -> int:
    print(VERBS[name])
    if name not in ("threshold", "verify", "collect", "compare", "figures", "report"):
        from opdcliff.settings import print_groups

        print()
        print_groups()
    return 0
