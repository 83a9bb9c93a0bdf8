"""The command line: one-line errors and exit codes, runs and grids at the size of seconds."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from opdcliff.cli.command import VERBS
from opdcliff.errors import OpdcliffError
from opdcliff.records.record import read_record
from opdcliff.records.tracking_log import read_offline_run
from opdcliff.storage.conf_groups import options_of
from opdcliff.study import jobs
from opdcliff.theory.threshold import lambda_star
from workshop import SECONDS, Reply, Run, in_a_process, prepared_pair, write_own_prompts


def metrics(folder: Path) -> pd.DataFrame:
    """What a record measured, without the time it took."""
    history = read_record(folder).history
    return history[[name for name in history if not name.startswith("time/")]]


def only(folder: Path, pattern: str = "*") -> Path:
    (found,) = folder.glob(pattern)
    return found


# ---- a run, from its own process to a second call ---------------------------------------------


@pytest.fixture(scope="module")
def first_run(workshop: Path) -> Reply:
    """One run with all defaults but the size, as a user would start it."""
    return in_a_process(workshop, "train", *SECONDS, "protocol.name=alone", "seed=1")


@pytest.fixture(scope="module")
def pair(first_run: Reply, workshop: Path) -> list[str]:
    """The models of the first run, as a pair of one's own."""
    return prepared_pair(workshop)


def test_one_run_prints_its_cell_and_writes_its_record(first_run: Reply, workshop: Path) -> None:
    assert first_run.code == 0, first_run.err
    assert "1 of 1 cells\n" in first_run.out
    assert first_run.rows() == 1
    record = read_record(only(workshop / "runs" / "alone"))
    assert record.complete
    (star,) = re.findall(r"lambda\* +\S (\S+)", first_run.out)
    assert record.config["resolved_lam"] == pytest.approx(0.9 * float(star), rel=1e-3)
    assert str(workshop / "runs" / "alone") in first_run.out.replace("\n", "")
    assert not list(workshop.glob("*.yaml"))


def test_a_second_call_reuses_the_finished_cell(first_run: Reply, workshop: Path, run: Run) -> None:
    record = only(workshop / "runs" / "alone")
    before = (record / "metrics.jsonl").stat().st_mtime_ns
    again = run("train", *SECONDS, "protocol.name=alone", "seed=1")
    assert again.code == 0
    assert "1 of 1 cells, 1 of them finished before and reused" in again.out
    assert (record / "metrics.jsonl").stat().st_mtime_ns == before


def test_cells_of_a_grid_do_not_leak_into_each_other(
    first_run: Reply, workshop: Path, run: Run
) -> None:
    """The second of two cells in one process measures what it does in a process of its own."""
    reply = run("train", "-m", *SECONDS, "protocol.name=together", "clip=c2,c5", "seed=1")
    assert reply.code == 0, reply.err
    assert reply.rows() == 2
    alone, together = workshop / "runs" / "alone", workshop / "runs" / "together"
    pd.testing.assert_frame_equal(metrics(only(alone)), metrics(only(together, "c5-*")))


def test_mirrors_of_a_grid_are_runs_of_their_own(
    workshop: Path, run: Run, first_run: Reply
) -> None:
    words = [word for word in SECONDS if word != "tracking=off"]
    reply = run("train", "-m", *words, "protocol.name=mirrored", "lam.value=1.0,1.3")
    assert reply.code == 0, reply.err
    for folder in (workshop / "runs" / "mirrored").iterdir():
        history = read_offline_run(folder)
        assert folder.name.startswith(history.attrs["name"])
        assert history.attrs["group"] == "mirrored"
        assert history.step.tolist() == read_record(folder).history.step.tolist()


# ---- grids ------------------------------------------------------------------------------------


def test_a_failing_cell_does_not_stop_the_others(run: Run, first_run: Reply) -> None:
    """Too few prompts leave no threshold; that shows only once the models are there."""
    words = ["train", "-m", *SECONDS, "protocol.name=failing", "calibration.prompts=1,32"]
    reply = run(*words)
    assert reply.code == 7
    assert "1 of 2 cells have no outcome: calibration.prompts=1 (the cal" in reply.line
    assert "1 of 2 cells\n" in reply.out
    assert reply.rows() == 1
    assert "calibration.prompts" in reply.out
    assert "1 of 2 cells, 1 of them finished before and reused" in run(*words).out


def test_cells_side_by_side(run: Run) -> None:
    """Their models are not there yet: one job builds them, in processes of its own."""
    words = ["launcher=joblib", "protocol.name=joblib", "lam.value=1.0,1.2"]
    reply = run("train", "-m", *SECONDS, *ONE_STEP, *words)
    assert reply.code == 0, reply.err
    assert reply.rows() == 2
    assert "Observed onset" in reply.out


