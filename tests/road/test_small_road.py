"""The whole road in small: from raw rows and a judge to verdicts and page, by its commands."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from fake_judge import KEY, KEY_VARIABLE, fake_judge
from judge_desk import PROXIES
from opdcliff.models.prepare import prepare
from opdcliff.paths import REPO_ROOT, StudyPaths
from opdcliff.prereg import predictions, windows
from opdcliff.settings.checks import load
from opdcliff.settings.compose import compose_one
from opdcliff.verification import Window
from workshop import SECONDS, Run

COMMIT = "c0ffee" * 6 + "abcd"
ARM = (
    "{{name: {}, clip: {}, multiples: {}, seeds: {}, estimator: full, warmup_updates: 1, "
    "updates: {}}}"
)
ARMS = ",".join(
    (
        ARM.format("fine_grid", "c5", "[0.8,1.0,1.2]", "[0,1]", 4),
        ARM.format("small_clip", "c2", "[0.8,1.0,1.2]", "[0,1]", 4),
        ARM.format("far_below", "c5", "[0.6]", "[0,1]", 4),
    )
)
PILOT = ARM.format("pilot", "c5", "[0.7]", "[1000]", 8)


@pytest.fixture
def words(workshop: Path, fashion: Path) -> list[str]:
    published = workshop / "prereg" / "published"
    if not published.is_dir():
        shutil.copytree(REPO_ROOT / "prereg" / "published", published)
    rows = ["data=amazon_fashion", f"data.path={fashion}", "data.candidates=2"]
    paths = StudyPaths(workshop / "runs", workshop / "results")
    # Stand-ins for two checkpoints that know such lists a little.
    made = prepare(load(compose_one([*SECONDS, *rows])), paths).models
    return [
        *SECONDS,
        "protocol=paper",
        *rows,
        "data.rubric=runs/grades/small.jsonl",
        "data.seed=1",
        *(f"model.{role}={made / role}" for role in ("student", "teacher")),
        "model.tune_loaded_student=true",
        "model.tune_loaded_teacher=true",
        "sft.lora_rank=4",
        "sft.teacher.steps=10",
        "sft.student.steps=10",
        "optim.updates=8",
        "evaluation.every=1",
        "evaluation.collapse_floor=0.0",
        "lam.warmup_updates=1",
        "protocol.name=small",
        f"protocol.arms=[{ARMS}]",
        f"protocol.predictions.pilot=[{PILOT}]",
        "protocol.predictions.extended=[]",
        "protocol.predictions.safe_multiple=0.8",
        "protocol.predictions.exact=false",
        "protocol.predictions.least_seeds=2",
    ]


@pytest.fixture
def lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models of seconds say nothing of a cliff: any window will do, and any commit."""

    def any_window(lo: float, hi: float, derivation: str, lams: list[float]) -> Window:
        return Window(lo=min(lams), hi=max(lams), derivation=derivation)

    for module in (windows, predictions):
        monkeypatch.setattr(module, "checked_window", any_window)
    monkeypatch.setattr("opdcliff.prereg.locking.code_state", lambda: (COMMIT, False))
    # No git here: a lock counts as committed.
    monkeypatch.setattr(
        "opdcliff.road.looking.find_anchor", lambda _: type("A", (), {"problem": None})
    )


def test_each_command_leads_to_the_next_up_to_the_page(
    run: Run, words: list[str], lenient: None, workshop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
    with fake_judge() as judge:
        words += judge.words()
        told = run("status", *words).out
        walked = []
        while (found := re.search(r"^next: opdcliff (.*)$", told, re.MULTILINE)) is not None:
            command = found[1].removesuffix(" ".join(words)).split()
            walked.append(" ".join(command))
            alone = command[-1].startswith("protocol=")
            done = run(*command, *([] if alone else words))
            assert done.code in ((0, 10, 11, 12) if command[0] == "verify" else (0,)), done.err
            told = run("status", "protocol=small").out
            assert len(walked) < 12
    assert walked == [
        "prepare what=lists",
        "grade",
        "prepare what=models",
        "calibrate",
        "predict",
        "lock",
        "confirm",
        "verify protocol=small",
        "report protocol=small",
    ]
    assert "all steps are done" in told
    assert "to do" not in told
    # Published bounds went into the lock, and are compared where there is a verdict.
    sealed = (workshop / "prereg" / "small" / "T1.yaml").read_text()
    assert "published.lo: 1.204 [P]" in sealed
    assert "[choice]" in sealed
    assert (workshop / "runs/results/locked/small/report.html").is_file()
