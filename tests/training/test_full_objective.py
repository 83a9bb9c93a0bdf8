"""The full estimator in chunks: what whole tensors give, without whole tensors."""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from transformers import PreTrainedModel

import families
import markov
from forbidding import forbid
from opdcliff.engine.single import SingleEngine
from opdcliff.errors import ConfigError, ModelError
from opdcliff.models.trio import Trio, fresh_student
from opdcliff.rollout import scoring
from opdcliff.rollout.draws import Rollout
from opdcliff.settings.schema import LoraConfig, RunConfig
from opdcliff.theory.clip_rules import ClipRule
from opdcliff.training.full_objective import Frozen, fold_topk, full_loss
from opdcliff.training.objective import LossOutput
from opdcliff.training.parts import unchanged
from opdcliff.training.update import Batch, accumulate
from whole_logp import completion_full_logp

ROWS, PROMPT, ANSWER, ENTRIES = 3, 7, 9, 53
RULES = [rule for rule in ClipRule if not rule.uses_policy_ratio]
STRENGTH, TEMPERATURE = 1.5, 0.8
# Kept whole, cut between rows and inside of them, and token by token.
CHUNKS = (None, 9, 4, 1)


@pytest.fixture
def chunks(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Bounds so low that chunks of any size are run again in the backward pass."""
    monkeypatch.setattr(scoring, "CPU_CHUNK_LOGITS", ANSWER * ENTRIES)
    return monkeypatch


@functools.cache
def settings() -> RunConfig:
    return markov.config(
        "optim.estimator=full", f"rollout.temperature={TEMPERATURE}", f"clip.strength={STRENGTH}"
    )


@dataclass
class World:
    """Three models, a batch with padding on both sides, and the settings of a loss."""

    student: PreTrainedModel
    teacher: PreTrainedModel
    base: PreTrainedModel
    rollout: Rollout
    lam: float = 1.4
    rule: ClipRule = ClipRule.MASK
    topk: int | None = None

    def config(self, chunk: int | None, micro: int) -> RunConfig:
        config = copy.deepcopy(settings())
        config.optim.topk = self.topk
        config.engine.micro_batch = micro
        config.engine.score_chunk_tokens = chunk or 4096
        return config

    def batch(self, micro: int = ROWS) -> Batch:
        """Its parts are rows as they come, so that their sizes are known."""
        parts = list(torch.arange(ROWS).split(micro))
        teacher, base = (
            Frozen.of(m, self.rollout, parts, unchanged) for m in (self.teacher, self.base)
        )
        count = int(self.rollout.mask_BT.sum())
        examples = [markov.example(i) for i in range(ROWS)]
        return Batch(examples, self.rollout, parts, teacher, base, None, count)

    def chunked(self, chunk: int | None = None, micro: int = ROWS, **engine: Any) -> Found:
        """What an update makes, as the loop does it."""
        config = self.config(chunk, micro)
        vars(config.engine).update(engine)
        self.student.zero_grad()
        one = SingleEngine(self.student, config)
        output = accumulate(config, self.rule, self.lam, self.batch(micro), one)
        return found(output, one._masters.named)

    def whole(self) -> Found:
        """The same of log-probs of all tokens at once."""
        self.student.zero_grad()
        inputs = (self.rollout.ids_BL, self.rollout.attention_BL, ANSWER)
        student, teacher, base = (
            completion_full_logp(model, *inputs, temperature=TEMPERATURE)
            for model in (self.student, self.teacher, self.base)
        )
        entries: Any = (student, teacher.detach(), base.detach())
        index = None
        if self.topk is not None:
            *entries, index = fold_topk(*entries, self.topk)
        output = full_loss(
            *entries,
            self.rollout.mask_BT,
            lam=self.lam,
            rule=self.rule,
            strength=STRENGTH,
            token_count=int(self.rollout.mask_BT.sum()),
            index_BTK=index,
        )
        output.loss.backward()  # type: ignore[no-untyped-call]
        return found(output, self.student.named_parameters())


@dataclass
class Found:
    """A loss, its values per token, and the gradient of every trained parameter."""

    loss: Tensor
    per_token: Tensor
    gradients: dict[str, Tensor]

    def equals(self, other: Found) -> None:
        tolerance = 1e-6 if self.loss.dtype == torch.float32 else 1e-12
        options: dict[str, Any] = {"rtol": tolerance, "atol": tolerance}
        torch.testing.assert_close(self.loss, other.loss, **options)
        torch.testing.assert_close(self.per_token, other.per_token, **options)
        assert self.gradients.keys() == other.gradients.keys()
        for name, gradient in self.gradients.items():
            torch.testing.assert_close(gradient, other.gradients[name], **options)


def found(output: LossOutput, named: Iterable[tuple[str, nn.Parameter]]) -> Found:
    per_token = torch.stack([output.advantage_BT, output.clipped_BT, output.kl_BT])
    gradients = {n: p.grad.clone() for n, p in named if p.grad is not None}
    assert max(float(g.abs().max()) for g in gradients.values()) > 1e-3
    return Found(output.loss.detach(), per_token.detach(), gradients)


def world(
    family: str = "qwen3",
    entries: int = ENTRIES,
    dtype: torch.dtype = torch.float64,
    **changes: Any,
) -> World:
    student, teacher, base = (
        families.build(family, seed, vocab_size=entries, **changes).to(dtype) for seed in range(3)
    )
    for frozen in (teacher, base):
        frozen.requires_grad_(False)
    generator = torch.Generator().manual_seed(3)
    ids_BL = torch.randint(2, entries, (ROWS, PROMPT + ANSWER), generator=generator)
    attention_BL = torch.ones_like(ids_BL)
    attention_BL[0, :4] = 0
    attention_BL[1, -3:] = 0
    mask_BT = attention_BL[:, -ANSWER:].bool()
    rollout = Rollout(ids_BL, attention_BL, mask_BT, torch.ones(ROWS, dtype=torch.bool))
    return World(student, teacher, base, rollout)


# ---- the same numbers ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("lam", [0.0, 1.0, 1.7])
@pytest.mark.parametrize("rule", RULES)
def test_chunks_of_any_size_give_loss_values_and_gradient_of_whole_tensors(
    rule: ClipRule, lam: float, dtype: torch.dtype, chunks: pytest.MonkeyPatch
) -> None:
    w = replace(world(dtype=dtype), rule=rule, lam=lam)
    expected = w.whole()
    assert (expected.per_token[:, ~w.rollout.mask_BT] == 0.0).all()
    assert (expected.per_token[1].max() > 0.01) == (rule is not ClipRule.NONE)
    for chunk in CHUNKS:
        w.chunked(chunk).equals(expected)


@pytest.mark.parametrize("keep", [1, 20, ENTRIES - 1])
def test_a_fold_is_that_of_whole_tensors(keep: int, chunks: pytest.MonkeyPatch) -> None:
    w = replace(world(), topk=keep)
    expected = w.whole()
    for chunk in CHUNKS:
        w.chunked(chunk).equals(expected)


@pytest.mark.parametrize("family", ["gemma2", "gpt2", "olmo2", "phi3"])
def test_other_families_give_what_whole_tensors_do(family: str, chunks: pytest.MonkeyPatch) -> None:
    # Gemma 2 has eager attention only, which in float64 gives NaN on rows that are padding.
    w = world(family, dtype=torch.float32)
    assert (w.batch().teacher.kept_BTX is None) == (family == "gemma2")  # type: ignore[union-attr]
    expected = w.whole()
    for chunk, micro in itertools.product((None, 4), (ROWS, 1)):
        w.chunked(chunk, micro).equals(expected)


@pytest.mark.parametrize("options", [{}, {"gradient_checkpointing": True}])
def test_parts_of_a_batch_sum_to_it(options: dict[str, Any], chunks: pytest.MonkeyPatch) -> None:
    w = world()
    expected = w.whole()
    for chunk, micro in itertools.product((None, 4), (1, 2)):
        w.chunked(chunk, micro, **options).equals(expected)


def test_an_adapter_on_the_head_learns_alike(chunks: pytest.MonkeyPatch) -> None:
    w = world("qwen3", tie_word_embeddings=False)
    lora = LoraConfig(rank=4, alpha=8.0, dropout=0.0, targets=["q_proj", "lm_head"])
    trio = Trio(w.student, w.teacher, w.base, markov.codec_of(markov.tokenizer(3)))
    w.student = fresh_student(trio, lora).student
    with torch.no_grad():
        for name, parameter in w.student.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0.0, 0.1)
    expected = w.whole()
    assert any("lm_head" in name for name in expected.gradients)
    assert all("lora" in name for name in expected.gradients)
    for chunk in CHUNKS:
        w.chunked(chunk).equals(expected)


def test_models_in_bfloat16_differ_by_the_rounding_of_sums(chunks: pytest.MonkeyPatch) -> None:
    """Chunks round the gradient of the head once more per chunk: eight binary digits each time."""
    w = world()
    for model in (w.student, w.teacher, w.base):
        model.to(torch.bfloat16)
    expected, got = w.whole(), w.chunked(4)
    assert got.loss.dtype == got.per_token.dtype == torch.float32
    torch.testing.assert_close(got.loss, expected.loss)
    torch.testing.assert_close(got.per_token, expected.per_token)
    for name, gradient in got.gradients.items():
        scale = float(expected.gradients[name].abs().max())
        assert float((gradient - expected.gradients[name]).abs().max()) <= 0.04 * scale, name


# ---- forbidden entries and errors ------------------------------------------------------------


@pytest.mark.parametrize("topk", [None, 20])
def test_entries_that_all_models_forbid_count_nothing_in_chunks(
    topk: int | None, chunks: pytest.MonkeyPatch
) -> None:
    w = replace(world(tie_word_embeddings=False), topk=topk)
    for model in (w.student, w.teacher, w.base):
        forbid(model, [0, ENTRIES - 1])
    expected = w.whole()
    assert all(gradient.isfinite().all() for gradient in expected.gradients.values())
    for chunk in CHUNKS:
        w.chunked(chunk).equals(expected)


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("topk", [None, ENTRIES - 2])
def test_what_the_teacher_alone_forbids_is_the_same_line(
    topk: int | None, chunk: int | None, chunks: pytest.MonkeyPatch
) -> None:
    w = replace(world(tie_word_embeddings=False), topk=topk)
    forbid(w.teacher, [11])
    with pytest.raises(ModelError) as whole:
        w.whole()
    with pytest.raises(ModelError) as chunked:
        w.chunked(chunk)
    assert str(chunked.value) == str(whole.value)
    replace(w, rule=ClipRule.TWO_SIDED).chunked(chunk)


def test_a_fold_of_nothing_and_a_rule_on_another_ratio_are_refused() -> None:
    with pytest.raises(ConfigError, match=f"keep={ENTRIES} of {ENTRIES}"):
        replace(world(), topk=ENTRIES).chunked()
    with pytest.raises(ConfigError, match="sampled tokens only"):
        replace(world(), rule=ClipRule.PPO).chunked()


# ---- what it takes ---------------------------------------------------------------------------

MANY = 997


class MostTokens(TorchDispatchMode):
    """Tokens whose vocabulary is in one tensor: the most of all that are made, and of those kept.

    width: of the head, whose weight and gradient are left out.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self._heads = {(MANY, width), (width, MANY)}
        self.made = self.kept = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, Tensor):
                self.made = max(self.made, self._tokens(value))
        return result

    def keep(self, tensor: Tensor) -> Tensor:
        self.kept = max(self.kept, self._tokens(tensor))
        return tensor

    def _tokens(self, tensor: Tensor) -> int:
        last = tuple(tensor.shape[-2:])
        return 0 if MANY not in last or last in self._heads else tensor.numel() // MANY


