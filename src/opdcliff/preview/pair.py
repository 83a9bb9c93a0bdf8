"""A preview of a teacher and a warm start of one's own, from Python."""

from __future__ import annotations

from pathlib import Path

from opdcliff.calibration import own_pair
from opdcliff.paths import StudyPaths
from opdcliff.preview.curve import Preview, preview


def preview_pair(
    student: Path | str, teacher: Path | str, prompts: Path | str, *settings: str
) -> Preview:
    """Parse rates of the settled student over lambda, before any run.

    Arguments as those of `calibrate`; settings e.g. "preview.lams=[1,1.3,1.6]", "clip=truncate".

        found = opdcliff.preview_pair("warm_start", "teacher", "prompts.jsonl", "data.train=1")
        found.table                   # parse rate, truncation, length per clip and lambda
        found.recommended("teacher")  # per clip the largest lambda whose rate stays there
        found.breaks                  # the entries whose loss is behind failed answers

    Raises:
        ConfigError, DataError, ModelError: one line that names the value and what to do.
    """
    return preview(own_pair(student, teacher, prompts, *settings), StudyPaths())
