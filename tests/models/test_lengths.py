"""A prompt that does not fit into a model with its answer is one line, before anything is made."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import BloomConfig, Gemma3TextConfig, GPT2Config, GPT2LMHeadModel, Qwen3Config

import families
from markov import codec_of
from opdcliff.data.example import Example, Splits
from opdcliff.errors import DataError, ModelError
from opdcliff.models import lengths, make_pair
from opdcliff.models.lengths import check_lengths, measure_lengths
from opdcliff.models.load import build, known_positions, positions_in
from opdcliff.models.make_pair import build_models
from opdcliff.models.prepare import prepare_data
from opdcliff.models.sft import fine_tune
from opdcliff.models.tokens.train_bpe import train_bpe
from opdcliff.paths import StudyPaths
from opdcliff.settings.checks import load
from opdcliff.settings.compose import compose_one
from opdcliff.settings.schema import RunConfig
from workshop import SECONDS, Run, prepared_pair, write_own_prompts

# Of `debug=seconds`: answers of 32 tokens, forced texts of 12; and a model of 512 positions.
ANSWER, FORCED, POSITIONS = 32, 12, 512
FITS = {
    "train": POSITIONS - ANSWER,
    "calibration": POSITIONS - ANSWER - FORCED,
    "test": POSITIONS - ANSWER,
}


def config_of(*words: str) -> RunConfig:
    return load(compose_one([*SECONDS, *words]))


def facts(positions: int | None = POSITIONS, **longest: int) -> dict[str, Any]:
    tokens = dict.fromkeys(FITS, 10) | longest
    return {
        "longest": {name: (7, count) for name, count in tokens.items()},
        "positions": {"student": positions, "teacher": positions},
    }


def refusal(config: RunConfig, found: dict[str, Any], data: Path = Path()) -> str:
    with pytest.raises(DataError) as caught:
        check_lengths(config, data, found)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def untuned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fine-tuning that fails the test when it begins."""

    def begin(*_: object) -> dict[str, float]:
        pytest.fail("models are tuned")

    monkeypatch.setattr(make_pair, "_fine_tune_roles", begin)


@pytest.mark.parametrize("split", FITS)
def test_the_last_prompt_that_fits_passes_and_one_token_more_does_not(split: str) -> None:
    config = config_of()
    check_lengths(config, Path(), facts(**{split: FITS[split]}))
    line = refusal(config, facts(**{split: FITS[split] + 1}))
    assert f"prompt 7 of the {split} split has {FITS[split] + 1} tokens" in line
    assert f"rollout.max_new_tokens={ANSWER}" in line
    assert (f"calibration.forced_words={FORCED}" in line) == (split == "calibration")
    assert f"knows {POSITIONS} positions" in line
    assert line.endswith("or raise model.arch.max_positions")


def test_a_contract_without_a_reason_forces_no_text() -> None:
    config = config_of("data.contract=ranking_only")
    check_lengths(config, Path(), facts(calibration=FITS["test"]))
    assert "forced_words" not in refusal(config, facts(calibration=FITS["test"] + 1))


def test_where_no_answer_would_fit_shorter_answers_are_no_advice() -> None:
    assert "lower rollout.max_new_tokens, or" in refusal(config_of(), facts(test=POSITIONS - 1))
    assert "lower rollout" not in refusal(config_of(), facts(test=POSITIONS))


def test_the_prompt_that_misses_by_most_is_named() -> None:
    assert "of the train split" in refusal(config_of(), facts(train=900, test=899))
    # The room of calibration is larger.
    assert "of the calibration split" in refusal(config_of(), facts(train=900, calibration=899))


def test_the_model_that_knows_least_is_named() -> None:
    found = facts(test=100) | {"positions": {"student": None, "teacher": 120}}
    assert "the teacher knows 120 positions" in refusal(config_of(), found)


def test_models_that_say_nothing_about_positions_take_any_prompt() -> None:
    check_lengths(config_of(), Path(), facts(None, test=10**6))


def test_the_larger_model_of_a_locked_protocol_has_to_fit_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = config_of("protocol=mini")
    check_lengths(config, Path(), facts())
    small = config_of("model=tiny_5x", "model.arch.max_positions=64").model
    monkeypatch.setattr(lengths, "model_option", lambda name: small)
    # The longest room is that of calibration.
    assert "model tiny_5x knows 64 positions" in refusal(config, facts(calibration=21))
    check_lengths(config, Path(), facts(calibration=20))


def test_lengths_are_those_of_the_longest_prompt_of_each_split() -> None:
    texts = {"train": ("a", "abc", "ab"), "calibration": ("abcd",), "test": ()}
    splits = Splits(*([Example(t, ("A", "B"), (0, 1), t) for t in part] for part in texts.values()))
    tokenizer = train_bpe([], 258)
    found = measure_lengths(config_of(), codec_of(tokenizer), splits)
    assert found["longest"] == {"train": (2, 3), "calibration": (1, 4), "test": (0, 0)}
    assert found["positions"] == {"student": POSITIONS, "teacher": POSITIONS}