def test_slurm_needs_slurm(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    reply = run("train", "-m", *SECONDS, "launcher=slurm", "seed=0,1")
    assert reply.code == 2
    assert "launcher=slurm needs sbatch" in reply.line


def test_a_launcher_that_gives_up_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise RuntimeError("no\nworkers")

    monkeypatch.setattr("opdcliff.study.jobs.launch_grid", stop)
    reply = run("train", "-m", *SECONDS, "seed=0,1", "launcher=joblib")
    assert reply.code == 7
    assert "launcher stopped before all 2 cells were done (RuntimeError: no workers)" in reply.line


# ---- every experiment -------------------------------------------------------------------------


# They make models of their own, in one step each: what those learn is no matter of a command, and
# they need not reach a threshold. The others take multiples of that of the first run's models.
OWN_MODELS = (
    *("amazon_fashion", "near", "near_p98", "near_paper_start", "near_quick"),
    *("near_p99", "near_p99_longer"),
    *("scope_2x", "scope_half", "scope_llama", "scope_ranking_only"),
    *("preview_mini", "preview_mini_small_step", "preview_orders", "preview_titles"),
    *("preview_mini_long", "preview_mini_wide", "preview_near", "preview_orders_long"),
    *("preview_near_large_step", "preview_orders_large"),
    *("titles_onset", "titles_onset_small_step"),
    *("paper", "rehearsal", "smollm2_mini", "smollm2_ranking", "smollm2_titles"),
    "smollm2_titles_mini",
)
ONE_STEP = ("sft.teacher.steps=1", "sft.student.steps=1")


@pytest.mark.slow
@pytest.mark.parametrize("name", options_of("experiment"))
def test_every_experiment_runs(
    name: str, run: Run, pair: list[str], workshop: Path, fashion: Path
) -> None:
    words = ["seed=0"]
    if name in OWN_MODELS:
        words += [*ONE_STEP, "lam.of_threshold=null", "lam.value=1.0,1.5"]
    else:
        words.append("lam.of_threshold=0.9,1.1")
    of_paper = name in ("paper", "paper_fine_grid", "rehearsal")
    of_rows = ("amazon_fashion", "smollm2_ranking", "smollm2_titles", "smollm2_titles_mini")
    if of_paper or name in of_rows:
        words.append(f"data.path={fashion}")
    if name.startswith("smollm2"):
        # In place of SmolLM2; the teacher is tuned from it as well. It has no chat template.
        words += [pair[0], "model.teacher=null", "data.system_prompt=null"]
    if of_paper:
        own = ["engine=single", "engine.ranks=1", "model.dtype=float32", "data.rubric=null"]
        words += [*pair, *own]
    reply = run("train", "-m", f"experiment={name}", *SECONDS, *words)
    assert reply.code == 0, reply.err
    assert reply.rows() == 2
    assert len(list((workshop / "runs" / name).iterdir())) == 2


# ---- calibrate --------------------------------------------------------------------------------


def test_calibrate_the_generated_task(run: Run, first_run: Reply, workshop: Path) -> None:
    reply = run("calibrate", *SECONDS)
    assert reply.code == 0, reply.err
    table = pd.read_csv(workshop / "runs/results/studies/mini/calibration/calibration.csv")
    row = table[table.binding].iloc[0]
    assert row.lambda_star_c5 == pytest.approx(lambda_star(row.p, row.b, 5.0), rel=1e-4)
    # Four digits; a table leaves zeros at the end out.
    assert f" {0.9 * row.lambda_star_c5:.4g} " in reply.out
    assert ("caution: rows of fewer than 16 prompts" in reply.out) == (table.prompts < 16).any()
    # A number that stands for a wide distribution is not called safe.
    homogeneous = "homogeneous: yes" in reply.out
    assert homogeneous != ("homogeneous: no" in reply.out)
    assert ("safe is 0.9 x lambda*" in reply.out) is homogeneous
    assert ("safe lambda" in reply.out) is homogeneous
    for name in ("distribution.csv", "thresholds.csv", "thresholds.svg", "thresholds.png"):
        assert (workshop / "runs/results/studies/mini/calibration" / name).is_file()


def test_calibrate_a_pair_on_prompts_of_ones_own(
    run: Run, pair: list[str], workshop: Path, tmp_path: Path
) -> None:
    file = write_own_prompts(tmp_path / "prompts.jsonl")
    words = [*pair, "data=prompts", f"data.path={file}", "lambda=opd"]
    reply = run("calibrate", *SECONDS, *words)
    assert reply.code == 0, reply.err
    assert "Binding: class text" in reply.out
    assert "safe" not in reply.out
    assert (workshop / "runs/results/studies/prompts/calibration/calibration.csv").is_file()


def test_a_preview_needs_no_prompts_to_evaluate_runs_on(
    run: Run, pair: list[str], tmp_path: Path
) -> None:
    file = write_own_prompts(tmp_path / "prompts.jsonl")
    own = [*pair, "data=prompts", f"data.path={file}", "data.test=1"]
    reply = run("preview", *SECONDS, *own, "preview.lams=[1.0]", "preview.strengths=[5.0]")
    assert reply.code == 0, reply.err
    assert "Settled students" in reply.out


def test_calibrate_says_when_there_is_no_threshold(
    run: Run, first_run: Reply, workshop: Path
) -> None:
    folder = workshop / "runs/results/studies/mini/calibration"
    assert run("calibrate", *SECONDS).code == 0
    assert (folder / "thresholds.png").is_file()
    reply = run("calibrate", *SECONDS, "calibration.prompts=1")
    assert reply.code == 0
    assert "no threshold: " in reply.out
    # What was drawn of other settings does not stand beside this table.
    assert [path.name for path in folder.iterdir()] == ["calibration.csv"]


@pytest.mark.parametrize("wide", [True, False])
def test_a_multiple_of_lambda_star_says_where_it_stands_for_a_wide_distribution(
    wide: bool, run: Run, first_run: Reply, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = jobs.prepare_calibration

    def judged(*of: Any) -> Any:
        found, folder = measure(*of)
        assert found.homogeneity is not None
        return replace(found, homogeneity=replace(found.homogeneity, homogeneous=not wide)), folder

    monkeypatch.setattr(jobs, "prepare_calibration", judged)
    words = [*SECONDS, "protocol.name=multiples"]
    one = run("train", *words, "lambda=safe")
    both = run("train", "-m", *words, "lambda=safe", "lam.of_threshold=0.8,0.9")
    given = run("train", *words, "lam.value=1.2")
    assert (one.code, both.code, given.code) == (0, 0, 0)
    said = [" ".join(reply.out.split()).count("homogeneous: no") for reply in (one, both, given)]
    assert said == ([1, 1, 0] if wide else [0, 0, 0])


# ---- threshold --------------------------------------------------------------------------------


def test_threshold_prints_the_closed_form(run: Run) -> None:
    reply = run("threshold", "p=0.99,0.4", "c=5,2")
    assert reply.code == 0
    assert "1.352001" in reply.out
    assert f"{lambda_star(0.99, 0.5, 2.0):.6f}" in reply.out
    assert reply.out.count("at the cliff") == 2
    assert "lambda* is infinite: the teacher is less sure than the base" in reply.out
    assert reply.out.count(" inf ") == 2


def test_threshold_at_given_lambdas(run: Run) -> None:
    out = run("threshold", "p=0.9", "b=0.5", "c=5", "lam=1,1.8").out
    assert "holds" in out
    assert "gives way" in out


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        ([], 2, "p is missing"),
        (["p=x"], 2, "p=x is not a number"),
        (["p=0.9", "q=3"], 2, "q=3 is unknown; allowed: p="),
        (["p=1.2"], 6, "p = 1.2"),
        (["p=0.9", "c=1"], 6, "c = 1"),
        (["p=nan"], 6, "p = nan"),
    ],
)
def test_threshold_refuses(words: list[str], code: int, part: str, run: Run) -> None:
    reply = run("threshold", *words)
    assert reply.code == code
    assert part in reply.line


