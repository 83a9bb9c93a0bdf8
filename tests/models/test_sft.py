"""Fine-tuning: the gradient of the mean token loss, on answer tokens alone, reproducibly."""

from __future__ import annotations

import copy
from dataclasses import asdict
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from markov import codec_of
from opdcliff.data.answers import AnswerStyle
from opdcliff.data.mini import SplitSizes, generate
from opdcliff.errors import ModelError
from opdcliff.models import sft
from opdcliff.models.batches import IGNORE, sft_batches
from opdcliff.models.load import build
from opdcliff.models.sft import FINAL_LR_SHARE, answer_style, fine_tune
from opdcliff.models.tokens.train_bpe import train_bpe
from opdcliff.settings.schema import ArchConfig, RoleConfig, SftConfig

Rows = list[tuple[list[int], list[int]]]

EXAMPLES = generate(0, SplitSizes(30, 1, 1), candidates=2).train
TOKENIZER = train_bpe([e.prompt + '{"ranking":["A","B"],"reason":" soft"}' for e in EXAMPLES], 320)
CODEC = codec_of(TOKENIZER)
STYLE = AnswerStyle(
    continue_mass=0.7, corrupt_rate=0.3, swap_rate=0.2, long_share=0.5, long_words=9
)
CPU = torch.device("cpu")


def _model(seed: int = 0) -> PreTrainedModel:
    arch = ArchConfig(
        family="qwen3",
        hidden_size=16,
        intermediate_size=24,
        layers=1,
        heads=2,
        kv_heads=1,
        head_dim=8,
        max_positions=128,
    )
    return build(arch, TOKENIZER, seed)


def _role(**changes: Any) -> RoleConfig:
    values = {
        "steps": 4,
        "lr": 1e-2,
        "continue_mass": 0.6,
        "corrupt_rate": 0.0,
        "swap_rate": 0.0,
    }
    return RoleConfig(**(values | changes))


def _config(**changes: Any) -> SftConfig:
    values = {
        "teacher": _role(),
        "student": _role(),
        "batch_size": 8,
        "micro_batch": None,
        "lora_rank": None,
        "warmup_steps": 2,
        "weight_decay": 0.0,
        "grad_clip": 1.0,
        "long_share": 0.0,
        "long_words": 5,
        "seed": 0,
    }
    return SftConfig(**(values | changes))


def _tune(
    model: PreTrainedModel, role: RoleConfig, config: SftConfig | None = None, **changes: Any
) -> float:
    settings = {"seed": 0, "with_reason": True} | changes
    return fine_tune(model, CODEC, EXAMPLES, config or _config(), role, **settings)


def _state(model: PreTrainedModel) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def _rows(count: int, style: AnswerStyle = STYLE) -> Rows:
    return next(sft_batches(CODEC, EXAMPLES, style, steps=1, batch_size=count, seed=1))


def _slow_loss(model: PreTrainedModel, rows: Rows) -> Tensor:
    """Mean over all loss-carrying tokens: row by row, token by token, no padding, no split."""
    terms = []
    for ids, labels in rows:
        logp_LV = torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0], -1)
        terms += [-logp_LV[t - 1, label] for t, label in enumerate(labels) if label != IGNORE]
    return torch.stack(terms).mean()


# The gradient


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_the_gradient_is_that_of_one_unsplit_pass(count: int) -> None:
    rows = _rows(count)
    fast = _model().double()
    slow = copy.deepcopy(fast)
    loss = sft._accumulate(fast, rows, TOKENIZER.pad_token_id, CPU)
    expected = _slow_loss(slow, rows)
    expected.backward()  # type: ignore[no-untyped-call]
    assert loss == pytest.approx(expected.item(), rel=1e-6)
    for (name, one), other in zip(fast.named_parameters(), slow.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-8, msg=name)


def test_rows_weigh_by_their_tokens_not_by_their_part() -> None:
    """A mean of the two parts' means would be another number: lengths differ on purpose."""
    rows = sorted(_rows(8), key=lambda row: len(row[0]))
    model = _model()
    with torch.no_grad():
        of_parts = [_slow_loss(model, part).item() for part in (rows[:5], rows[5:])]
        whole = _slow_loss(model, rows).item()
    assert abs(sum(of_parts) / 2 - whole) > 2e-5
    assert sft._accumulate(model, rows, TOKENIZER.pad_token_id, CPU) == pytest.approx(whole)


def test_only_answer_tokens_and_the_end_carry_loss() -> None:
    model = _model()
    seen: list[Tensor] = []

    def keep(_module: Any, _inputs: Any, output: Any) -> None:
        output.logits.retain_grad()
        seen.append(output.logits)

    model.register_forward_hook(keep)
    rows = sorted(_rows(6), key=lambda row: len(row[0]))
    sft._accumulate(model, rows, TOKENIZER.pad_token_id, CPU)
    gradients = [row_LV for logits in seen for row_LV in logits.grad]  # type: ignore[union-attr]
    silent = 0
    for (ids, labels), gradient_LV in zip(rows, gradients, strict=True):
        touched = gradient_LV.abs().sum(-1) > 0
        # The position before a token is the one that predicts it.
        predicts = [label != IGNORE for label in labels[1:]]
        padding = len(touched) - len(predicts)
        assert touched.tolist() == predicts + [False] * padding
        # The end token is the last one predicted.
        assert ids[-1] == TOKENIZER.eos_token_id
        assert touched[len(ids) - 2]
        silent += labels[labels.index(next(i for i in labels if i != IGNORE)) :].count(IGNORE)
    assert silent > 0


# The run


def test_the_loss_falls() -> None:
    first = _tune(_model(), _role(steps=1))
    last = _tune(_model(), _role(steps=60))
    assert last < 0.5 * first


