"""Writes the worked example of docs/tutorial.md: a schema, prompts, answers of a teacher and of a
warm start. `python docs/make_reminders.py FOLDER`; the same files every time.

The task is a function call, {"name": "remind", "arguments": {"minutes": 20, "note": "..."}}. The
teacher's notes are whole; the warm start stops behind a word with chance CUT, and forgets to end a
call with chance BROKEN.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

CUT, BROKEN = 0.3, 0.25
DOING = ("water", "feed", "wash", "call", "paint", "find", "mend", "move")
THING = ("the plants", "the old cat", "both bikes", "my sister", "the fence", "a small gift")
WHERE = ("on the balcony", "in the garden", "near the station", "at my desk", "behind the house")
WHEN = ("before it rains", "after the long meeting", "while there is light", "for the party")
MINUTES = (5, 10, 15, 20, 30, 45, 60, 90)
LINES = {"answers": 96, "prompts": 40}
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"const": "remind"},
        "arguments": {
            "type": "object",
            "properties": {"minutes": {"type": "integer"}, "note": {"type": "string"}},
            "required": ["minutes", "note"],
            "additionalProperties": False,
        },
    },
    "required": ["name", "arguments"],
    "additionalProperties": False,
}


def main(folder: Path) -> None:
    """Write the four files into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(0)
    notes = [" ".join(parts) for parts in _all_parts()]
    draw.shuffle(notes)
    asked, others = notes[: LINES["answers"]], notes[LINES["answers"] :]
    timed = [(draw.choice(MINUTES), note) for note in asked]
    (folder / "call.schema.json").write_text(json.dumps(SCHEMA, indent=1) + "\n")
    _write(folder / "teacher.jsonl", [_line(m, note, _call(m, note)) for m, note in timed])
    _write(folder / "start.jsonl", [_line(m, note, _worse(m, note, draw)) for m, note in timed])
    new = [(draw.choice(MINUTES), note) for note in others[: LINES["prompts"]]]
    _write(folder / "prompts.jsonl", [{"prompt": _prompt(m, note)} for m, note in new])


def _all_parts() -> list[tuple[str, ...]]:
    return [(a, b, c, d) for a in DOING for b in THING for c in WHERE for d in WHEN]


def _prompt(minutes: int, note: str) -> str:
    return f"In {minutes} minutes: {note}."


def _line(minutes: int, note: str, answer: str) -> dict[str, str]:
    return {"prompt": _prompt(minutes, note), "answer": answer}


def _call(minutes: int, note: str) -> str:
    call = {"name": "remind", "arguments": {"minutes": minutes, "note": note}}
    return json.dumps(call, separators=(",", ":"))


def _worse(minutes: int, note: str, draw: random.Random) -> str:
    words = note.split(" ")
    kept = 1
    while kept < len(words) and draw.random() >= CUT:
        kept += 1
    answer = _call(minutes, " ".join(words[:kept]))
    return answer[:-1] if draw.random() < BROKEN else answer


def _write(file: Path, lines: list[dict[str, str]]) -> None:
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
