"""Sampling: the right distribution, the same answers however rows are batched, nobody's settings.

Models run in float64: an answer changes only where a draw falls between two values of a
cumulative sum, which are then as close as float32 logits allow.
"""

from __future__ import annotations

from collections import Counter
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from scipy import stats
from transformers import (
    GenerationConfig,
    PreTrainedModel,
)

from caches import CACHES, model_of_cache
from opdcliff.models.tokens.train_bpe import pad_left
from opdcliff.paths import conf_dir
from opdcliff.rollout import reference as module
from opdcliff.rollout.draws import (
    CALIBRATION_STREAM,
    EVALUATION_STREAM,
    FORCED_STREAM,
    TRAIN_STREAM,
    Rollout,
    uniforms,
)
from opdcliff.rollout.reference import InverseCdfSampler, sample
from tiny_rollout import EOS, PAD, PROMPTS, SETTINGS, VOCABULARY, tiny_model

MODEL = tiny_model()
MODELS = {torch.float64: MODEL, torch.float32: tiny_model().float()}


def _sample(
    prompts: list[list[int]],
    numbers: list[int],
    *,
    model: PreTrainedModel = MODEL,
    padding: int = 0,
    **changes: Any,
) -> Rollout:
    ids_BL, attention_BL = pad_left(prompts, PAD)
    if padding:
        ids_BL = torch.nn.functional.pad(ids_BL, (padding, 0), value=PAD)
        attention_BL = torch.nn.functional.pad(attention_BL, (padding, 0), value=0)
    return sample(model, ids_BL, attention_BL, numbers=numbers, **(SETTINGS | changes))


def _answers(model: PreTrainedModel = MODEL, **changes: Any) -> list[list[int]]:
    return _sample(PROMPTS, list(range(len(PROMPTS))), model=model, **changes).answers()


def _next_token(model: PreTrainedModel, ids: list[int], temperature: float) -> np.ndarray[Any, Any]:
    """Probabilities after `ids`: one row, no padding, no cache."""
    with torch.no_grad():
        logits_V = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
    return torch.softmax(logits_V.float().double() / temperature, -1).numpy()


def _slow_answer(prompt: list[int], number: int) -> list[int]:
    """What `sample` must return for one row, token by token."""
    answer: list[int] = []
    draws = np.random.default_rng([SETTINGS["seed"], SETTINGS["stream"], number]).random(12)
    for draw in draws:
        cdf = np.cumsum(_next_token(MODEL, prompt + answer, SETTINGS["temperature"]))
        answer.append(int(np.argmax(cdf > draw * cdf[-1])))
        if answer[-1] == EOS:
            break
    return answer


# Which answers


def test_answers_are_those_of_a_loop_over_single_rows() -> None:
    # As many as show an end, a run to the limit and padding sampled as an ordinary token.
    numbers = list(range(5 * len(PROMPTS)))
    expected = [_slow_answer(PROMPTS[n % len(PROMPTS)], n) for n in numbers]
    assert _sample(PROMPTS * 5, numbers).answers() == expected
    assert {len(answer) for answer in expected} >= {1, 12}
    assert any(PAD in answer[:-1] for answer in expected)


def test_answers_do_not_depend_on_the_batch() -> None:
    together = _answers()
    alone = [_sample([prompt], [n]).answers()[0] for n, prompt in enumerate(PROMPTS)]
    assert together == alone
    order = [4, 1, 7, 0, 6, 2, 5, 3]
    assert _sample([PROMPTS[n] for n in order], order).answers() == [together[n] for n in order]


def test_a_padding_token_inside_a_prompt_is_read_like_any_other() -> None:
    prompts = [[4, PAD, 5, PAD], [3, 2, 6, 8, 7, 7], [PAD, 9]]
    rollout = _sample(prompts, [0, 1, 2])
    assert rollout.answers() == [_slow_answer(prompt, n) for n, prompt in enumerate(prompts)]


@pytest.mark.parametrize("padding", [1, 9])
def test_answers_do_not_depend_on_padding(padding: int) -> None:
    assert _answers(padding=padding) == _answers()


def test_a_lower_limit_cuts_answers_and_changes_nothing_else() -> None:
    assert _answers(max_new_tokens=4) == [answer[:4] for answer in _answers()]