def test_the_returned_loss_is_that_of_the_last_batch_before_its_step() -> None:
    config = _config()
    style = answer_style(config, _role(), with_reason=True)
    rows = next(sft_batches(CODEC, EXAMPLES, style, steps=1, batch_size=8, seed=0))
    with torch.no_grad():
        expected = _slow_loss(_model(), rows).item()
    assert _tune(_model(), _role(steps=1)) == pytest.approx(expected)


def test_a_run_is_a_function_of_model_and_seed() -> None:
    def weights(seed: int) -> dict[str, Tensor]:
        torch.seed()
        model = _model()
        _tune(model, _role(), seed=seed)
        return _state(model)

    first, again, other = weights(0), weights(0), weights(1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_progress_is_told_in_training_mode_and_the_model_left_in_evaluation_mode() -> None:
    model = _model().eval()
    told: list[tuple[int, bool]] = []
    _tune(model, _role(steps=3), advance=lambda step: told.append((step, model.training)))
    assert told == [(1, True), (2, True), (3, True)]
    assert not model.training


def test_the_learning_rate_rises_falls_and_keeps_a_floor() -> None:
    shares = [sft._lr_share(step, 100, 10) for step in range(100)]
    assert shares[:9] == pytest.approx([(step + 1) / 10 for step in range(9)])
    assert shares[10:98] == pytest.approx([1 - step / 100 for step in range(10, 98)])
    assert shares[98:] == pytest.approx([FINAL_LR_SHARE] * 2)
    assert sft._lr_share(0, 100, 0) == 1.0


def test_the_schedule_scales_the_steps() -> None:
    """Weight decay alone, once the gradient is clipped to nothing, shows each step's size."""
    model = _model()
    before = _state(model)
    config = _config(weight_decay=0.5, grad_clip=1e-14, warmup_steps=3)
    _tune(model, _role(steps=3, lr=0.1), config)
    shrunk = 1.0
    for share in (1 / 3, 2 / 3, 1 / 3):
        shrunk *= 1 - 0.1 * share * 0.5
    for name, value in _state(model).items():
        torch.testing.assert_close(value, before[name] * shrunk, rtol=1e-4, atol=1e-5)


def test_a_run_is_plain_adamw_on_the_mean_loss_of_each_batch() -> None:
    config, role = _config(weight_decay=0.1, warmup_steps=1), _role(steps=4)
    fast, slow = _model(), _model()
    before = torch.nn.utils.parameters_to_vector(slow.parameters()).detach().clone()
    _tune(fast, role, config)
    batches = sft_batches(
        CODEC,
        EXAMPLES,
        answer_style(config, role, with_reason=True),
        steps=4,
        batch_size=8,
        seed=0,
    )
    optimizer = torch.optim.AdamW(slow.parameters(), lr=role.lr, weight_decay=0.1)
    for rows, share in zip(batches, (1.0, 0.75, 0.5, 0.25), strict=True):
        optimizer.param_groups[0]["lr"] = role.lr * share
        optimizer.zero_grad()
        _slow_loss(slow, rows).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(slow.parameters(), config.grad_clip)
        optimizer.step()
    moved = torch.nn.utils.parameters_to_vector(slow.parameters()) - before
    error = torch.nn.utils.parameters_to_vector(fast.parameters()) - before - moved
    assert error.norm() < 1e-3 * moved.norm()


def test_the_gradient_is_clipped() -> None:
    free, clipped = _model(), _model()
    before = _state(free)
    _tune(free, _role(steps=1), _config())
    _tune(clipped, _role(steps=1), _config(grad_clip=1e-14))
    moved = [
        max((_state(model)[name] - before[name]).abs().max().item() for name in before)
        for model in (free, clipped)
    ]
    assert moved[0] > 1e-3
    assert moved[1] < 1e-6


def test_a_gradient_that_is_not_finite_stops_the_run_before_it_does_harm() -> None:
    model = _model()
    broken = model.model.layers[0].mlp.up_proj.weight
    done: list[int] = []

    def advance(step: int) -> None:
        done.append(step)
        if step == 2:
            with torch.no_grad():
                broken[0, 0] = torch.inf

    with pytest.raises(ModelError, match=r"diverged at step 3: loss nan, .*it is 0\.01\)"):
        _tune(model, _role(), advance=advance)
    assert done == [1, 2]
    assert sum((~value.isfinite()).sum().item() for value in model.parameters()) == 1


# The style


def test_the_style_takes_its_numbers_from_role_and_config() -> None:
    role = _role(continue_mass=0.61, corrupt_rate=0.12, swap_rate=0.13)
    config = _config(long_share=0.14, long_words=15)
    style = answer_style(config, role, with_reason=False, titles=("Red Hat",))
    assert asdict(style) == {
        "continue_mass": 0.61,
        "corrupt_rate": 0.12,
        "swap_rate": 0.13,
        "long_share": 0.14,
        "long_words": 15,
        "with_reason": False,
        "titles": ("Red Hat",),
    }


def test_a_run_draws_its_answers_in_that_style(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []

    def recorded(codec: Any, examples: Any, style: AnswerStyle, **settings: Any) -> Any:
        asked.append((style, settings))
        return sft_batches(codec, examples, style, **settings)

    monkeypatch.setattr(sft, "sft_batches", recorded)
    role, config = _role(steps=2, corrupt_rate=0.5), _config(long_share=0.3, batch_size=3)
    _tune(_model(), role, config, seed=9, with_reason=False, titles=("Red Hat",))
    style = answer_style(config, role, with_reason=False, titles=("Red Hat",))
    assert asked == [(style, {"steps": 2, "batch_size": 3, "seed": 9})]
