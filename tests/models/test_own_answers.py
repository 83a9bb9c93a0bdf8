"""`opdcliff sft`: what is trained, what carries loss, what is written, found again and refused."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

from markov import codec_of
from opdcliff.data.answer_lines import AnswerLine, load_answers
from opdcliff.errors import ConfigError, DataError, ModelError, OpdcliffError, RecordError
from opdcliff.models.batches import IGNORE
from opdcliff.models.load import build, load_model, load_tokenizer
from opdcliff.models.tokens.train_bpe import train_bpe
from opdcliff.models.tuning import own_answers
from opdcliff.models.tuning.own_answers import Tuned, fine_tune_own
from opdcliff.models.tuning.rows import hold_out, rows_of
from opdcliff.settings.checks import load
from opdcliff.settings.compose import compose_one
from opdcliff.settings.schema import ArchConfig

ARCH = ArchConfig(
    family="qwen3",
    hidden_size=16,
    intermediate_size=24,
    layers=1,
    heads=2,
    kv_heads=1,
    head_dim=8,
    max_positions=64,
)
ROWS = [{"prompt": f"bought hat {i}\n", "answer": "AB" if i % 2 else "BA"} for i in range(24)]
TOKENIZER = train_bpe([row["prompt"] + row["answer"] for row in ROWS], 280)
CODEC = codec_of(TOKENIZER)
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}"
    "{% endif %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
FAST = ("tune.lr=3e-2", "tune.epochs=20", "engine.device=cpu")


def write(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("student")
    build(ARCH, TOKENIZER, 0).save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("answers") / "answers.jsonl", ROWS)


def tune(student: Path, answers: Path, out: Path, *words: str, merge: bool = False) -> Tuned:
    own = (f"model.student={student}", f"model.teacher={student}", f"data.path={answers}")
    return fine_tune_own(load(compose_one([*FAST, *own, *words])), out, merge=merge)


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(5, 25)[None]).logits


# ---- rows -------------------------------------------------------------------------------------


def test_answer_and_end_carry_loss_and_are_encoded_apart_from_the_prompt() -> None:
    line = AnswerLine("bought hat", " 1\nAB", 1)
    ((ids, labels),) = rows_of(CODEC, [line], Path("f"), 64)
    prompt = TOKENIZER("bought hat")["input_ids"]
    answer = [*TOKENIZER(" 1\nAB")["input_ids"], TOKENIZER.eos_token_id]
    assert ids == [*prompt, *answer]
    assert labels == [IGNORE] * len(prompt) + answer


def test_messages_go_through_the_chat_template(student: Path) -> None:
    tokenizer = load_tokenizer(student)
    line = AnswerLine("", "A", 3, (("user", "hat"),))
    with pytest.raises(DataError, match=r"f line 3: .*there is no chat template"):
        rows_of(codec_of(tokenizer), [line], Path("f"), None)
    tokenizer.chat_template = TEMPLATE
    ((ids, labels),) = rows_of(codec_of(tokenizer), [line], Path("f"), None)
    assert tokenizer.decode(ids) == "[user]hat[assistant]A<eos>"
    assert sum(label != IGNORE for label in labels) == 2
    refused = AnswerLine("", "A", 4, (("system", "hat"), ("user", "x")))
    with pytest.raises(DataError, match=r"f line 4: the chat template refuses .*no system"):
        rows_of(codec_of(tokenizer), [refused], Path("f"), None)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("x" * 80, r"f line 7: prompt and answer have \d+ \+ 81 tokens .* knows 64 positions"),
        ("A<eos>", "f line 7: the answer spells the end token <eos>"),
    ],
)
def test_an_answer_that_cannot_be_trained_on_names_its_line(answer: str, text: str) -> None:
    lines = [AnswerLine("p", "a", 2), AnswerLine("p", answer, 7)]
    with pytest.raises(DataError, match=text):
        rows_of(CODEC, lines, Path("f"), 64)


def test_an_answer_that_just_fits_is_taken() -> None:
    prompt = len(TOKENIZER("p")["input_ids"])
    line = AnswerLine("p", "x" * (64 - prompt - 1), 1)
    ((ids, _),) = rows_of(CODEC, [line], Path("f"), 64)
    assert len(ids) == 64


def test_prompts_are_held_out_with_all_their_answers() -> None:
    lines = [AnswerLine(f"p{i % 10}", f"a{i}", i) for i in range(30)]
    train, held = hold_out(lines, 0.2, 0, Path("f"))
    assert (len(train), len(held)) == (24, 6)
    assert {line.key for line in train}.isdisjoint(line.key for line in held)
    assert hold_out(lines, 0.2, 0, Path("f")) == (train, held)
    assert hold_out(lines, 0.2, 1, Path("f")) != (train, held)
    assert hold_out(lines, 0.0, 0, Path("f")) == (lines, [])
    assert len(hold_out(lines, 0.001, 0, Path("f"))[1]) == 3


def test_one_line_is_trained_on_only_if_nothing_is_held_out(student: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "one.jsonl", ROWS[:1])
    with pytest.raises(DataError, match=r"has 1 distinct prompts .* set tune.held_out=0"):
        tune(student, file, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    tuned = tune(student, file, tmp_path / "out", "tune.held_out=0")
    assert tuned.facts["held_out_loss"] == {"before": None, "after": None}


# ---- the fine-tuned model ---------------------------------------------------------------------


def test_the_loss_on_held_out_answers_falls_and_the_folder_loads(
    student: Path, answers: Path, tmp_path: Path
) -> None:
    tuned = tune(student, answers, tmp_path / "out")
    loss = tuned.facts["held_out_loss"]
    assert tuned.facts["lines"] == {"train": 22, "held_out": 2}
    assert loss["after"] < 0.5 * loss["before"]
    model = load_model(tmp_path / "out", dtype="float32")
    assert load_tokenizer(tmp_path / "out").get_vocab() == TOKENIZER.get_vocab()
    assert not torch.equal(logits(model), logits(load_model(student, dtype="float32")))
    # Measured anew from what was written, row by row.
    lines = load_answers(answers)
    _, held = hold_out(lines, 0.1, 0, answers)
    terms = []
    for ids, labels in rows_of(CODEC, held, answers, 64):
        with torch.no_grad():
            logp_LV = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        terms += [-logp_LV[t - 1, x] for t, x in enumerate(labels) if x != IGNORE]
    assert loss["after"] == pytest.approx(float(torch.stack(terms).mean()), rel=1e-4)


def test_the_same_command_finds_what_is_finished_and_another_leaves_it_alone(
    student: Path, answers: Path, tmp_path: Path
) -> None:
    out = tmp_path / "deep" / "out"
    first = tune(student, answers, out)
    before = {file.name: file.stat().st_mtime_ns for file in out.iterdir()}
    again = tune(student, answers, out)
    assert (first.found, again.found) == (False, True)
    assert again.facts == first.facts
    with pytest.raises(RecordError, match="holds the result of other settings"):
        tune(student, answers, out, "tune.seed=1")
    other = write(tmp_path / "other.jsonl", ROWS[1:])
    with pytest.raises(RecordError, match="other answers"):
        tune(student, other, out)
    assert {file.name: file.stat().st_mtime_ns for file in out.iterdir()} == before


def test_a_folder_that_is_not_its_own_is_left_alone(
    student: Path, answers: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years")
    with pytest.raises(RecordError, match="is there and holds no result of this command"):
        tune(student, answers, tmp_path / "out")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["thesis.txt"]
    (tmp_path / "empty").mkdir()
    assert not tune(student, answers, tmp_path / "empty").found


def test_two_runs_write_the_same_bytes_and_another_seed_others(
    student: Path, answers: Path, tmp_path: Path
) -> None:
    def weights(name: str, *words: str) -> bytes:
        torch.seed()
        tune(student, answers, tmp_path / name, "tune.epochs=1", *words)
        return (tmp_path / name / "model.safetensors").read_bytes()

    first = weights("a")
    assert weights("b") == first
    assert weights("c", "tune.seed=1") != first


@pytest.mark.parametrize("words", [(), ("lora=adapter",)])
def test_passes_of_any_size_make_the_same_steps(
    words: tuple[str, ...], student: Path, answers: Path, tmp_path: Path
) -> None:
    common = (*words, "model.dtype=float64") if words else ()
    found = []
    for size, extra in ((16, ()), (3, ("engine.gradient_checkpointing=true",))):
        out = tmp_path / str(size)
        tuned = tune(student, answers, out, *common, *extra, f"engine.micro_batch={size}")
        found.append(tuned.facts["held_out_loss"]["after"])
    assert found[0] == pytest.approx(found[1], rel=1e-3)


def test_a_run_that_diverges_is_one_line_and_leaves_nothing(
    student: Path, answers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("tune.lr=1e30", "tune.warmup=0")
    with pytest.raises(ModelError, match=r"diverged at step 2: .*lower tune\.lr \(it is 1e\+30"):
        tune(student, answers, tmp_path / "out", *words)
    # Tiny models normalise such weights away; others come to this after a last step.
    monkeypatch.setattr(own_answers, "mean_loss", lambda *_, **__: math.nan)
    with pytest.raises(ModelError, match=r"diverged: loss nan after the last step; lower tune\.lr"):
        tune(student, answers, tmp_path / "out", "tune.epochs=0.1")
    assert not (tmp_path / "out").exists()


def test_bfloat16_is_what_is_written_and_not_what_is_trained_in(
    student: Path, answers: Path, tmp_path: Path
) -> None:
    tune(student, answers, tmp_path / "out", "model.dtype=bfloat16", "tune.lr=1e-6")
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert {value.dtype for value in written.values()} == {torch.bfloat16}


# ---- adapters ---------------------------------------------------------------------------------


def test_an_adapter_is_written_alone_and_merged_it_is_the_same_model(
    student: Path, answers: Path, tmp_path: Path
) -> None:
    words = ("lora=adapter", "tune.lr=1e-1", "model.lora.rank=4")
    tuned = tune(student, answers, tmp_path / "adapter", *words)
    tune(student, answers, tmp_path / "merged", *words, merge=True)
    loss = tuned.facts["held_out_loss"]
    # A fresh model has no features to combine; that it moves is enough here.
    assert loss["after"] < loss["before"] - 0.1
    alone = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert not (tmp_path / "adapter" / "model.safetensors").exists()
    # Rank times both widths of the seven linear layers of the one block.
    widths = [(16, 16), (16, 8), (16, 8), (16, 16), (16, 24), (16, 24), (24, 16)]
    assert sum(t.numel() for t in alone.values()) == sum(4 * (i + o) for i, o in widths)
    found, merged = (load_model(tmp_path / n, dtype="float32") for n in ("adapter", "merged"))
    assert torch.equal(logits(found), logits(merged))
    base = load_model(student, dtype="float32")
    assert not torch.allclose(logits(found), logits(base), atol=1e-3)
    assert load_tokenizer(tmp_path / "adapter").get_vocab() == TOKENIZER.get_vocab()
    # The slow way: W + alpha / rank * B A, layer by layer.
    for name, weight in base.named_parameters():
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{stem}.lora_A.weight" in alone:
            a, b = alone[f"{stem}.lora_A.weight"], alone[f"{stem}.lora_B.weight"]
            weight.data += 32 / 4 * b @ a
    torch.testing.assert_close(logits(base), logits(found), rtol=0, atol=1e-5)


def test_peft_and_transformers_load_the_adapter_too(
    student: Path, answers: Path, tmp_path: Path
) -> None:
    from peft import AutoPeftModelForCausalLM

    tune(student, answers, tmp_path / "adapter", "lora=adapter")
    theirs = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
    ours = load_model(tmp_path / "adapter", dtype="float32")
    torch.testing.assert_close(logits(theirs), logits(ours), rtol=0, atol=1e-5)


def refusal(student: Path, answers: Path, out: Path, *words: str, merge: bool = False) -> str:
    with pytest.raises(OpdcliffError) as caught:
        tune(student, answers, out, *words, merge=merge)
    assert not out.exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_does_not_go_together_is_refused(student: Path, answers: Path, tmp_path: Path) -> None:
    out, adapter = tmp_path / "out", tmp_path / "adapter"
    assert "there is none; add lora=adapter" in refusal(student, answers, out, merge=True)
    words = ["lora=adapter", "model.lora.targets=[q_proj,nothing]"]
    assert "nothing is no linear layer of" in refusal(student, answers, out, *words)
    words = ["lora=adapter", "model.lora.targets=[lm_head]"]
    assert "leave embed_tokens and lm_head out" in refusal(student, answers, out, *words)
    tune(student, answers, adapter, "lora=adapter", "tune.epochs=1")
    line = refusal(adapter, answers, out, "lora=adapter")
    assert "add merge=true, which writes the whole model" in line
    tune(adapter, answers, out, "lora=adapter", merge=True)
    load_model(out, dtype="float32")


def test_without_peft_the_extra_is_named(
    student: Path, answers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"need peft, .* `pip install -e '\.\[lora\]'`"):
        tune(student, answers, tmp_path / "out", "lora=adapter")
