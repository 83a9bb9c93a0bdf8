"""A step that is captured and replayed draws the tokens of the reference, or leaves them to it.

No CUDA here: what replays is a stand-in that fixes operations and memory as a graph does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import PreTrainedModel

import families
from caches import CACHES, model_of_cache
from opdcliff.models.tokens.train_bpe import pad_left
from opdcliff.rollout import graph, reference
from opdcliff.rollout.steps import graph_step, loop
from opdcliff.rollout.steps.graph_step import GraphStep, Replay
from opdcliff.rollout.steps.loop import Growth
from replayed_steps import traced
from tiny_rollout import EOS, PAD, PROMPTS, SETTINGS, VOCABULARY, assert_as_reference, tiny_model

MODEL = tiny_model()
Action = Callable[[], list[Tensor]]


@pytest.fixture(autouse=True)
def captured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Graphs on a CPU; the rows of every capture."""
    rows: list[int] = []

    def counted(action: Action) -> tuple[Replay, list[Tensor]]:
        replay, outputs = traced(action)
        rows.append(len(outputs[0]))
        return replay, outputs

    monkeypatch.setattr(graph, "DEVICES", ("cpu",))
    monkeypatch.setattr(graph, "GraphStep", partial(GraphStep, capture=counted))
    monkeypatch.setattr(graph, "_failed", {})
    monkeypatch.setattr(graph_step, "_checked", Counter())
    return rows


def test_answers_are_those_of_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    @settings(max_examples=25, deadline=None)
    @given(
        prompts=st.lists(
            st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=9),
            min_size=1,
            max_size=9,
        ),
        limit=st.integers(1, 14),
        temperature=st.sampled_from([0.5, 1.7]),
        end_ids=st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=8, unique=True),
        growth=st.builds(Growth, st.integers(1, 9), multiple=st.integers(1, 8)),
        seed=st.integers(0, 5),
    )
    def holds(growth: Growth, prompts: list[list[int]], limit: int, **changes: Any) -> None:
        # Caches change and rows go in the middle of answers.
        with monkeypatch.context() as patch:
            patch.setattr(graph, "GROWTH", growth)
            patch.setattr(loop, "LEAST_ROWS", 1)
            assert_as_reference(graph.sample, prompts, MODEL, max_new_tokens=limit, **changes)

    holds()


@pytest.mark.parametrize("family", families.FAMILIES)
def test_every_family_is_sampled_alike(family: str) -> None:
    assert_as_reference(graph.sample, *families.unslid(family), max_new_tokens=20, temperature=0.6)


def test_a_graph_serves_until_rows_go_or_the_cache_grows(
    captured: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph, "GROWTH", Growth(16, multiple=8))
    checked = Mock(wraps=graph_step.run_checked)
    monkeypatch.setattr(graph_step, "run_checked", checked)
    # Weights that change in place, as a student's do between updates.
    model = tiny_model()
    for _ in range(2):
        captured.clear()
        rollout = assert_as_reference(graph.sample, PROMPTS * 4, model, max_new_tokens=40)
        # From 7 prompt tokens on to 24, 40 and 48 slots, and rows halved down to the least.
        assert max(rollout.lengths()) > 16
        assert captured == sorted(captured, reverse=True)
        assert captured[0] == 32
        assert 3 <= len(captured) <= 6
        with torch.no_grad():
            model.lm_head.weight.mul_(0.5)
    assert checked.call_count == 2


@pytest.mark.parametrize(
    ("held", "left", "added"), [(300, 128, 148), (448, 1000, 256), (704, 3, 64), (62, 300, 258)]
)
def test_a_cache_grows_to_a_multiple(held: int, left: int, added: int) -> None:
    assert Growth(256, multiple=64).of(held, left) == added
    assert Growth(256).of(held, left) == min(256, left)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    # The real capture.
    monkeypatch.undo()
    return torch.device("cuda")


