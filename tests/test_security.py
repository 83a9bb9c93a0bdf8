"""Attacks from where a user stands: the command line, model folders, links, and whole runs.

As `python -m test_security JOB` this module is a rank that prints and raises a secret.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from opdcliff.cli import command
from opdcliff.errors import ConfigError, EngineError
from opdcliff.models.load import build
from opdcliff.models.prepare import Prepared
from opdcliff.models.tokens.train_bpe import train_bpe
from opdcliff.paths import StudyPaths
from opdcliff.processes import rank
from opdcliff.records.record import read_record
from opdcliff.settings.checks import load
from opdcliff.settings.compose import compose_one
from opdcliff.settings.grid import compose_grid
from opdcliff.settings.schema import ArchConfig
from opdcliff.study.cells import RANKS_LOG, Cell, run_cell
from opdcliff.training import ranks
from opdcliff.training.job import Job
from places import HELPERS

SECONDS = ("debug=seconds", "tracking=off", "engine.device=cpu", "lam.value=1.0")
SECRET = "5ecret0123456789abcdef0123456789abcdef01"
SECRET_NAMES = ("WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Run]:
    """Calls the command line in an empty folder; returns exit code and all that was printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPDCLIFF_RUNS", raising=False)

    def call(*words: str) -> tuple[int, str]:
        capsys.readouterr()
        code = command.main(words)
        return code, "".join(capsys.readouterr())

    return call


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def leaks(folder: Path, *texts: str) -> list[str]:
    """The files that hold one of the texts, or have it in their name."""
    return [
        f"{text} in {path}"
        for path in files(folder)
        for text in texts
        if text in str(path.relative_to(folder)) or text.encode() in path.read_bytes()
    ]


# ---- settings that would run code, or write elsewhere ------------------------------------------

TOUCH = "[touch,PWNED]"
ATTACKS = [
    "hydra.launcher._target_=os.system",
    f"+hydra.launcher.x={{_target_:subprocess.Popen,args:{TOUCH}}}",
    "+hydra.launcher.x='${oc.decode:\"{a:1}\"}'",
    "hydra.sweeper._target_=os.system",
    "hydra.sweeper.params={seed:'1,2'}",
    "+hydra.callbacks.x._target_=pathlib.Path",
    f"hydra.callbacks={{x:{{_target_:subprocess.Popen,args:{TOUCH}}}}}",
    f"hydra.job_logging={{version:1,handlers:{{x:{{class:subprocess.Popen,args:{TOUCH}}}}}}}",
    f"+hydra.hydra_logging.handlers={{x:{{class:subprocess.Popen,args:{TOUCH}}}}}",
    "hydra/job_logging=default",
    "+clip@hydra.callbacks.x=c2",
    "+clip@_global_.hydra.job=c2",
    "+hydra.job.env_set.PATH=.",
    "hydra.job.chdir=true",
    "hydra.run.dir=PWNED",
    "hydra.sweep.dir=PWNED",
    "hydra.output_subdir=PWNED",
    "hydra.searchpath=[file://PWNED]",
    "~hydra.sweeper",
    "++hydra={}",
    "+x._target_=os.system",
    "+data._target_=os.system",
    "model.arch={_target_:os.system}",
    "--config-dir=.",
    "--config-path=.",
    "--config-name=x",
]


@pytest.mark.parametrize("word", ATTACKS)
@pytest.mark.parametrize("multirun", [(), ("-m", "seed=0,1")], ids=["one", "grid"])
def test_a_setting_that_names_code_or_a_folder_is_refused_unread(
    word: str, multirun: tuple[str, ...], elsewhere: Run, tmp_path: Path
) -> None:
    code, printed = elsewhere("train", *multirun, *SECONDS, word)
    assert code == 2, printed
    assert printed.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("launcher", ["joblib", "basic"])
def test_a_launcher_keeps_its_plain_fields(launcher: str) -> None:
    words = [f"launcher={launcher}", "protocol=grid", "seed=0,1"]
    words += ["hydra.launcher.n_jobs=1"] * (launcher == "joblib")
    assert len(compose_grid(words).cells) == 2


# ---- paths ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", "a/b"])
@pytest.mark.parametrize("verb", ["train", "study", "confirm", "lock", "verify", "calibrate"])
def test_a_name_that_leaves_its_folder_is_refused(
    verb: str, name: str, elsewhere: Run, tmp_path: Path
) -> None:
    word = f"protocol={name}" if verb == "verify" else f"protocol.name='{name}'"
    code, printed = elsewhere(verb, word)
    assert code == 2, printed
    assert "not usable in a path" in printed
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("verb", "link", "words"),
    [
        ("train", "runs/out", ("protocol.name=out",)),
        ("train", "runs/assets", ("protocol.name=out",)),
        ("confirm", "prereg/out", ("protocol=grid", "protocol.name=out")),
    ],
)
def test_a_link_out_of_the_folder_is_refused(
    verb: str, link: str, words: tuple[str, ...], elsewhere: Run, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / link).parent.mkdir()
    (tmp_path / link).symlink_to(outside)
    code, printed = elsewhere(verb, *SECONDS, *words)
    assert code == 2, printed
    assert "symbolic link" in printed
    assert not list(outside.iterdir())


