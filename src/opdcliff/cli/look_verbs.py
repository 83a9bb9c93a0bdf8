"""Verbs that train nothing: closed form, calibration, preview, grades, settings, tables, page."""

from __future__ import annotations

from opdcliff.cli.verb import verb
from opdcliff.cli.words import (
    LOCKED,
    MULTIRUN,
    NO_ARMS,
    NO_EVALUATION,
    committed,
    flag,
    on_road,
    own_word,
    paths_of,
    say,
    say_aside,
    say_prompt,
)
from opdcliff.errors import ConfigError
from opdcliff.paths import StudyPaths
from opdcliff.processes import begin_loading
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
    "measure p, b and lambda* per token class of a teacher and a warm start",
    """usage: opdcliff calibrate [group=option] [key.field=value] ...

Measures p and b per token class on the warm start's own answers and prints lambda* at each of
calibration.strengths, how it differs from position to position, and, where one number may stand for
all of them (homogeneous), a safe lambda below it. A pair of your own:
  opdcliff calibrate model.student=DIR model.teacher=DIR data=prompts data.path=FILE.jsonl
Writes calibration.csv, distribution.csv and thresholds.svg, .png, .csv in
runs/results/studies/<data.name>/calibration/.""",
)
def calibrate(words: list[str]) -> int:
    """Measure p, b and lambda* of a teacher and a warm start; print and write the table."""
    from opdcliff.settings import compose_one, load

    paths, words = paths_of(words)
    config = load(compose_one([NO_ARMS, *NO_EVALUATION, *words]))
    from opdcliff.cli.calibration_table import report

    with on_road("calibration", config, words):
        folder = report(config, paths, console())
        say(f"written to {folder}")
    return 0


@verb(
    "parse rates of settled students over lambda, and what breaks, before any run",
    """usage: opdcliff preview [source=table] [preview.lams=[1,1.3,1.6]] [group=option] ...

Samples answers of the student as it would settle at each lambda, at the clip strengths of
preview.strengths and without a clip, by mixing teacher and warm start token by token, and judges
them: parse rate, failures, length, KL to the teacher, the entries whose loss breaks answers, and
the largest lambda at which the rate stays at the teacher's, the warm start's or preview.floor.
Nothing is trained. With protocol=NAME (or an experiment of arms) it samples at the lambdas and
clips of its arms, and sets the rates of its runs beside, if there are any; source=table takes both
from the protocol's committed table. preview.rare=1e-5 holds entries of less mass in the warm start
where they are, as runs do, which matters most without a clip. What was sampled is kept: an
interrupted preview goes on. Writes preview.csv, .json, .png and .svg in a folder of these settings
below runs/results/previews/, beside.csv and onsets.csv where runs are set beside.""",
)
def preview(words: list[str]) -> int:
    """Sample settled students over lambda and say what breaks."""
    paths, words = paths_of(words)
    source, words = own_word("source", words)
    if source not in (None, "table"):
        raise ConfigError(f"source={source} is not allowed; allowed: source=table")
    begin_loading()
    from opdcliff.models import prepare, shown_prompt
    from opdcliff.preview import points_in, seen_in_records, seen_in_table
    from opdcliff.preview import preview as sample_curve
    from opdcliff.settings import compose_one, load
    from opdcliff.terminal import Stage

    # What is set beside, or looked up, was made with the evaluations that it has.
    beside = any(word.startswith(("protocol", "experiment", "preview.margin")) for word in words)
    config = load(compose_one([NO_ARMS, *([] if beside else NO_EVALUATION), *words]))
    seen = None if source is None else seen_in_table(config, paths)
    points = None if seen is None else points_in(seen.table)
    prepared = prepare(config, paths)
    say_prompt(shown_prompt(prepared))
    with Stage("sampling settled students", 1000) as stage:
        found = sample_curve(config, paths, stage.advance_of("preview"), points, prepared)
    if seen is None and config.protocol.arms and config.preview.lams is None:
        seen = seen_in_records(config, paths)
    from opdcliff.cli.preview_table import report

    say(f"written to {report(found, seen, config, paths, console())}")
    return 0