# ---- errors at the start ----------------------------------------------------------------------


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> Iterator[Run]:
    """As `run`, in an empty folder that is still empty afterwards."""
    monkeypatch.chdir(tmp_path)
    yield run
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["trian"], "verb trian is unknown; allowed: study, train,"),
        (["train", "lam.value=-1"], "lam.value=-1.0 is not allowed"),
        (["train", "clip.strength=1"], "clip strength 1.0"),
        (["train", "clip=c7"], "clip=c7 is unknown; allowed: aspo, c1p5, c2"),
        (["train", "lamm.value=1"], "no setting lamm.value"),
        (["train", "lam.value=1.0,1.2"], "train -m lam.value=1.0,1.2"),
        (["train", "experiment=mini_ppo"], "this is a grid over"),
        (["train", "data.path=/nowhere"], "data.path=/nowhere does not exist"),
        (["train", "-m", "lam.value=1.2,-1"], "lam.value=-1.0 is not allowed"),
        (["train", "-m", "clip=c5,c7", "seed=0,1"], "clip=c7 is unknown"),
        (["train", "-m", "lam.value=1.2,x"], "lam.value=x is not a number"),
        (["train", "-m", "model=tiny,qwen3_1p7b"], "model.student=Qwen/Qwen3-1.7B is no folder"),
        (["calibrate", "calibration.strengths=[1]"], "calibration.strengths=[1.0]"),
        (["calibrate", "model.student=/nowhere"], "model.student=/nowhere is no folder"),
        (["config", "rollout.temperature=0"], "rollout.temperature=0.0"),
        (["study", "protocol=grid"], "protocol.arms of protocol=grid is empty"),
        (["study", "clip=c2"], "clip=c2 has no effect on a study"),
        (["study", "seed=1"], "seed=1 has no effect on a study"),
        (["study", "protocol.arms=[{clip: c7}]"], "protocol.arms[0].name is missing"),
        (["study", "protocol.arms=[{name: a, clip: c7}]"], "protocol.arms[0].multiples is missing"),
        (["study", "--fast"], "--fast is unknown"),
        (["lock", "protocol=quick"], "protocol=quick has no predictions to lock"),
        (["fetch"], "fetch nothing is not allowed; allowed: smollm2"),
        (["fetch", "smollm2", "model=tiny"], "fetch smollm2 model=tiny is not allowed"),
        (["fetch", "smollm2", "out="], "out= takes one value, given once"),
        (["lock", "supersedes=a", "supersedes=b"], "supersedes= takes one value, given once"),
        (
            ["lock", "protocol.predictions.least_seeds=1"],
            "predictions.least_seeds=1 is not allowed",
        ),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(
    words: list[str], part: str, elsewhere: Run
) -> None:
    reply = elsewhere(*words)
    assert reply.code == 2
    assert part in reply.line
    assert not reply.out