def test_answers_depend_on_running_number_seed_and_stream() -> None:
    one = [PROMPTS[1]] * 6
    first = _sample(one, list(range(6))).answers()
    assert len({tuple(answer) for answer in first}) > 3
    assert _sample(one, list(range(6)), seed=4).answers() != first
    assert _sample(one, list(range(6)), stream=EVALUATION_STREAM).answers() != first
    assert _sample(one, [5, 4, 3, 2, 1, 0]).answers() == first[::-1]


def test_the_global_generator_is_neither_read_nor_moved() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = _answers()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert _answers() == first


def test_uniforms_belong_to_a_number_not_to_a_place() -> None:
    first = uniforms([4, 9], 6, seed=1, stream=TRAIN_STREAM)
    assert first.dtype == torch.float64
    assert first.shape == (2, 6)
    assert torch.equal(uniforms([9, 4], 6, seed=1, stream=TRAIN_STREAM), first.flip(0))
    assert torch.equal(uniforms([4, 9], 3, seed=1, stream=TRAIN_STREAM), first[:, :3])
    streams = (TRAIN_STREAM, EVALUATION_STREAM, CALIBRATION_STREAM, FORCED_STREAM)
    assert len({uniforms([4], 1, seed=1, stream=s).item() for s in streams}) == 4


# The distribution


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_first_tokens_follow_the_softmax_at_the_temperature(temperature: float) -> None:
    prompt, count = PROMPTS[1], 4000
    rollout = _sample(
        [prompt] * count, list(range(count)), max_new_tokens=1, temperature=temperature
    )
    observed = np.bincount([answer[0] for answer in rollout.answers()], minlength=VOCABULARY)
    expected = count * _next_token(MODEL, prompt, temperature)
    assert expected.min() > 5
    assert stats.chisquare(observed, expected).pvalue > 1e-3
    # The same counts refute the other temperature, so the test has the power it needs.
    other = count * _next_token(MODEL, prompt, 1.7 - temperature)
    assert stats.chisquare(observed, other).pvalue < 1e-6


def test_pairs_of_tokens_follow_the_chain_of_two_softmaxes() -> None:
    model, prompt, count = tiny_model(vocabulary=5), [2, 3], 6000
    rollout = _sample([prompt] * count, list(range(count)), model=model, max_new_tokens=2)
    observed = Counter(tuple(answer) for answer in rollout.answers())
    first = _next_token(model, prompt, 0.7)
    expected = {(EOS,): first[EOS]}
    for a, b in product([0, 2, 3, 4], range(5)):
        expected[a, b] = first[a] * _next_token(model, [*prompt, a], 0.7)[b]
    assert observed.keys() <= expected.keys()
    # Rare pairs are counted as one.
    rare = [pair for pair, p in expected.items() if count * p < 10]
    common = [pair for pair in expected if pair not in rare]
    seen = [observed[pair] for pair in common] + [sum(observed[pair] for pair in rare)]
    due = [expected[pair] for pair in common] + [sum(expected[pair] for pair in rare)]
    assert stats.chisquare(seen, [count * p for p in due]).pvalue > 1e-3


def test_a_tiny_temperature_takes_the_likeliest_token() -> None:
    for prompt, answer in zip(PROMPTS, _answers(temperature=1e-4), strict=True):
        ids = list(prompt)
        for token in answer:
            assert token == int(_next_token(MODEL, ids, 1.0).argmax())
            ids.append(token)


def test_banned_tokens_are_never_sampled_and_the_rest_keeps_its_proportions() -> None:
    prompt, count, banned = PROMPTS[1], 4000, [0, 4, 10]
    banned_V = torch.zeros(VOCABULARY, dtype=torch.bool)
    banned_V[banned] = True
    rollout = _sample([prompt] * count, list(range(count)), max_new_tokens=1, banned_V=banned_V)
    observed = np.bincount([answer[0] for answer in rollout.answers()], minlength=VOCABULARY)
    kept = [token for token in range(VOCABULARY) if token not in banned]
    assert observed[banned].sum() == 0
    expected = _next_token(MODEL, prompt, 0.7)[kept]
    assert stats.chisquare(observed[kept], count * expected / expected.sum()).pvalue > 1e-3


