"""Settled students of every family, and of models that forbid entries, against whole passes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from families import FAMILIES, WINDOW, build
from forbidding import forbid
from opdcliff.models.tokens.train_bpe import pad_left
from opdcliff.preview.sampling import SettledAnswers, sample_settled
from opdcliff.preview.settled import settled
from opdcliff.rollout import reference
from opdcliff.rollout.draws import EVALUATION_STREAM, draw_tokens, uniforms
from opdcliff.theory.clip_rules import ClipRule

ENTRIES, STEPS, TEMPERATURE, SEED = 40, 16, 0.8, 4
# Twice as many rows as are left when ended ones are dropped no more.
LENGTHS = (3, 17, 9, 5, 12, 4, 7, 10)
LAMS = (1.0, 1.3, 2.0, 3.0, 1.1, 1.6, 2.5, 1.4)


def pair(family: str, **changes: Any) -> tuple[PreTrainedModel, PreTrainedModel]:
    """Teacher and base in float64, but for a family whose attention is eager in float32."""
    made = (build(family, seed, vocab_size=ENTRIES, **changes) for seed in (0, 1))
    teacher, base = (model if family == "gemma2" else model.double() for model in made)
    return teacher, base


def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randint(2, ENTRIES, (n,), generator=generator).tolist() for n in LENGTHS]


def numbers() -> Tensor:
    return uniforms(range(len(LENGTHS)), STEPS, SEED, EVALUATION_STREAM)


def sampled(
    teacher: PreTrainedModel, base: PreTrainedModel, lams: tuple[float, ...], end: int = 1
) -> SettledAnswers:
    lam_B1 = torch.tensor(lams, dtype=torch.float64)[:, None]
    return sample_settled(
        teacher,
        base,
        *pad_left(prompts(), 0),
        lam_B1=lam_B1,
        strength_B1=torch.full_like(lam_B1, 3.0),
        rule=ClipRule.MASK,
        margin=0.0,
        uniform_BT=numbers(),
        temperature=TEMPERATURE,
        end_ids=(end,),
        pad_id=0,
    )


@torch.no_grad()
def slowly(
    teacher: PreTrainedModel, base: PreTrainedModel, lams: tuple[float, ...], end: int
) -> list[list[int]]:
    """One row after another, without padding and without a cache."""
    found = []
    for prompt, lam, uniform_T in zip(prompts(), lams, numbers(), strict=True):
        ids = list(prompt)
        for uniform in uniform_T:
            seen = torch.tensor([ids])
            logits = [model(input_ids=seen).logits[0, -1:] for model in (teacher, base)]
            logp = [torch.log_softmax(each.double() / TEMPERATURE, -1) for each in logits]
            one = torch.ones(1, 1, dtype=torch.float64)
            mixed_1V, _ = settled(*logp, lam * one, rule=ClipRule.MASK, strength_R1=3.0 * one)
            ids.append(int(draw_tokens(mixed_1V, uniform.reshape(1, 1), 1.0, None)))
            if ids[-1] == end:
                break
        found.append(ids[len(prompt) :])
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_settles_as_whole_passes_of_its_own_say(family: str) -> None:
    """Beyond the window of sliding layers, with rows that end and are dropped on the way."""
    teacher, base = pair(family)
    whole = slowly(teacher, base, LAMS, end=-1)
    # What the second row says last ends answers, so that the others go on or end before.
    end = whole[1][WINDOW + 2]
    expected = slowly(teacher, base, LAMS, end)
    assert len({len(answer) for answer in expected}) > 1
    assert max(map(len, expected)) > WINDOW
    assert sampled(teacher, base, LAMS, end).rollout.answers() == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_its_teacher_without_extrapolation(family: str) -> None:
    teacher, base = pair(family)
    found = sampled(teacher, base, (1.0,) * len(LENGTHS))
    own = reference.sample(
        teacher,
        *pad_left(prompts(), 0),
        numbers=range(len(LENGTHS)),
        seed=SEED,
        stream=EVALUATION_STREAM,
        max_new_tokens=STEPS,
        temperature=TEMPERATURE,
        end_ids=(1,),
        pad_id=0,
    )
    assert found.rollout.answers() == own.answers()


@pytest.mark.parametrize(
    ("of_teacher", "of_base"), [([30, 31], [30, 31]), ([30, 31], []), ([], [30, 31])]
)
def test_entries_that_a_model_forbids_are_never_said(
    of_teacher: list[int], of_base: list[int]
) -> None:
    """Padding rows of -inf in either or both: no NaN, and answers of what is left."""
    teacher, base = pair("qwen3", tie_word_embeddings=False)
    forbid(teacher, of_teacher)
    forbid(base, of_base)
    found = sampled(teacher, base, LAMS)
    said = {token for answer in found.rollout.answers() for token in answer}
    assert said.isdisjoint({30, 31})
    assert len(said) > 5
    assert found.kl_BT.isfinite().all()
    assert found.lost_BT.isfinite().all()
    assert not torch.isin(found.gone_BT, torch.tensor(of_teacher or [-2])).any()
    assert math.isfinite(float(found.kl_BT.mean()))
