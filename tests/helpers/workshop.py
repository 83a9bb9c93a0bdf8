"""The command line in this process or another, and a pair of models of seconds to call it with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from opdcliff.data.answer_style import AnswerStyle
from opdcliff.data.answers import draw_answer
from opdcliff.data.mini import SplitSizes, generate
from opdcliff.models.prepare import prepare
from opdcliff.paths import StudyPaths
from opdcliff.settings.checks import load
from opdcliff.settings.compose import compose_one

SECONDS = ["debug=seconds", "tracking=off", "engine.device=cpu"]
DONE = ("finished", "collapsed")
TABLE_EDGE = "\N{BOX DRAWINGS LIGHT VERTICAL}"
# Prompts that `debug=seconds` takes.
OWN_SIZES = SplitSizes(64, 32, 16)


@dataclass(frozen=True)
class Reply:
    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The one line of an error."""
        assert self.err.count("\n") == 1, self.err
        assert self.err.startswith("opdcliff: ")
        return self.err

    def rows(self) -> int:
        """Cells in the closing table."""
        lines = [line for line in self.out.split("\n") if line.startswith(TABLE_EDGE)]
        return sum(any(f" {status} " in line for status in DONE) for line in lines)


Run = Callable[..., Reply]


def in_a_process(folder: Path, *words: str) -> Reply:
    """The command as a user would start it in `folder`."""
    environment = {k: v for k, v in os.environ.items() if k != "OPDCLIFF_RUNS"}
    done = subprocess.run(
        [str(Path(sys.executable).with_name("opdcliff")), *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return Reply(done.returncode, done.stdout, done.stderr)


def prepared_pair(workshop: Path) -> list[str]:
    """Teacher and warm start of the generated task in `workshop`, as a pair of one's own."""
    paths = StudyPaths(workshop / "runs", workshop / "results")
    folder = prepare(load(compose_one(SECONDS)), paths).models
    return [f"model.student={folder / 'student'}", f"model.teacher={folder / 'teacher'}"]


def write_own_answers(file: Path) -> Path:
    """A file of prompts with answers to them."""
    rng = np.random.default_rng(0)
    style = AnswerStyle(
        continue_mass=0.6,
        corrupt_rate=0.0,
        swap_rate=0.0,
        long_share=0.0,
        long_words=1,
        with_reason=True,
    )
    rows = [
        {"prompt": e.prompt, "answer": "".join(p.text for p in draw_answer(e, style, rng))}
        for e in generate(6, SplitSizes(40, 1, 1), candidates=2).train
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def write_own_prompts(file: Path) -> Path:
    """A file of prompts without grades, as many as `debug=seconds` takes."""
    splits = generate(5, OWN_SIZES, candidates=2)
    rows = [
        {"prompt": example.prompt, "candidates": example.candidates}
        for example in (*splits.train, *splits.calibration, *splits.test)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def write_own_schema(file: Path) -> Path:
    """A file with a JSON Schema that the answers of `prepared_pair` are to keep."""
    properties = {
        "ranking": {"type": "array", "items": {"type": "string", "maxLength": 1}},
        "reason": {"type": "string"},
    }
    schema = {"type": "object", "properties": properties, "required": [*properties]}
    file.write_text(json.dumps(schema | {"additionalProperties": False}))
    return file