@verb(
    "grades of candidates by a judge behind an API: the rubric file of data.rubric",
    """usage: opdcliff grade data=amazon_fashion data.path=FOLDER grade.base_url=URL
       grade.model=NAME [grade.price_in=NUMBER grade.price_out=NUMBER grade.limit=NUMBER]
       [dry_run=true] [source=table data.rubric=FILE] [grade.other=FILE]
       [group=option] [key.field=value] ...

Asks a judge, any OpenAI-compatible endpoint, for the grades (0 to 4) of every candidate of the
lists of users, and writes them as a rubric file once all lists are graded: grade.out, or else
data.rubric, which need not be there yet. The key is read from the
environment variable grade.key_variable. Every reply is kept when it arrives: an interrupted call
goes on, and one that has all grades asks nothing. Stops with exit code 9 before grade.limit is
passed. Answers that break the schema grade nothing and are counted by reason.
dry_run=true prints the estimated cost and the first request, and asks nothing. Beside the file:
its manifest, and how far the judge agrees with itself, with the stars and with another rubric file
(grade.other); source=table prints these tables for the file data.rubric, and asks nothing. Needs
  pip install 'opd-cliff[judge]'""",
)
def grade(words: list[str]) -> int:
    """Have a judge grade the lists of users, or look at grades that are there."""
    paths, words = paths_of(words)
    dry_run, words = flag("dry_run", words)
    source, words = own_word("source", words)
    if source not in (None, "table") or (source and dry_run):
        raise ConfigError(f"source={source} is not allowed; allowed: source=table, or dry_run=true")
    from opdcliff.settings import compose_one, load

    composed = compose_one([NO_ARMS, *NO_EVALUATION, *words])
    from opdcliff.grading import grade_lists, graded_before, print_grading, print_plan

    if source == "table":
        settings = load(composed)
        print_grading(graded_before(settings, paths), settings, console(), write=False)
        return 0
    # The file that runs will read is made here.
    composed.grade.out = composed.grade.out or composed.data.rubric
    composed.data.rubric = None
    settings = load(composed)
    if dry_run:
        print_plan(grade_lists(settings, paths, say_aside, dry_run=True), console())
        return 0
    with on_road("grades", settings, words):
        found = grade_lists(settings, paths, say_aside, dry_run=False)
        print_grading(found, settings, console(), write=True)
        say(f"written to {found.file}; a run reads it with data.rubric={found.file}")
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
    "your tables of a study beside the committed ones, number by number",
    """usage: opdcliff compare [protocol=quick] [data=mini]

Sets the tables that `study` wrote here, runs/results/studies/<data>/<protocol>/, beside the
committed ones in results/studies/, number by number: the same printed bits, within the tolerance
(docs/reproduction.md), or outside. Writes comparison.csv, .png and .svg there. Ends with error 15
if a number is outside.""",
    settings=False,
)
def compare(words: list[str]) -> int:
    """Set one's own tables of a study beside the committed ones, number by number."""
    from opdcliff.report import compare as compare_study
    from opdcliff.report import print_comparison, write_comparison

    protocol, rest = own_word("protocol", words)
    data, rest = own_word("data", rest)
    if rest:
        raise ConfigError(f"{rest[0]} is no setting of compare; allowed: protocol=NAME, data=NAME")
    name, paths = (data or "mini", protocol or "quick"), StudyPaths()
    with committed(paths):
        found = compare_study(*name, paths)
    folder = paths.own.study_dir(*name)
    write_comparison(found, folder)
    print_comparison(found, console())
    say(f"written to {folder}: comparison.csv, comparison.png, comparison.svg")
    found.raise_if_different()
    say(found.last_line())
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
    for line in build_figures(paths, None if only is None else only.split(",")):
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
