"""Calibrate, preview and a run with SmolLM2's own tokenizer, under a small Llama, on a schema."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from opdcliff.models.load import build
from opdcliff.paths import REPO_ROOT
from opdcliff.settings.schema import ArchConfig
from real_tokenizers import real_tokenizer
from workshop import SECONDS, Run

SMALL = ArchConfig(
    family="llama",
    hidden_size=32,
    intermediate_size=64,
    layers=2,
    heads=2,
    kv_heads=1,
    head_dim=16,
    max_positions=256,
)


@pytest.fixture
def reminders(tmp_path: Path) -> Path:
    """The files of the worked example, cut to what takes seconds."""
    file = REPO_ROOT / "docs" / "make_reminders.py"
    spec = importlib.util.spec_from_file_location("make_reminders", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path / "reminders"
    module.main(folder)
    return folder


def test_the_files_of_the_example_keep_their_schema(reminders: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((reminders / "call.schema.json").read_text())
    answers = {
        name: [json.loads(line) for line in (reminders / f"{name}.jsonl").read_text().splitlines()]
        for name in ("teacher", "start", "prompts")
    }
    for line in answers["teacher"]:
        jsonschema.validate(json.loads(line["answer"]), schema)
    asked = {line["prompt"] for line in answers["teacher"]}
    assert asked == {line["prompt"] for line in answers["start"]}
    # Calibrated on prompts that nobody has seen.
    assert not asked & {line["prompt"] for line in answers["prompts"]}
    of_teacher, of_start = (
        sum(len(line["answer"]) for line in answers[name]) for name in ("teacher", "start")
    )
    assert of_start < of_teacher


@pytest.mark.slow
def test_a_schema_is_calibrated_previewed_and_trained_with_the_tokenizer_of_smollm2(
    run: Run, reminders: Path, workshop: Path
) -> None:
    pytest.importorskip("llguidance")
    tokenizer = real_tokenizer("smollm2")
    build(SMALL, tokenizer, 0).save_pretrained(workshop / "small")
    tokenizer.save_pretrained(workshop / "small")
    own = ["tune.epochs=2", "tune.batch_size=8", "tune.lr=1e-2"]
    for name in ("teacher", "start"):
        words = ["model.student=small", f"data.path={reminders / name}.jsonl", f"out={name}"]
        reply = run("sft", *words, *SECONDS, *own)
        assert reply.code == 0, reply.err
    assert "<|im_start|>user" in reply.out
    pair = ["model.student=start", "model.teacher=teacher", "data=prompts"]
    task = [
        *(f"data.path={reminders / 'prompts.jsonl'}", "data.contract=schema"),
        f"data.form={reminders / 'call.schema.json'}",
    ]
    sizes = ["data.train=8", "data.calibration=16", "data.test=8", "data.answer_room=48"]
    words = [*pair, *task, *SECONDS, *sizes]
    reply = run("calibrate", *words)
    assert reply.code == 0, reply.err
    assert "brace" in reply.out
    reply = run("preview", *words, "preview.lams=[1.0]", "preview.strengths=[5.0]")
    assert reply.code == 0, reply.err
    reply = run("train", *words, "lam.value=1.2", "protocol.name=smollm2", "optim.updates=2")
    assert reply.code == 0, reply.err
    assert reply.rows() == 1