@pytest.mark.parametrize("draw", [0.0, 0.5, 1.0 - 2.0**-53])
@pytest.mark.parametrize("banned", [{0}, {5}, {0, 1}, {4, 5}, {0, 1, 2, 4, 5}])
def test_no_draw_reaches_a_banned_token(draw: float, banned: set[int]) -> None:
    banned_V = torch.tensor([i in banned for i in range(6)])
    draws_BT = torch.full((200, 1), draw, dtype=torch.float64)
    sampler = InverseCdfSampler(draws_BT, 2, 0.7, banned_V)
    scores_BV = torch.randn(200, 6, generator=torch.Generator().manual_seed(0)) * 20
    chosen_BV = sampler(torch.zeros(200, 2, dtype=torch.long), scores_BV)
    assert torch.equal(chosen_BV.isfinite().sum(-1), torch.ones(200, dtype=torch.long))
    assert not banned_V[chosen_BV.argmax(-1)].any()


def test_tokens_of_tiny_probability_are_drawn_exactly() -> None:
    """A thousand tokens of 1e-9 each behind a likely one: float32 sums tell few of them apart."""
    scores_V = torch.zeros(1001)
    scores_V[0] = 14.0
    probabilities = torch.softmax(scores_V.double() / 0.7, -1)
    tail = probabilities[-1].item()
    assert 1e-9 < tail < 3e-9
    from_the_end = [3, 250, 500, 750, 997]
    draws_BT = torch.tensor([[1 - tail * (n + 0.5)] for n in from_the_end], dtype=torch.float64)
    sampler = InverseCdfSampler(draws_BT, 1, 0.7, None)
    chosen_B = sampler(torch.zeros(5, 1, dtype=torch.long), scores_V.expand(5, -1)).argmax(-1)
    assert chosen_B.tolist() == [1000 - n for n in from_the_end]


def test_scores_that_are_nan_raise_nothing() -> None:
    sampler = InverseCdfSampler(torch.full((2, 1), 0.5, dtype=torch.float64), 1, 1.0, None)
    chosen_BV = sampler(torch.zeros(2, 1, dtype=torch.long), torch.full((2, 4), torch.nan))
    assert torch.equal(chosen_BV.isfinite().sum(-1), torch.ones(2, dtype=torch.long))


# What comes back


def test_masks_lengths_and_ends_follow_from_the_first_end_token() -> None:
    count = 60
    rollout = _sample(PROMPTS[:1] * count, list(range(count)), max_new_tokens=8)
    assert rollout.mask_BT.shape == rollout.completion_BT.shape == (count, 8)
    rows = zip(
        rollout.completion_BT.tolist(),
        rollout.mask_BT.int().tolist(),
        rollout.ended_B.tolist(),
        rollout.lengths(),
        rollout.answers(),
        strict=True,
    )
    kinds = set()
    for row, mask, ended, length, answer in rows:
        assert ended == (EOS in row)
        assert length == (row.index(EOS) + 1 if ended else 8)
        assert mask == [1] * length + [0] * (8 - length)
        assert answer == row[:length]
        assert row[length:] == [PAD] * (8 - length)
        kinds.add((ended, length == 8))
    assert kinds == {(True, False), (True, True), (False, True)}


def test_ids_and_attention_hold_the_prompt_and_the_answer() -> None:
    rollout = _sample(PROMPTS, list(range(8)), padding=2)
    prompt_BL, attention_BL = pad_left(PROMPTS, PAD)
    width = prompt_BL.shape[1]
    assert torch.equal(rollout.ids_BL[:, 2 : 2 + width], prompt_BL)
    assert torch.equal(rollout.attention_BL[:, 2 : 2 + width], attention_BL)
    assert not rollout.attention_BL[:, :2].any()
    assert torch.equal(rollout.attention_BL[:, 2 + width :], rollout.mask_BT.long())
    assert rollout.ids_BL.shape == rollout.attention_BL.shape


def test_an_end_token_in_the_prompt_ends_nothing() -> None:
    prompts = [[EOS, 5, EOS], [4, EOS]]
    rollout = _sample(prompts, [0, 1])
    assert rollout.answers() == [_slow_answer(prompt, n) for n, prompt in enumerate(prompts)]
    assert max(rollout.lengths()) > 1


def test_sampling_stops_when_all_rows_have_ended() -> None:
    rollout = _sample(PROMPTS, list(range(8)), max_new_tokens=100)
    assert rollout.ended_B.all()
    assert rollout.mask_BT.shape[1] == max(rollout.lengths()) < 100


def test_without_an_end_every_row_runs_to_the_limit() -> None:
    banned_V = torch.arange(VOCABULARY) == EOS
    rollout = _sample(PROMPTS, list(range(8)), banned_V=banned_V)
    assert not rollout.ended_B.any()
    assert rollout.lengths() == [12] * 8