@pytest.mark.usefixtures("no_git")
@pytest.mark.parametrize("name", ["run.lock", "metrics.jsonl", RANKS_LOG, "wandb"])
def test_a_link_inside_a_record_is_not_written_through(name: str, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("kept")
    cell = Cell(load(compose_one(["protocol=grid", *SECONDS])), 1.0, "test")
    prepared, paths = Prepared(tmp_path, tmp_path, "none"), StudyPaths(tmp_path / "runs")
    folder = cell.folder(prepared, paths)
    folder.mkdir(parents=True)
    (folder / name).symlink_to(precious)
    with pytest.raises(ConfigError, match="symbolic link"):
        run_cell(cell, prepared, paths)
    assert precious.read_text() == "kept"


# ---- model folders ----------------------------------------------------------------------------


class _Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("PWNED",)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tokenizer = train_bpe(["bought hat\nA liked boots\n"], 270)
    arch = ArchConfig(
        family="qwen3",
        hidden_size=16,
        intermediate_size=24,
        layers=1,
        heads=2,
        kv_heads=1,
        head_dim=8,
        max_positions=256,
    )
    build(arch, tokenizer, 0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(_Bomb()))


def _pickled_under_another_name(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(pickle.dumps(_Bomb()))


def _with_code(folder: Path) -> None:
    (folder / "evil.py").write_text("import os\nos.mkdir('PWNED')\n")
    config = json.loads((folder / "config.json").read_text())
    remote = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    changed = config | {"model_type": "evil", "auto_map": remote}
    (folder / "config.json").write_text(json.dumps(changed))


@pytest.mark.parametrize("verb", ["train", "calibrate"])
@pytest.mark.parametrize("harm", [_pickled, _pickled_under_another_name, _with_code])
def test_a_model_folder_that_holds_code_is_refused_unrun(
    verb: str,
    harm: Callable[[Path], None],
    model_folder: Path,
    elsewhere: Run,
    tmp_path: Path,
) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    for file in model_folder.iterdir():
        (bad / file.name).write_bytes(file.read_bytes())
    harm(bad)
    code, printed = elsewhere(verb, *SECONDS, f"model.student={bad}", f"model.teacher={bad}")
    assert code == 4, printed
    assert re.search(r"cannot load the (student|configuration)", printed)
    assert not list(tmp_path.rglob("PWNED"))


# ---- secrets ----------------------------------------------------------------------------------


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> str:
    """In the environment under a name that says so, and nowhere else."""
    for name in SECRET_NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN", SECRET)
    return SECRET


@pytest.mark.parametrize(
    "word",
    [
        "tracking.project=${oc.env:HF_TOKEN}",
        "tracking.project='x${oc.env:HF_TOKEN}'",
        "protocol.name=${oc.decode:${oc.env:HF_TOKEN}}",
        "data.path=${oc.env:HF_TOKEN,none}",
        f"tracking.project={SECRET}",
        f"tracking.project=https://me:{SECRET}@host",
        f"protocol.name={SECRET}",
        f"protocol.name={'x' * 40}{SECRET}",
        f"clip.name={SECRET}",
        f"data.path=/{SECRET}",
        f"model.student={SECRET}/x",
        f"protocol.arms=[{{name: {SECRET}, clip: c5, multiples: [1.0], seeds: [0], "
        "estimator: null, warmup_updates: null, updates: null}]",
        f"seed={SECRET}",
        f"lam.value=[{SECRET}",
        f"clip={SECRET}",
        f"lam.{SECRET}=1",
        f"+tracking.api_key={SECRET}",
        f"hydra.job.name={SECRET}",
        f"--{SECRET}",
    ],
)
@pytest.mark.parametrize("verb", ["config", "train"])
def test_a_secret_in_a_setting_is_refused_and_not_repeated(
    word: str, verb: str, secret: str, elsewhere: Run, tmp_path: Path
) -> None:
    code, printed = elsewhere(verb, word)
    assert code == 2, printed
    assert printed.count("\n") == 1
    assert secret not in printed
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [(SECRET,), ("threshold", f"p={SECRET}"), ("verify", SECRET)])
def test_a_secret_in_a_mistake_is_not_repeated(
    words: tuple[str, ...], secret: str, elsewhere: Run
) -> None:
    code, printed = elsewhere(*words)
    assert code == 2
    assert "***" in printed
    assert secret not in printed


def test_the_environment_stays_out_when_a_setting_spells_a_reference_out(tmp_path: Path) -> None:
    """A text that only looks like a reference must not become one when a rank reads its job."""
    config = load(compose_one(["protocol=grid", *SECONDS, r"tracking.project='\${oc.env:HOME}'"]))
    assert config.tracking.project == "${oc.env:HOME}"
    job = Job(config, 1.0, Prepared(tmp_path, tmp_path, "none"))
    job.write(tmp_path / "job.yaml")
    with pytest.raises(ConfigError, match="refers to a value outside"):
        Job.read(tmp_path / "job.yaml")


def _tell_the_secret(job: Path, tell: Callable[..., None]) -> None:
    print("printed", os.environ["HF_TOKEN"], flush=True)
    # Cut to the length that the parent takes, this ends in the middle of the secret.
    raise RuntimeError("x" * (rank._LONGEST_ERROR - 30) + os.environ["HF_TOKEN"])


@pytest.mark.multirank
@pytest.mark.usefixtures("no_git")
def test_a_secret_that_ranks_print_and_raise_is_in_no_file(
    tmp_path: Path, secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "PYTHONPATH", f"{HELPERS}{os.pathsep}{Path(__file__).parent}", prepend=os.pathsep
    )
    monkeypatch.setattr(ranks, "RANK_MODULE", "test_security")
    words = ["debug=seconds", "engine=zero2", "engine.ranks=2", "engine.device=cpu", "lam.value=1"]
    cell = Cell(load(compose_one(["protocol=grid", *words])), 1.0, "test")
    models = tmp_path / "models"
    models.mkdir()
    prepared, paths = Prepared(models, models, "none"), StudyPaths(tmp_path / "runs")
    with pytest.raises(EngineError) as caught:
        run_cell(cell, prepared, paths)
    folder = cell.folder(prepared, paths)
    assert "printed ***" in (folder / RANKS_LOG).read_text()
    assert read_record(folder).status == "failed"
    assert list(folder.rglob("*.wandb"))
    assert secret[:8] not in str(caught.value)
    assert not leaks(tmp_path, secret[:8])


# ---- a whole study, by a user with keys, in a checkout with a remote ----------------------------

REST = "estimator: null, warmup_updates: null, updates: null"
ARM = f"[{{name: c5, clip: c5, multiples: [0.8], seeds: [0], {REST}}}]"
# W&B would take these from the environment, each of them the opposite of what is wanted.
CURIOUS = {
    "WANDB_SAVE_CODE": "true",
    "WANDB_DISABLE_CODE": "false",
    "WANDB_DISABLE_GIT": "false",
    "WANDB_CONSOLE": "wrap",
}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A checkout after a study with all defaults but the size, and what the study printed."""
    folder = tmp_path_factory.mktemp("checkout")
    remote = f"https://me:{SECRET}@example.invalid/repo.git"
    who = ("-c", "user.name=Unmistakable", "-c", "user.email=me@example.invalid")
    (folder / "notes.txt").write_text("before\n")
    for words in (
        ("init", "-q"),
        ("remote", "add", "origin", remote),
        ("add", "."),
        (*who, "commit", "-q", "-m", "unmistakable message"),
    ):
        subprocess.run(["git", "-C", str(folder), *words], check=True)
    (folder / "notes.txt").write_text("unmistakable difference\n")
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "OPDCLIFF"))}
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("opdcliff")),
            *("study", "debug=seconds", "engine.device=cpu", f"protocol.arms={ARM}"),
        ],
        cwd=folder,
        env={**plain, **CURIOUS, **dict.fromkeys(SECRET_NAMES, SECRET)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stdout + done.stderr


def test_no_key_of_the_user_is_in_any_file_or_on_the_screen(workplace: tuple[Path, str]) -> None:
    folder, printed = workplace
    for part in ("runs", "runs/results"):
        assert files(folder / part)
        assert not leaks(folder / part, SECRET)
    assert SECRET not in printed


def test_the_mirror_takes_no_code_difference_or_name_along(workplace: tuple[Path, str]) -> None:
    folder = workplace[0]
    (mirror,) = (folder / "runs").rglob("wandb")
    assert [path.suffix for path in files(mirror)].count(".wandb") == 1
    assert not leaks(folder / "runs", "nmistakable", "example.invalid")
    names = {path.name for path in files(mirror)}
    assert not names & {"wandb-metadata.json", "requirements.txt", "diff.patch", "output.log"}
    assert not [path for path in files(mirror) if "code" in path.parts]


if __name__ == "__main__":
    rank._train = _tell_the_secret
    rank.main(Path(sys.argv[1]))
