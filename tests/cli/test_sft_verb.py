"""`opdcliff sft` as typed, and the road from answers of one's own to a distilled adapter."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from opdcliff.models.load import load_model
from workshop import SECONDS, Run, prepared_pair, write_own_answers, write_own_prompts


def tuned(run: Run, *words: str) -> str:
    reply = run("sft", *SECONDS, *words)
    assert reply.code == 0, reply.err
    return reply.out


@pytest.mark.slow
def test_the_road_from_own_answers_to_a_distilled_adapter(run: Run, workshop: Path) -> None:
    student, teacher = prepared_pair(workshop)
    answers = f"data.path={write_own_answers(workshop / 'answers.jsonl')}"
    source = teacher.replace("model.teacher", "model.student")
    said = tuned(run, source, answers, "out=teacher")
    assert "nats per answer token" in said
    assert "written to teacher" in said
    adapter = (student, answers, "out=warm", "lora=adapter", "tune.epochs=3")
    assert "written to warm" in tuned(run, *adapter)
    assert "found, finished before, in warm" in tuned(run, *adapter)
    # The warm start is an adapter, and so is what is trained on it.
    prompts = f"data.path={write_own_prompts(workshop / 'own.jsonl')}"
    pair = ("model.student=warm", "model.teacher=teacher", "data=prompts", prompts)
    sizes = ("data.train=64", "data.calibration=32", "data.test=16")
    assert run("calibrate", *pair, *SECONDS, *sizes).code == 0
    reply = run("preview", *pair, *SECONDS, *sizes, "preview.lams=[1.0]", "preview.prompts=4")
    assert reply.code == 0, reply.err
    own = ("lam.value=1.2", "checkpoint.final_student=true", "protocol.name=lora", "lora=adapter")
    reply = run("train", *pair, *SECONDS, *sizes, *own)
    assert reply.code == 0, reply.err
    (kept,) = (workshop / "runs" / "lora").glob("*/student")
    assert (kept / "adapter_model.safetensors").exists()
    named = Path(json.loads((kept / "adapter_config.json").read_text())["base_model_name_or_path"])
    # What it goes on is the warm start, with the first adapter merged into it.
    below, warm = (load_model(f, dtype="float32") for f in (named, workshop / "warm"))
    assert all(map(torch.equal, below.parameters(), warm.parameters()))
    distilled = load_model(kept, dtype="float32")
    assert not all(map(torch.equal, distilled.parameters(), warm.parameters()))
    # And it is a student again.
    again = (f"model.student={kept}", *pair[1:], "memory_gb=8")
    reply = run("plan", *again, *SECONDS, *sizes, "lora=adapter")
    assert reply.code == 0, reply.err
    assert "and an adapter of" in " ".join(reply.out.split())
    assert run("calibrate", *again[:-1], *SECONDS, *sizes).code == 0


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        ([], 2, "out is missing; give out=FOLDER"),
        (["out=x"], 2, "model.student is missing"),
        (["out=x", "model.student=nowhere/at/all"], 2, "model.student=nowhere/at/all is no folder"),
        (["out=x", "model.student={student}"], 2, "data.path is missing"),
        (["out=x", "model.student={student}", "data.path=."], 3, "is no file; give a JSONL"),
        (["out=x", "merge=yes"], 2, "merge=yes is not true or false"),
        (["out=x", "tune.epochs=0"], 2, "tune.epochs=0.0 is not allowed"),
        (["out=x", "model.student={student}", "data.path=.", "engine=zero2"], 2, "one process"),
    ],
)
def test_what_is_wrong_is_one_line(
    words: list[str], code: int, text: str, run: Run, workshop: Path
) -> None:
    student = prepared_pair(workshop)[0].partition("=")[2]
    reply = run("sft", *(word.format(student=student) for word in words))
    assert (reply.code, reply.out) == (code, "")
    assert text in reply.line
    assert not (workshop / "x").exists()


def test_an_answer_that_is_too_long_names_its_line(run: Run, workshop: Path) -> None:
    student = prepared_pair(workshop)[0]
    rows = [{"prompt": "p", "answer": "A"}, {"prompt": "q", "answer": "xyz " * 600}]
    file = workshop / "long.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    reply = run("sft", student, f"data.path={file}", "out=long")
    assert reply.code == 3
    assert "long.jsonl line 2: prompt and answer have" in reply.line
    assert not list(workshop.glob("long/*"))