# Rows that have ended are dropped

LIMIT = 30
BANNED: dict[str, list[int]] = {
    "none": [],
    "some": [0, 4, 10],
    "the end": [EOS],
    "all but the end": [token for token in range(VOCABULARY) if token != EOS],
}


def _whole_and_shrinking(
    prompts: list[list[int]], numbers: list[int], **options: Any
) -> tuple[Rollout, Rollout]:
    changes = {"max_new_tokens": LIMIT} | options
    whole = _sample(prompts, numbers, whole_up_to=changes["max_new_tokens"], **changes)
    return whole, _sample(prompts, numbers, whole_up_to=0, **changes)


def _assert_equal(one: Rollout, other: Rollout) -> None:
    for name in ("ids_BL", "attention_BL", "mask_BT", "ended_B"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name


# A failure shrinks for minutes.
@settings(deadline=None, max_examples=25, phases=[Phase.generate])
@given(data=st.data())
def test_dropping_ended_rows_changes_nothing(data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.integers(0, 99), min_size=1, max_size=9, unique=True))
    banned = BANNED[data.draw(st.sampled_from(sorted(BANNED)))]
    banned_V = torch.isin(torch.arange(VOCABULARY), torch.tensor(banned, dtype=torch.long))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "RUNNING_SHARE", data.draw(st.sampled_from([0.3, 0.5, 0.9])))
        whole, shrinking = _whole_and_shrinking(
            [PROMPTS[n % len(PROMPTS)] for n in rows],
            rows,
            model=MODELS[data.draw(st.sampled_from(list(MODELS)))],
            max_new_tokens=data.draw(st.sampled_from([1, 7, LIMIT])),
            banned_V=banned_V if banned else None,
        )
    _assert_equal(whole, shrinking)


def test_a_step_computes_fewer_than_twice_the_rows_that_run() -> None:
    model = tiny_model()
    computed: list[int] = []
    model.register_forward_pre_hook(
        lambda module, inputs, given: computed.append(len(given["input_ids"])), with_kwargs=True
    )
    # One long answer among many short ones.
    numbers = list(range(64))
    whole = _sample([PROMPTS[0]] * 64, numbers, model=model, max_new_tokens=LIMIT)
    needed, longest = sum(whole.lengths()), max(whole.lengths())
    assert sum(computed) == 64 * longest > 2 * needed
    computed.clear()
    shrinking = _sample(
        [PROMPTS[0]] * 64, numbers, model=model, max_new_tokens=LIMIT, whole_up_to=0
    )
    assert needed <= sum(computed) < 2 * needed
    assert len(computed) == longest
    _assert_equal(whole, shrinking)


@pytest.mark.parametrize("kind", CACHES)
def test_ended_rows_are_dropped_or_kept_whatever_the_cache(kind: str) -> None:
    model = model_of_cache(kind)
    computed: list[int] = []
    model.register_forward_pre_hook(
        lambda module, inputs, given: computed.append(len(given["input_ids"])), with_kwargs=True
    )
    # Of one length, since some of these models do not know padding.
    options: dict[str, Any] = {"model": model, "end_ids": (EOS, 2, 3, 4, 5), "temperature": 2.0}
    whole, shrinking = _whole_and_shrinking([[5, 6, 7]] * 6, list(range(6)), **options)
    _assert_equal(whole, shrinking)
    assert 2 * sum(length < max(whole.lengths()) for length in whole.lengths()) > 6
    assert (set(computed) != {6}) == (kind == "gemma3_text")


def test_dropping_rows_leaves_logits_that_are_not_numbers_to_the_loss() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.lm_head.weight[:] = torch.nan
    whole, shrinking = _whole_and_shrinking(PROMPTS, list(range(8)), model=model, max_new_tokens=9)
    _assert_equal(whole, shrinking)
    assert whole.lengths() == [9] * 8


def test_answers_as_long_as_those_of_the_recorded_studies_are_decoded_whole() -> None:
    """Dropping rows can change the last bits of logits, and with them a recorded run."""
    for data in ("mini", "amazon_fashion"):
        room = yaml.safe_load((conf_dir() / "data" / f"{data}.yaml").read_text())["answer_room"]
        assert room <= module.WHOLE_UP_TO


# The model is left as it was, and its own settings are left alone