def test_nothing_is_confirmed_without_a_lock(elsewhere: Run) -> None:
    reply = elsewhere("confirm")
    assert reply.code == 12
    assert "nothing is locked there; `opdcliff lock` makes it" in reply.line
    assert not reply.out


def test_a_bad_cell_in_a_process_of_its_own(tmp_path: Path) -> None:
    reply = in_a_process(tmp_path, "train", "-m", "lam.value=1.2,0.5,-3", "seed=0,1")
    assert reply.code == 2
    assert "lam.value=-3.0 is not allowed; allowed: a number >= 0 (in the cell" in reply.line
    assert not reply.out
    assert not list(tmp_path.iterdir())


def subclasses(kind: type[OpdcliffError]) -> Sequence[type[OpdcliffError]]:
    return [kind, *(sub for child in kind.__subclasses__() for sub in subclasses(child))]


@pytest.mark.parametrize("kind", subclasses(OpdcliffError))
def test_every_error_has_its_exit_code(
    kind: type[OpdcliffError], elsewhere: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(words: list[str]) -> int:
        raise kind("two\nlines")

    monkeypatch.setitem(VERBS, "config", replace(VERBS["config"], run=fail))
    reply = elsewhere("config")
    assert reply.code == kind.exit_code
    assert reply.line == "opdcliff: two lines\n"


def test_an_interrupt_says_that_cells_are_kept(
    elsewhere: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(words: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setitem(VERBS, "config", replace(VERBS["config"], run=stop))
    reply = elsewhere("config")
    assert reply.code == 130
    assert "finished cells are kept" in reply.line


# ---- help -------------------------------------------------------------------------------------


def test_usage_and_version(elsewhere: Run) -> None:
    assert elsewhere().code == 2
    assert elsewhere("--help").code == 0
    assert elsewhere("--help").out.startswith("usage: opdcliff VERB")
    assert elsewhere("--version").out.startswith("opdcliff 0.")


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_help_of_a_verb(verb: str, elsewhere: Run) -> None:
    reply = elsewhere(verb, "lam.value=-1", "--help")
    assert reply.code == 0
    assert reply.out.startswith(f"usage: opdcliff {verb}")
    # The others take no settings of a run.
    if VERBS[verb].settings:
        for word in ("mini_fine_grid", "c5*", "A margin below the calibrated cliff."):
            assert word in reply.out


def test_config_prints_every_field_resolved(elsewhere: Run) -> None:
    out = elsewhere("config", "clip=c2", "seed=3").out
    assert "seed: 3" in out
    assert "name: c2" in out
    assert "${" not in out


def test_help_and_threshold_start_without_the_heavy_libraries(tmp_path: Path) -> None:
    program = (
        "import sys; from opdcliff.cli.command import main; main(['train', '--help']); "
        "assert 'pandas' not in sys.modules; main(['threshold', 'p=0.9']); "
        "assert not {'torch', 'transformers', 'hydra'} & sys.modules.keys()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
