"""Pairs of nine families from files: calibrated, previewed, planned, trained, students kept."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd
import pytest
import torch
from transformers import AutoTokenizer, PreTrainedModel

from families import FAMILIES, build, save_pair
from opdcliff.models.load import load_model
from opdcliff.records.record import read_record
from workshop import SECONDS, Run, write_own_prompts

# Like published models, with a few outputs more than the tokenizer has entries.
OUTPUTS = 264
TRAIN = ["lam.value=1.3", "checkpoint.final_student=true"]
PREVIEW = ["preview.prompts=4", "preview.lams=[1.0,1.5]", "preview.strengths=[5.0]"]
# The whole vocabulary, whose gradients reach every output.
FULL = ("gemma2", "gpt2")


@pytest.fixture(scope="module")
def prompts(workshop: Path) -> list[str]:
    """The words that name a file of prompts."""
    write_own_prompts(workshop / "prompts.jsonl")
    return ["data=prompts", "data.path=prompts.jsonl", *SECONDS]


def kept_student(workshop: Path, name: str) -> tuple[Path, PreTrainedModel]:
    """The record of a run of that protocol name, and the student it kept."""
    (record,) = (workshop / "runs" / name).glob("*")
    dtype = "bfloat16" if name.endswith("bf16") else "float32"
    model = load_model(record / "student", dtype=dtype)
    assert model.config.vocab_size >= len(AutoTokenizer.from_pretrained(record / "student"))
    return record, model


def trained(run: Run, workshop: Path, name: str, *words: str) -> PreTrainedModel:
    """The student that a run of a few updates kept; all of its numbers are finite."""
    reply = run("train", *words, *TRAIN, f"protocol.name={name}")
    assert reply.code == 0, reply.err
    record, model = kept_student(workshop, name)
    history = read_record(record).history
    assert list(history.step) == [0, 2, 4]
    trained_on = history.drop(columns=[c for c in history if c.startswith("eval/ndcg")])
    losses = trained_on[["train/loss", "train/grad_norm", "train/kl_teacher"]].dropna()
    assert len(losses) == 2
    assert all(math.isfinite(value) for row in losses.to_numpy().tolist() for value in row)
    return model


def previewed(run: Run, *words: str) -> str:
    """What the preview of a pair prints; its rates are rates, and 1 is the teacher itself."""
    reply = run("preview", *words, *PREVIEW)
    assert reply.code == 0, reply.err
    folder = reply.out.strip().splitlines()[-1].removeprefix("written to ")
    table = pd.read_csv(Path(folder) / "preview.csv")
    assert table.lam.tolist() == [1.0, 1.5] * 2
    assert table.parse_rate.between(0.0, 1.0).all()
    assert table.mean_length.gt(1.0).all()
    assert table.kl_teacher[table.lam == 1.0].abs().max() < 1e-5
    assert table.kl_teacher[table.lam == 1.5].gt(1e-3).all()
    return reply.out


def moved(start: PreTrainedModel, end: PreTrainedModel) -> bool:
    """Whether training changed every matrix, and nothing else about the model."""
    before, after = start.state_dict(), end.state_dict()
    assert before.keys() == after.keys()
    return all(
        value.shape == after[name].shape and not torch.equal(value.float(), after[name].float())
        for name, value in before.items()
        if value.dim() > 1
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_calibrated_previewed_planned_and_trained(
    family: str, run: Run, workshop: Path, prompts: list[str]
) -> None:
    start = build(family, 0, vocab_size=OUTPUTS)
    pair = save_pair(workshop / family, start, build(family, 1, vocab_size=OUTPUTS))
    calibrated = run("calibrate", *prompts, *pair)
    assert calibrated.code == 0, calibrated.err
    assert "p, b and lambda* per token class on 32 prompts" in " ".join(calibrated.out.split())
    previewed(run, *prompts, *pair)
    planned = run("plan", *prompts, *pair, "lam.value=1.3", "memory_gb=1")
    assert planned.code == 0, planned.err
    count = sum(parameter.numel() for parameter in start.parameters())
    assert f"student of {count:,} parameters" in " ".join(planned.out.split())
    estimator = "full" if family in FULL else "sampled"
    end = trained(run, workshop, family, *prompts, *pair, f"optim.estimator={estimator}")
    assert type(end) is type(start)
    assert moved(start, end)


# ---- how checkpoints are stored --------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_a_sharded_checkpoint_is_read_whole(
    tied: bool, run: Run, workshop: Path, prompts: list[str]
) -> None:
    name = f"sharded_{tied}"
    start = build("llama", 0, vocab_size=OUTPUTS, tie_word_embeddings=tied)
    pair = save_pair(workshop / name, start, build("llama", 1, vocab_size=OUTPUTS))
    for file in (workshop / name / "student").glob("*.safetensors"):
        file.unlink()
    start.save_pretrained(workshop / name / "student", max_shard_size="40KB")
    index = json.loads((workshop / name / "student/model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2
    loaded = load_model(workshop / name / "student", dtype="float32").state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in start.state_dict().items())
    end = trained(run, workshop, name, *prompts, *pair)
    assert moved(start, end)
    assert (end.get_output_embeddings().weight is end.get_input_embeddings().weight) is tied


def test_a_pair_in_bfloat16_stays_in_it(run: Run, workshop: Path, prompts: list[str]) -> None:
    start = build("gemma3", 0, vocab_size=OUTPUTS).to(torch.bfloat16)
    teacher = build("gemma3", 1, vocab_size=OUTPUTS).to(torch.bfloat16)
    pair = save_pair(workshop / "bf16", start, teacher)
    words = ["model.dtype=bfloat16", "optim.lr=0.01"]
    previewed(run, *prompts, *pair, words[0])
    end = trained(run, workshop, "bf16", *prompts, *pair, *words)
    assert {parameter.dtype for parameter in end.parameters()} == {torch.bfloat16}
    assert not torch.equal(end.lm_head.weight, start.lm_head.weight)


# ---- outputs that differ ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("student", "teacher", "estimator"), [(288, 320, "sampled"), (320, 288, "full")]
)
def test_a_pair_of_different_outputs_is_measured_and_trained_over_the_shared_ones(
    student: int, teacher: int, estimator: str, run: Run, workshop: Path, prompts: list[str]
) -> None:
    name = f"outputs_{student}_{teacher}"
    start = build("qwen3", 0, vocab_size=student)
    pair = save_pair(workshop / name, start, build("qwen3", 1, vocab_size=teacher))
    calibrated = run("calibrate", *prompts, *pair)
    assert calibrated.code == 0, calibrated.err
    said = " ".join(calibrated.out.split())
    larger = "teacher" if teacher > student else "warm start"
    assert f"warning: the {larger} has 320 outputs, and the first 288 are compared" in said
    # It is found again with the table.
    assert run("calibrate", *prompts, *pair).out == calibrated.out
    # A preview says it too, and where nothing is calibrated it measures that itself.
    judged = ("data.contract=regex", "data.form='(?s).*x.*'")
    for words in ((), judged):
        said = " ".join(previewed(run, *prompts, *pair, *words).split())
        assert f"warning: the {larger} has 320 outputs, and the first 288 are compared" in said
    end = trained(run, workshop, name, *prompts, *pair, f"optim.estimator={estimator}")
    assert end.config.vocab_size == len(end.lm_head.weight) == 288
