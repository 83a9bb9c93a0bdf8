"""The compiled path draws the tokens of the reference, for any batch, length, padding and family.

The loop around the step is tested with a step that is not compiled, in float64, where no draw lies
within rounding; one step is compiled for real.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

import families
from opdcliff.models.tokens.train_bpe import pad_left
from opdcliff.rollout import compiled, reference
from opdcliff.rollout.draws import Rollout
from opdcliff.rollout.steps import loop, step_package
from opdcliff.rollout.steps.decode_step import Step, StepInputs, plain_step, run_checked
from opdcliff.rollout.steps.loop import Growth
from opdcliff.rollout.steps.step_package import (
    StepError,
    build_step,
    export_step,
    offer_step,
    step_key,
    step_of,
)
from tiny_rollout import EOS, PAD, PROMPTS, SETTINGS, VOCABULARY, assert_as_reference, tiny_model

MODEL = tiny_model()


@pytest.fixture(autouse=True)
def nothing_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_package, "_offered", {})
    monkeypatch.setattr(step_package, "_loaded", {})


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model has a step, which is not compiled."""
    monkeypatch.setattr(compiled, "step_of", plain_step)


def assert_same(
    prompts: list[list[int]], model: PreTrainedModel = MODEL, **changes: Any
) -> Rollout:
    return assert_as_reference(compiled.sample, prompts, model, **changes)


# ---- the loop ---------------------------------------------------------------------------------

prompt_lists = st.lists(
    st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=9), min_size=1, max_size=12
)


@pytest.mark.usefixtures("steps")
def test_answers_are_those_of_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    @settings(max_examples=60, deadline=None)
    @given(
        prompts=prompt_lists,
        limit=st.integers(1, 14),
        temperature=st.sampled_from([0.5, 1.0, 1.7]),
        end_ids=st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=8, unique=True),
        pad_id=st.sampled_from([PAD, EOS, 4]),
        growth=st.integers(1, 20),
        seed=st.integers(0, 5),
    )
    def holds(growth: int, prompts: list[list[int]], limit: int, **changes: Any) -> None:
        # Few slots at a time: the cache has to grow, rows to go, in the middle of answers.
        with monkeypatch.context() as patch:
            patch.setattr(compiled, "GROWTH", Growth(growth))
            patch.setattr(loop, "LEAST_ROWS", 1)
            assert_same(prompts, max_new_tokens=limit, **changes)

    holds()


@pytest.mark.usefixtures("steps")
def test_rows_that_ended_are_computed_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []

    def counting(model: PreTrainedModel) -> Step:
        run = plain_step(model)

        def counted(flat: list[torch.Tensor]) -> list[torch.Tensor]:
            found = run(flat)
            rows.append(len(found[0]))
            return found

        return counted

    monkeypatch.setattr(compiled, "step_of", counting)
    rollout = assert_same(PROMPTS * 8, max_new_tokens=40)
    lengths = torch.tensor(rollout.lengths())
    assert rows[0] == 64 > rows[-1]
    assert len(rows) == max(lengths) - 1
    for place, count in enumerate(rows, start=1):
        running = max(1, int((lengths > place).sum()))
        assert running <= count <= max(2 * running, loop.LEAST_ROWS)


@pytest.mark.usefixtures("steps")
@pytest.mark.parametrize("family", families.FAMILIES)
def test_every_family_is_sampled_alike(family: str) -> None:
    assert_same(*families.unslid(family), max_new_tokens=30, temperature=0.6)


@pytest.mark.usefixtures("steps")
def test_a_window_that_would_slide_is_left_to_the_reference() -> None:
    model = families.build("mistral")
    assert "window of 8 tokens" in str(compiled.why_not(model, 9))
    assert compiled.why_not(model, 8) is None
    options = SETTINGS | {"numbers": [0, 1]}
    found = compiled.sample(model, *pad_left([[5, 6], [7]], PAD), **options)
    assert not found.compiled
    assert (
        found.answers()
        == reference.sample(model, *pad_left([[5, 6], [7]], PAD), **options).answers()
    )


@pytest.mark.usefixtures("steps")
@pytest.mark.parametrize("training", [True, False])
def test_the_model_and_the_global_generator_are_left_as_they_were(training: bool) -> None:
    model = tiny_model(dropout=0.9).train(training)
    own, before = model.generation_config, torch.get_rng_state()
    assert_same(PROMPTS, model)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(module.training is training for module in model.modules())
    assert model.generation_config is own
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.usefixtures("steps")
def test_logits_that_are_not_numbers_are_left_to_the_loss() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.lm_head.weight[:] = torch.nan
    rollout = compiled.sample(
        model, *pad_left(PROMPTS, PAD), **SETTINGS, numbers=range(len(PROMPTS))
    )
    assert rollout.lengths() == [12] * len(PROMPTS)


# ---- what stays with the reference ------------------------------------------------------------


def test_without_a_step_the_reference_samples_and_says_why() -> None:
    assert compiled.why_not(MODEL, 20) == "no step was compiled for it"
    options = SETTINGS | {"numbers": range(len(PROMPTS))}
    found = compiled.sample(MODEL, *pad_left(PROMPTS, PAD), **options)
    assert not found.compiled
    assert found.answers() == reference.sample(MODEL, *pad_left(PROMPTS, PAD), **options).answers()


