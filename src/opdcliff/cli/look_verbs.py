"""Verbs that only look: closed form, settings, memory, figures, the page."""

from __future__ import annotations

from opdcliff.cli.verb import verb
from opdcliff.cli.words import LOCKED, MULTIRUN, NO_ARMS, committed, own_word, paths_of, say
from opdcliff.errors import ConfigError
from opdcliff.terminal import console


@verb(
    "the closed form: opdcliff threshold p=0.99 b=0.5 c=2,5,10",
    """usage: opdcliff threshold p=NUMBER [b=NUMBER] [c=NUMBER] [lam=NUMBER]

lambda*, the clip boundary z_c and the fixed point of one position, from the closed form.
p is the teacher's mass on the modal class, b the warm start's (default 0.5), c the clip strength
(default 5), lam the extrapolation. Each may list several values:
  opdcliff threshold p=0.99 b=0.5 c=2,5,10""",
    settings=False,
)
def threshold(words: list[str]) -> int:
    """Print the closed form at given p, b and c."""
    from opdcliff.cli.threshold_table import print_thresholds

    print_thresholds(words, console())
    return 0


@verb(
    "print the resolved configuration",
    """usage: opdcliff config [group=option] [key.field=value] ...

Prints the resolved configuration of these settings.""",
)
def config(words: list[str]) -> int:
    """Print the resolved configuration."""
    from omegaconf import OmegaConf

    from opdcliff.settings import compose_one, load

    composed = compose_one(words)
    load(composed)
    print(OmegaConf.to_yaml(composed, resolve=True), end="")
    return 0


@verb(
    "memory per GPU before launch, and whether it fits",
    """usage: opdcliff plan [memory_gb=N] [prompt_tokens=N] [group=option] [key.field=value]

Prints what a rank of `train` with these settings will hold, part by part and phase by phase, and
whether that fits. Nothing is loaded: neither data nor weights need be there. memory_gb: memory of
one device in 10^9 bytes (default: this machine's GPU, or its memory shared by the ranks);
prompt_tokens: the longest prompt (default: an estimate). Ends with error 14 if it does not fit:
  opdcliff plan experiment=paper_fine_grid memory_gb=80""",
)
def plan(words: list[str]) -> int:
    """Print the memory of a run per rank, and whether it fits."""
    from opdcliff.planning import report

    prompt, words = own_word("prompt_tokens", words)
    memory_gb, words = own_word("memory_gb", words)
    settings = [NO_ARMS, *(word for word in words if word not in MULTIRUN)]
    report(settings, console(), prompt=prompt, memory_gb=memory_gb)
    return 0


@verb(
    "rebuild the figures from the committed results",
    """usage: opdcliff figures [only=NAME,NAME]

Rebuilds NAME.svg, .png and .csv (the plotted numbers) in runs/results/figures/ from the tables in
results/ and the lock in prereg/mini/; no run is needed. A table that is not committed is looked for
in runs/results/. A figure whose inputs are missing is skipped with a
line that names the command that makes them; with only= that is an error.""",
    settings=False,
)
def figures(words: list[str]) -> int:
    """Rebuild the figures whose inputs are there; those asked for by name must be."""
    from opdcliff.report import build_figures

    paths, words = paths_of(words)
    only, rest = own_word("only", words)
    if rest:
        raise ConfigError(f"{rest[0]} is no setting of figures; allowed: only=NAME,NAME")
    with committed(paths):
        lines = build_figures(paths, None if only is None else only.split(","))
    for line in lines:
        say(line)
    return 0


@verb(
    "one page on a locked protocol, report.html, from the committed results",
    """usage: opdcliff report [protocol=mini]

Writes runs/results/locked/<protocol>/report.html, one self-contained page (verdicts, figures,
calibration, deviations, cells, provenance), and the table runs/results/paper_beside_ours.md, from
committed results alone. Verdicts are first computed again from the committed table; ends with error
12 if they are not those of verdicts.json, 13 if lock or code were changed.""",
    settings=False,
)
def report(words: list[str]) -> int:
    """Write the page on a locked protocol and the table beside the paper's numbers."""
    from opdcliff.report import make_report, write_beside

    paths, words = paths_of(words)
    protocol, rest = own_word("protocol", words)
    if rest:
        raise ConfigError(f"{rest[0]} is no setting of report; allowed: protocol=NAME")
    with committed(paths):
        made = make_report(protocol or LOCKED.partition("=")[2], paths)
    say(f"written to {made.path}{made.note}")
    table = write_beside(paths)
    if table is not None:
        say(f"written to {table}")
    return 0
