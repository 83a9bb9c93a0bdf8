"""Calibrating a teacher and a warm start of one's own, from Python."""

from __future__ import annotations

from pathlib import Path

from opdcliff.calibration.asset import prepare_calibration
from opdcliff.calibration.class_masses import Calibration
from opdcliff.models import prepare
from opdcliff.paths import StudyPaths
from opdcliff.settings import RunConfig, compose_one, load, quoted

# Nothing is evaluated, so prompts for that need not be there.
WITHOUT_EVALUATION = tuple(
    f"evaluation.{name}=${{data.test}}" for name in ("prompts", "final_prompts")
)


def own_pair(
    student: Path | str, teacher: Path | str, prompts: Path | str, *settings: str
) -> RunConfig:
    """The settings for a pair and prompts of one's own; `settings` as on the command line."""
    own = (f"model.student={quoted(student)}", f"model.teacher={quoted(teacher)}")
    words = ["protocol=grid", *WITHOUT_EVALUATION, "data=prompts", f"data.path={quoted(prompts)}"]
    return load(compose_one([*words, *own, *settings]))


def calibrate(
    student: Path | str, teacher: Path | str, prompts: Path | str, *settings: str
) -> Calibration:
    """Measure p and b of a pair on a file of prompts, and where its first threshold lies.

    student: folder (or hub id, with `model.student_revision=COMMIT`) of the warm start; teacher
    likewise, with the same tokenizer. prompts: JSON lines, see docs/data.md. settings: as on the
    command line, e.g. "data.test=100". What is measured is kept in `runs/` and found again.

        found = opdcliff.calibrate("warm_start", "teacher", "prompts.jsonl", "data.train=1")
        found.table                     # p, b and lambda* per token class and offset
        found.binding.lambda_star(5.0)  # predicted onset at clip strength 5; binding may be None

    Raises:
        ConfigError, DataError, ModelError: one line that names the value and what to do.
    """
    config, paths = own_pair(student, teacher, prompts, *settings), StudyPaths()
    found, _ = prepare_calibration(config, paths, prepare(config, paths))
    return found