def most_tokens(w: World, chunk: int | None = None, micro: int = ROWS) -> tuple[int, int]:
    """Of an update, frozen models included: tokens in a tensor that is made, and in one kept."""
    most = MostTokens(w.student.config.hidden_size)
    with most, torch.autograd.graph.saved_tensors_hooks(most.keep, lambda tensor: tensor):
        w.chunked(chunk, micro)
    return most.made, most.kept


@pytest.mark.parametrize("topk", [None, 20])
def test_no_tensor_has_the_vocabulary_of_more_tokens_than_a_chunk(
    topk: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    w = replace(world(entries=MANY), topk=topk)
    tokens = ROWS * ANSWER
    # All of it, where that is allowed: what follows would be seen.
    assert most_tokens(w) == (tokens, tokens)
    monkeypatch.setattr(scoring, "CPU_CHUNK_LOGITS", 5 * MANY + 3)
    assert most_tokens(w) == (5, 0)
    assert most_tokens(w, 2) == (2, 0)
    # A vocabulary beyond the bound goes token by token.
    monkeypatch.setattr(scoring, "CPU_CHUNK_LOGITS", MANY - 1)
    assert most_tokens(w) == (1, 0)


def test_a_model_without_a_plain_head_keeps_logits_of_the_answers_at_hand_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scoring, "CPU_CHUNK_LOGITS", 5 * MANY)
    w = world("gemma2", entries=MANY, dtype=torch.float32)
    for micro in (1, 2):
        # One more than the answer: what the last token of the prompt predicts is its first.
        made, _ = most_tokens(w, micro=micro)
        assert made == micro * (ANSWER + 1)


def test_the_frozen_models_run_their_backbones_once_for_several_updates(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And heads as often as there are chunks: twice where the logits are too many to be kept."""
    w, calls = world(), {"backbone": 0, "head": 0, "base": 0}

    def count(name: str) -> Any:
        def hook(*_: Any) -> None:
            calls[name] += 1

        return hook

    w.teacher.base_model.register_forward_hook(count("backbone"))
    w.teacher.get_output_embeddings().register_forward_hook(count("head"))
    w.base.get_output_embeddings().register_forward_hook(count("base"))
    batch, config = w.batch(), w.config(ANSWER, ROWS)
    one = SingleEngine(w.student, config)
    accumulate(config, w.rule, w.lam, batch, one)
    assert calls == {"backbone": 1, "head": 3, "base": 3}
    monkeypatch.setattr(scoring, "CPU_CHUNK_LOGITS", ANSWER * ENTRIES)
    accumulate(config, w.rule, w.lam, batch, one)
    assert calls == {"backbone": 1, "head": 9, "base": 9}
    # While lam warms up it is 1, and no base is read.
    accumulate(config, w.rule, 1.0, batch, one)
    assert calls == {"backbone": 1, "head": 15, "base": 9}