def test_a_tokenizer_that_knows_a_limit_prints_no_warning(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = train_bpe([], 258)
    tokenizer.model_max_length = 4
    part = [Example("long enough", ("A", "B"), (0, 1), "k")]
    measure_lengths(config_of(), codec_of(tokenizer), Splits(part, part, part))
    assert capsys.readouterr().err == ""
    assert not caplog.records


# Past 64 positions the whole batch gets other factors.
LONG_ROPE = families.configuration(
    "phi3",
    max_position_embeddings=1024,
    original_max_position_embeddings=64,
    rope_parameters={
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 4,
        "long_factor": [4.0, 3.0, 2.0, 1.5],
        "factor": 16.0,
        "original_max_position_embeddings": 64,
    },
)


@pytest.mark.parametrize(
    ("configuration", "known"),
    [
        (GPT2Config(n_positions=77), 77),
        (Qwen3Config(max_position_embeddings=99), 99),
        (BloomConfig(), None),
        (Qwen3Config(max_position_embeddings=0), None),
        (LONG_ROPE, 64),
        # One description for each kind of layer.
        (Gemma3TextConfig(rope_parameters={"full_attention": LONG_ROPE.rope_parameters}), 64),
    ],
)
def test_positions_are_read_from_any_configuration(
    configuration: Any, known: int | None, tmp_path: Path
) -> None:
    assert positions_in(configuration) == known
    configuration.save_pretrained(tmp_path)
    assert known_positions(tmp_path) == known


def test_a_folder_without_a_configuration_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot load the configuration of") as caught:
        known_positions(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_prompt_of_200000_words_is_refused_before_models_are_tuned(
    tmp_path: Path, run: Run, untuned: None
) -> None:
    file = tmp_path / "prompts.jsonl"
    rows = [json.loads(line) for line in write_own_prompts(file).read_text().splitlines()]
    rows[40]["prompt"] = "word " * 200_000
    file.write_text("\n".join(["", *map(json.dumps, rows)]))
    for verb in ("calibrate", "train", "study"):
        reply = run(verb, *SECONDS, "data=prompts", f"data.path={file}", "data.train=64",
                    "data.calibration=32", "data.test=16")  # fmt: skip
        assert reply.code == DataError.exit_code
        # The first line of the file is blank.
        assert re.search(r"prompts\.jsonl line 42\) has \d{6,} tokens", reply.line)
        assert "shorten the prompt" in reply.line


def test_models_that_are_ready_are_checked_against_longer_answers(
    workshop: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared_pair(workshop)

    def measure(*_: object) -> dict[str, Any]:
        pytest.fail("the prompts are tokenised again")

    monkeypatch.setattr(make_pair, "measure_lengths", measure)
    assert run("calibrate", *SECONDS, "calibration.bootstrap=2").code == 0
    for word in ("rollout.max_new_tokens=500", "calibration.forced_words=480"):
        reply = run("calibrate", *SECONDS, word)
        assert reply.code == DataError.exit_code
        assert word in reply.line
        # Nothing but the line: no bar, no table.
        assert reply.out == ""


@pytest.mark.parametrize("tuned", [True, False])
def test_loaded_models_with_learned_positions_are_refused_in_time(
    tuned: bool, tmp_path: Path, untuned: None
) -> None:
    tokenizer = train_bpe(["rank these"], 300)
    for name, positions in (("student", 64), ("teacher", 48)):
        tokenizer.save_pretrained(tmp_path / name)
        sizes = {"n_embd": 8, "n_head": 2, "n_layer": 1, "vocab_size": len(tokenizer)}
        model = GPT2LMHeadModel(GPT2Config(n_positions=positions, **sizes))
        model.save_pretrained(tmp_path / name)
    pair = [f"model.{name}={tmp_path / name}" for name in ("student", "teacher")]
    config = config_of(*pair, f"model.tune_loaded_student={str(tuned).lower()}")
    data = prepare_data(config, StudyPaths(tmp_path / "runs", tmp_path / "results"))
    (tmp_path / "made").mkdir()
    with pytest.raises(DataError, match=r"the teacher knows 48 positions.*longer context"):
        build_models(config, data, tmp_path / "made")


def test_a_plan_is_made_for_prompts_of_any_length(run: Run) -> None:
    assert run("plan", *SECONDS, "rollout.max_new_tokens=4000", "memory_gb=80").code == 0


def test_a_reference_answer_that_is_drawn_too_long_is_one_line(tmp_path: Path) -> None:
    config = config_of("model.arch.max_positions=24")
    example = Example("rank A and B", ("A", "B"), (0, 1), "k")
    tokenizer = train_bpe([], 258)
    assert config.model.arch is not None
    tune: Callable[[RunConfig], float] = lambda own: fine_tune(  # noqa: E731
        build(own.model.arch or pytest.fail("no arch"), tokenizer, 0),
        codec_of(tokenizer),
        [example],
        own.sft,
        replace(own.sft.student, steps=1),
        seed=0,
        with_reason=False,
    )
    with pytest.raises(ModelError, match=r"step 1 has \d+ tokens and the model knows 24 positions"):
        tune(config)
    tune(config_of("model.arch.max_positions=64"))