@pytest.mark.parametrize("family", families.FAMILIES)
def test_a_card_replays_what_the_reference_draws(family: str, card: torch.device) -> None:
    prompts, model = families.unslid(family)
    model = model.double().to(card)
    for _ in range(2):
        assert_as_reference(graph.sample, prompts * 4, model, max_new_tokens=30)
        with torch.no_grad():
            model.get_output_embeddings().weight.mul_(0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_card_replays_in_narrow_formats(dtype: torch.dtype, card: torch.device) -> None:
    """Kernels that float64 does not use; each is held against the model's own operations."""
    model = tiny_model().to(card, dtype)
    options = SETTINGS | {"numbers": range(len(PROMPTS)), "max_new_tokens": 40}
    assert graph.sample(model, *pad_left(PROMPTS, PAD), **options).compiled


def test_a_card_goes_on_after_a_capture_that_failed(
    card: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    def waits(action: Action) -> tuple[Replay, list[Tensor]]:
        return graph_step.cuda_capture(lambda: [each * int(each.sum()) for each in action()])

    monkeypatch.setattr(graph, "GraphStep", partial(GraphStep, capture=waits))
    stream = torch.cuda.current_stream()
    with pytest.warns(UserWarning, match="slower reference path"):
        left_to_the_reference(tiny_model().to(card))
    assert torch.cuda.current_stream() == stream


# ---- what stays with the reference ------------------------------------------------------------


def left_to_the_reference(
    model: PreTrainedModel = MODEL, prompts: list[list[int]] = PROMPTS
) -> None:
    options = SETTINGS | {"numbers": range(len(prompts))}
    found = graph.sample(model, *pad_left(prompts, PAD), **options)
    assert not found.compiled
    expected = reference.sample(model, *pad_left(prompts, PAD), **options)
    assert found.answers() == expected.answers()


def test_off_the_card_and_for_tokens_and_models_that_no_graph_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert graph.why_not(MODEL, 20) is None
    assert graph.why_not(MODEL, 20, torch.arange(VOCABULARY) == EOS) == "some tokens are banned"
    model = tiny_model()
    model.peft_config = {}
    assert graph.why_not(model, 20) == "an adapter is on it"
    monkeypatch.setattr(graph, "DEVICES", ("cuda",))
    assert graph.why_not(MODEL, 20) == "graphs are for cuda, its weights are on cpu"
    left_to_the_reference()


def test_a_step_that_cannot_be_captured_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def fail(action: Action) -> tuple[Replay, list[Tensor]]:
        tried.append(1)
        try:
            raise RuntimeError("\n operation not permitted when stream is capturing\n more")
        finally:
            # As the end of a capture does.
            raise RuntimeError("operation failed due to a previous error during capture")

    monkeypatch.setattr(graph, "GraphStep", partial(GraphStep, capture=fail))
    with pytest.warns(UserWarning, match="slower reference path: its step cannot be replayed"):
        left_to_the_reference()
    left_to_the_reference()
    assert len(tried) == 1
    reason = "RuntimeError: operation not permitted when stream is capturing"
    assert graph.why_not(MODEL, 20) == f"its step cannot be replayed as a graph ({reason})"
    # Another kind of model is tried.
    assert graph.why_not(tiny_model().float(), 20) is None


@pytest.mark.parametrize("kind", [kind for kind in CACHES if kind != "gemma3_text"])
def test_other_caches_are_left_to_the_reference(kind: str) -> None:
    model = model_of_cache(kind)
    # Of one length, since some of these models do not know padding.
    with pytest.warns(UserWarning, match="slower reference path: its step cannot be replayed"):
        left_to_the_reference(model, [[5, 6, 7]] * 6)


@pytest.mark.parametrize("cause", [torch.OutOfMemoryError, RuntimeError])
def test_a_card_without_memory_is_no_reason_to_go_on(
    cause: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(action: Action) -> tuple[Replay, list[Tensor]]:
        raise cause("CUDA out of memory")

    monkeypatch.setattr(graph, "GraphStep", partial(GraphStep, capture=full))
    with pytest.raises(cause, match="out of memory"):
        left_to_the_reference()


@pytest.mark.parametrize("wrong", ["tokens", "ends", "frozen"])
def test_a_replay_with_other_numbers_is_not_used(
    wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def elsewhere(action: Action) -> tuple[Replay, list[Tensor]]:
        replay, outputs = traced(action)
        done: list[int] = []

        def other() -> None:
            if wrong == "frozen":
                # What was captured, whatever is asked now.
                replay() if not done else None
                done.append(1)
                return
            replay()
            if wrong == "tokens":
                outputs[0].add_(1).remainder_(VOCABULARY)
            else:
                outputs[1].logical_not_()

        return other, outputs

    monkeypatch.setattr(graph, "GraphStep", partial(GraphStep, capture=elsewhere))
    with pytest.warns(UserWarning, match="its step gives other numbers"):
        left_to_the_reference()