@pytest.mark.usefixtures("steps")
def test_banned_tokens_adapters_and_unknown_attention_stay_with_the_reference() -> None:
    banned_V = torch.arange(VOCABULARY) == EOS
    assert compiled.why_not(MODEL, 20, banned_V) == "some tokens are banned"
    model = tiny_model()
    model.set_attn_implementation("flex_attention")
    assert "attention flex_attention" in str(compiled.why_not(model, 20))
    model = tiny_model()
    model.peft_config = {}
    assert compiled.why_not(model, 20) == "an adapter is on it"


def test_a_key_names_all_that_a_step_depends_on() -> None:
    key = step_key(MODEL)
    assert step_key(tiny_model()) == key
    assert step_key(tiny_model().float()) != key
    assert step_key(tiny_model(vocabulary=12)) != key
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert step_key(MODEL) != key
    finally:
        torch.set_num_threads(threads)
    model = tiny_model()
    model.set_attn_implementation("eager")
    assert step_key(model) != key


def test_no_step_copies_its_cache() -> None:
    """Keys and values of all slots are read where they are, whatever the query heads."""
    model = tiny_model()
    heads, groups = model.config.num_attention_heads, model.config.num_key_value_heads
    assert heads > groups
    cached = 0
    for node in export_step(model).graph.nodes:
        shape = getattr(node.meta.get("val"), "shape", ())
        if len(shape) >= 3 and "s" in str(shape[-2]) and shape[-1] == model.config.head_dim:
            # An input, or the same cache with one slot written.
            assert shape[1] == groups, node
            assert node.op == "placeholder" or "index_copy" in str(node.target), node
            cached += 1
    assert cached >= 2 * 2 * model.config.num_hidden_layers


# ---- one that is compiled ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tiny_model().float().train()
    path = build_step(model, tmp_path_factory.mktemp("steps"))
    assert model.training
    return path


@pytest.mark.slow
def test_one_compiled_step_serves_all_batches_and_all_models_of_its_shape(package: Path) -> None:
    offer_step(package)
    first, second = tiny_model().float(), tiny_model().float()
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.mul_(0.7)
    answers = []
    for model in (first, second):
        # The second one is longer than the example that was compiled.
        for prompts, tokens in ((PROMPTS[:1], 20), (PROMPTS, 90), (PROMPTS * 5, 30)):
            found = assert_same(prompts, model, max_new_tokens=tokens)
        answers.append(found.answers())
        # Weights that change in place, as a student's do.
        with torch.no_grad():
            model.lm_head.weight.mul_(0.5)
        answers.append(assert_same(PROMPTS * 5, model, max_new_tokens=30).answers())
    assert len({str(each) for each in answers}) == 4


@pytest.mark.slow
def test_a_package_that_is_not_ours_or_damaged_is_not_loaded(package: Path, tmp_path: Path) -> None:
    model = tiny_model().float()
    copy = tmp_path / package.name
    copy.write_bytes(package.read_bytes()[:1000])
    offer_step(copy)
    assert f"{copy} cannot be loaded" in str(step_of(model))
    copy.write_bytes(package.read_bytes())
    copy.chmod(0o666)
    assert "is code that others can write" in str(step_of(model))
    copy.chmod(0o600)
    assert callable(step_of(model))
    offer_step(tmp_path / "gone" / package.name)
    step_package._loaded.clear()
    assert "cannot be read" in str(step_of(model))


def test_what_cannot_be_compiled_is_one_line_and_leaves_no_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("\n\nno such\nthing")

    monkeypatch.setattr(torch.export, "export", fail)
    model = tiny_model().train()
    with pytest.raises(StepError, match=r"could not be compiled \(RuntimeError: no such\)$"):
        build_step(model, tmp_path)
    assert not list(tmp_path.iterdir())
    assert model.training


def test_a_step_with_other_numbers_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = tiny_model()
    with torch.no_grad():
        other.model.layers[0].self_attn.k_proj.weight.mul_(1.001)

    def write(*_: object, package_path: str) -> None:
        Path(package_path).write_text("x")

    monkeypatch.setattr(torch.export, "export", lambda *_, **__: None)
    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", write)
    weights = list(step_package.weights_of(other).values())
    monkeypatch.setattr(
        step_package,
        "_load",
        lambda path: lambda flat: plain_step(other)([*weights, *flat[len(weights) :]]),
    )
    with pytest.raises(StepError, match="gives other numbers"):
        build_step(MODEL, tmp_path)
    assert not list(tmp_path.iterdir())


WRONG_STEPS: dict[str, Callable[[StepInputs], object]] = {
    "another token": lambda given: None,
    "nothing written": lambda given: None,
    "written beside": lambda given: given.values_RHKD[1][0, 0, 2, 0].add_(0.01),
    "no number": lambda given: given.values_RHKD[1][0, 0, int(given.at), 0].fill_(torch.nan),
}


@torch.no_grad()
@pytest.mark.parametrize("wrong", [None, *WRONG_STEPS])
def test_a_step_is_held_against_the_models_own_operations(wrong: str | None) -> None:
    inputs = step_package._example(MODEL, 5, 20)
    plain = plain_step(MODEL)

    def step(flat: list[torch.Tensor]) -> list[torch.Tensor]:
        if wrong == "nothing written":
            flat = [each.clone() for each in flat]
        drawn_R1, ended_R1 = plain(flat)
        if wrong is not None:
            WRONG_STEPS[wrong](inputs)
        return [drawn_R1 + (wrong == "another token"), ended_R1]

    with pytest.raises(StepError, match="gives other numbers") if wrong else nullcontext():
        found = run_checked(step, plain, inputs)
        assert torch.equal(found[0], plain(inputs.flat())[0])
