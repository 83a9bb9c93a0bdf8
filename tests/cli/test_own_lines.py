"""A user sees our own lines only, in 80 columns; every way to start the command is the command."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from opdcliff.paths import PACKAGE, REPO_ROOT, StudyPaths
from opdcliff.records.files import METRICS
from opdcliff.records.record import read_record
from opdcliff.records.tracking_log import read_offline_run
from opdcliff.report import build_figures as draw
from workshop import SECONDS, Run

COMMAND = str(Path(sys.executable).with_name("opdcliff"))
SIZE = [word for word in SECONDS if word != "tracking=off"]
# The arms of the quick study, with their ends alone.
REST = "multiples: [0.8, 1.25], seeds: [0], estimator: full, warmup_updates: null, updates: null"
ARMS = f"[{{name: fine_grid, clip: c5, {REST}}}, {{name: small_clip, clip: c2, {REST}}}]"
STUDY = ["study", *SIZE, f"protocol.arms={ARMS}"]
# On a slow machine: how far a stage is, and about how long a study takes.
OURS = re.compile(r"[^:]+: \d+/\d+ steps, about \d+ s left.*|.*about \d+ minutes? here.*")
FOREIGN = re.compile(r"\b(WARNING|INFO|DEBUG|ERROR|Warning)\b|\[\d{4}-\d\d-\d\d|accelerator|wandb:")
WITHOUT_DEEPSPEED = """
import sys
from opdcliff.cli import main
code = main(sys.argv[1:])
assert "torch" in sys.modules
assert "deepspeed" not in sys.modules, "a run of one process has no use for it"
sys.exit(code)
"""


def started(folder: Path, *command: str, **variables: str | None) -> tuple[int, str, str]:
    """A command in a process of its own; a variable of None is not set there."""
    left_out = {"OPDCLIFF_RUNS", "COLUMNS", *variables}
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in left_out and not name.startswith("WANDB")
    }
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment | {name: value for name, value in variables.items() if value is not None},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with committed results and the lock of the mini study."""
    folder = tmp_path_factory.mktemp("place")
    for name in ("results", "prereg"):
        shutil.copytree(REPO_ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def study(place: Path) -> tuple[int, str, str]:
    """A study of seconds, whose models, records and tables the other verbs find."""
    return started(place, COMMAND, *STUDY)


VERBS_TRIED = {
    "study": STUDY,
    "train": ["train", *SIZE, "lam.value=1.2"],
    "train a grid": ["train", "-m", *SIZE, "lam.value=1.2,1.3"],
    "calibrate": ["calibrate", *SIZE],
    "plan": ["plan", *SIZE],
    "config": ["config", *SIZE],
    "threshold": ["threshold", "p=0.99,0.4", "b=0.5", "c=2,5"],
    "verify": ["verify", "protocol=mini", "source=table"],
    "figures": ["figures", "only=threshold_surface"],
    "compare": ["compare"],
    "collect": ["collect", "protocol=quick"],
}
# They need nothing of the study, so that `make test` can do without it.
ALONE = ("train", "config", "threshold", "verify", "figures")


@pytest.mark.slow
@pytest.mark.parametrize("name", VERBS_TRIED)
def test_a_verb_prints_its_own_lines_in_80_columns(
    name: str, place: Path, request: pytest.FixtureRequest
) -> None:
    made = None if name in ALONE else request.getfixturevalue("study")
    code, out, err = made if name == "study" else started(place, COMMAND, *VERBS_TRIED[name])
    # 10: the locked mini study is refuted in part. 15: models of seconds reproduce nothing.
    assert code in {"verify": (10,), "compare": (15,)}.get(name, (0,)), err
    errors = [line for line in err.splitlines() if not OURS.fullmatch(line)]
    assert [line for line in errors if not line.startswith("opdcliff: ")] == []
    assert bool(errors) == (name == "compare")
    assert FOREIGN.findall(out) == []
    # Lines that name a path stay whole; so do settings, which are read by programs.
    paths = (str(place), str(PACKAGE))
    long = [line for line in out.splitlines() if len(line) > 80 and not any(map(line.count, paths))]
    assert name == "config" or not long


@pytest.fixture(scope="module")
def homeless(place: Path) -> tuple[int, str, str]:
    """A run without a home, of a command that looks at what it has imported."""
    words = ["train", *SIZE, "lam.value=1.15", "protocol.name=homeless"]
    program = (sys.executable, "-c", WITHOUT_DEEPSPEED)
    return started(place, *program, *words, HOME=None, XDG_CACHE_HOME=None)


def test_a_run_of_one_process_never_imports_deepspeed(homeless: tuple[int, str, str]) -> None:
    code, _, err = homeless
    assert code == 0, err


def test_a_run_without_a_home_prints_nothing_of_its_mirror(
    place: Path, homeless: tuple[int, str, str]
) -> None:
    code, _, err = homeless
    assert code == 0, err
    assert [line for line in err.splitlines() if not OURS.fullmatch(line)] == []
    (folder,) = (place / "runs" / "homeless").iterdir()
    assert read_offline_run(folder).step.tolist() == read_record(folder).history.step.tolist()


@pytest.mark.parametrize("module", ["opdcliff", "opdcliff.cli", "opdcliff.cli.command"])
def test_a_module_started_with_m_is_the_command(module: str, tmp_path: Path) -> None:
    words = ("verify", "protocol=nosuch")
    code, out, err = started(tmp_path, sys.executable, "-m", module, *words)
    assert (code, out) == (12, "")
    assert err.startswith("opdcliff: there are no runs of protocol nosuch")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "words", [("--help",), ("study", "--help"), ("threshold", "p=0.99", "b=0.5", "c=2")]
)
def test_who_reads_no_further_ends_the_command_without_a_word(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    """As `opdcliff --help | head -1` does."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [COMMAND, *words], cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_what_is_to_be_written_is_written_without_a_reader(tmp_path: Path) -> None:
    """As `opdcliff preview | head -1`, which prints its table before it writes files."""
    reader, writer = os.pipe()
    os.close(reader)
    words = ("preview", "debug=seconds", "preview.lams=[1.0]", "preview.strengths=[2.0]")
    done = subprocess.run(
        [COMMAND, *words], cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE, check=False
    )
    os.close(writer)
    assert done.returncode == 141, done.stderr
    assert list(tmp_path.glob("runs/**/preview.json"))


# Asked to go again after the answer, as impatient people and clusters do.
ASKED_TWICE = """
import os, signal, sys
from opdcliff import cli
from opdcliff.cli import command
from opdcliff.errors import PreemptedError

def work(*_):
    raise {"SIGINT": KeyboardInterrupt, "SIGTERM": PreemptedError("asked to stop")}[sys.argv[1]]

command._run = work
code = cli.main(["verify"])
os.kill(os.getpid(), getattr(signal, sys.argv[1]))
sys.exit(code)
"""


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 9)])
def test_who_asks_twice_gets_the_same_exit_code(name: str, code: int, tmp_path: Path) -> None:
    found, out, err = started(tmp_path, sys.executable, "-c", ASKED_TWICE, name)
    assert (found, out) == (code, "")
    assert err.count("\n") == 1


def test_an_output_that_is_full_is_one_line(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [COMMAND, "threshold", "p=0.99"],
            cwd=tmp_path,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 5
    assert done.stderr == (
        "opdcliff: the output: no space left on device; mend that and run the command again\n"
    )


def test_python_without_docstrings_is_one_line(tmp_path: Path) -> None:
    words = (COMMAND, "train", *SECONDS, "lam.value=1.2")
    code, out, err = started(tmp_path, *words, PYTHONOPTIMIZE="2")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "PYTHONOPTIMIZE=2" in err


def test_the_backend_and_the_style_of_the_user_change_no_figure(place: Path) -> None:
    (place / "matplotlibrc").write_text("text.usetex: True\nfont.size: 20\n")
    words = (COMMAND, "figures", "only=geometry")
    code, _, err = started(place, *words, MPLBACKEND="module://matplotlib_inline.backend")
    (place / "matplotlibrc").unlink()
    assert (code, err) == (0, "")
    theirs = place / "runs" / "results" / "figures" / "geometry.png"
    (place / "plain").mkdir()
    draw(StudyPaths(place / "plain", place / "results", place / "prereg"), ["geometry"])
    assert theirs.read_bytes() == next(place.glob("plain/**/geometry.png")).read_bytes()


def test_a_cut_record_is_named_and_moved_away_it_is_run_anew(run: Run, workshop: Path) -> None:
    words = ("train", "-m", *SECONDS, "lam.value=1.0,1.1", "protocol.name=cut")
    assert run(*words).code == 0
    (folder,) = (workshop / "runs" / "cut").glob("c5-lam1.1000*")
    path = folder / METRICS
    path.write_bytes(path.read_bytes()[:50])
    for _ in range(2):
        reply = run(*words)
        assert reply.code == 7
        assert f"{path} was cut after line 0, in the middle of line 1: the run is fin" in reply.line
        assert "restore the file from a copy, or move the folder out of runs/" in reply.line
        assert "once that is mended, run the same command again" in reply.line
    shutil.move(folder, workshop / "away")
    assert run(*words).code == 0
    assert read_record(folder).complete
