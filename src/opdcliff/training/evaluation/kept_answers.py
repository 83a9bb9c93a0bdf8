"""The first answers of each evaluation, kept beside the metrics as people read them.

A rate says that answers fail; these say how. They are no part of what a record seals.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from opdcliff.data import Example
from opdcliff.models import Codec
from opdcliff.rollout import Rollout
from opdcliff.storage import write_text_atomic, writing
from opdcliff.training.evaluation.metrics import Judged

# Beside the files of a cell's record, one line per answer.
ANSWERS = "answers.jsonl"


@dataclass(frozen=True)
class Shown:
    """An answer to a test prompt: its text without the end token, and how it was judged.

    number: of the prompt among the test prompts. verdict: `ok` or the failure code. tokens: the
    end token included.
    """

    number: int
    prompt: str
    answer: str
    verdict: str
    tokens: int


def shown(
    rollout: Rollout,
    numbered: Sequence[tuple[int, Example]],
    judged: Sequence[Judged],
    codec: Codec,
    count: int,
) -> list[Shown]:
    """Those of a batch whose prompts are among the first `count`.

    Decoded anew: what judges is sealed by locks and keeps no text.
    """
    found: list[Shown] = []
    if not any(number < count for number, _ in numbered):
        return found
    rows = zip(numbered, rollout.answers(), rollout.ended_B.tolist(), judged, strict=True)
    for (number, example), ids, ended, each in rows:
        if number < count:
            text = codec.answer_text(ids[:-1] if ended else ids)
            verdict = each.verdict.failure or "ok"
            found.append(Shown(number, example.prompt, text, verdict, each.length))
    return found


class KeptAnswers:
    """The file of them: written on by one process, gone on with where a run is."""

    def __init__(self, file: Path, evaluated: Sequence[int]) -> None:
        """Keep what is there of the updates at which the run has been evaluated before."""
        self._file, self._updates = file, set(evaluated)
        # A kill may have cut a character; and an answer may hold other ends of a line than this.
        text = file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
        old = text.split("\n")
        kept = [line for line in old if _update_of(line) in self._updates]
        write_text_atomic(file, "".join(f"{line}\n" for line in kept))

    def add(self, update: int, lam: float, answers: Sequence[Shown]) -> None:
        """Append the answers of an evaluation, once."""
        if update in self._updates:
            return
        self._updates.add(update)
        lines = (
            json.dumps({"update": update, "lam": lam, **asdict(each)}, ensure_ascii=False)
            for each in answers
        )
        # Bytes that are no text come as lone surrogates, which JSON has an escape for.
        with (
            writing(self._file),
            self._file.open("a", encoding="utf-8", errors="backslashreplace") as stream,
        ):
            stream.write("".join(f"{line}\n" for line in lines))


def _update_of(line: str) -> int | None:
    """None of a line that a kill cut short."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    update = found.get("update") if isinstance(found, dict) else None
    return update if isinstance(update, int) else None