OWN_SETTINGS: dict[str, Any] = {
    "do_sample": {"do_sample": True, "top_k": 1, "temperature": 0.1, "top_p": 0.1},
    "warpers": {"do_sample": True, "min_p": 0.9, "typical_p": 0.2, "epsilon_cutoff": 0.5},
    "repetition_penalty": {"repetition_penalty": 9.0},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 1},
    "min_new_tokens": {"min_new_tokens": 10},
    "min_length": {"min_length": 18},
    "max_length": {"max_length": 9},
    "suppress_tokens": {"suppress_tokens": [2, 3, 4, 5, 6]},
    "begin_suppress_tokens": {"begin_suppress_tokens": [2, 3, 4, 5, 6, 7]},
    "forced_bos_token_id": {"forced_bos_token_id": 9},
    "forced_eos_token_id": {"forced_eos_token_id": 9},
    "bad_words_ids": {"bad_words_ids": [[2], [3], [4], [5]]},
    "sequence_bias": {"sequence_bias": [[[2], 50.0]]},
    "exponential_decay_length_penalty": {"exponential_decay_length_penalty": (1, 9.0)},
    "eos_token_id": {"eos_token_id": [2, 3, 4, 5, 6]},
    "pad_token_id": {"pad_token_id": 7},
    "num_beams": {"num_beams": 3},
    "num_return_sequences": {"num_return_sequences": 2, "num_beams": 2},
    "guidance_scale": {"guidance_scale": 4.0},
    "watermarking_config": {
        "watermarking_config": {"bias": 30.0, "greenlist_ratio": 0.3, "seeding_scheme": "lefthash"}
    },
    "stop_strings": {"stop_strings": ["a"]},
    "max_time": {"max_time": 1e-9},
    "return_dict_in_generate": {"return_dict_in_generate": True, "output_scores": True},
    "prompt_lookup": {"prompt_lookup_num_tokens": 3},
    "cache": {"use_cache": False},
    "static cache": {"cache_implementation": "static"},
    "renormalize_logits": {"renormalize_logits": True, "remove_invalid_values": True},
    "max_new_tokens": {"max_new_tokens": 2},
}


@pytest.mark.parametrize("name", OWN_SETTINGS)
def test_the_models_own_generation_settings_are_not_used_and_are_kept(name: str) -> None:
    expected = _sample(PROMPTS, list(range(8)))
    model = tiny_model()
    own = GenerationConfig(**OWN_SETTINGS[name])
    before = own.to_dict()
    model.generation_config = own
    rollout = _sample(PROMPTS, list(range(8)), model=model)
    assert torch.equal(rollout.ids_BL, expected.ids_BL)
    assert model.generation_config is own
    assert own.to_dict() == before


@pytest.mark.parametrize("training", [True, False])
def test_mode_and_settings_are_restored_even_after_an_error(training: bool) -> None:
    model = tiny_model().train(training)
    own = model.generation_config
    _answers(model)
    assert (model.training, model.generation_config) == (training, own)
    assert all(module.training is training for module in model.modules())

    def fails(*_: Any) -> None:
        raise RuntimeError("out of memory")

    model.model.register_forward_pre_hook(fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        _answers(model)
    assert model.training is training
    assert model.generation_config is own


def test_dropout_is_off_while_sampling() -> None:
    model = tiny_model(dropout=0.9)
    assert _answers(model.train()) == _answers(model.eval())
    # It would show: a forward in training mode differs.
    ids = torch.tensor([PROMPTS[1]])
    assert not torch.allclose(model.train()(ids).logits, model.eval()(ids).logits)


def test_no_gradient_is_kept() -> None:
    model = tiny_model()
    rollout = _sample(PROMPTS, list(range(8)), model=model)
    assert not rollout.ids_BL.requires_grad
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("changes", [{}, {"whole_up_to": 0}, {"pad_id": EOS}])
def test_any_of_the_end_tokens_ends_an_answer(changes: dict[str, Any]) -> None:
    other, numbers = 4, list(range(32))
    longer = _sample(PROMPTS * 4, numbers).answers()
    expected = [
        answer[: answer.index(other) + 1] if other in answer else answer for answer in longer
    ]
    assert expected != longer
    rollout = _sample(PROMPTS * 4, numbers, end_ids=(EOS, other), **changes)
    assert rollout.answers() == expected
    assert rollout.ended_B.tolist() == [answer[-1] in (EOS, other) for answer in expected]
