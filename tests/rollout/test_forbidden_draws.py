"""Entries that a model forbids: never sampled, scored as -inf, and no NaN in any gradient."""

from __future__ import annotations

import pytest
import torch

from forbidding import forbid
from opdcliff.models.tokens.train_bpe import pad_left
from opdcliff.rollout.backends import sample
from opdcliff.rollout.draws import draw_tokens
from opdcliff.rollout.scoring import completion_logp, iter_full_logp
from tiny_rollout import PROMPTS, SETTINGS, VOCABULARY, tiny_model
from whole_logp import completion_full_logp

# The padding token is among them.
FORBIDDEN = (0, 9, 10)


def test_the_first_and_the_last_draw_take_tokens_that_have_mass() -> None:
    """0 and the largest float64 below 1, over sums that round to either side of 1."""
    none = -torch.inf
    logits = torch.tensor([[none, 0.3, -1.0, none, 0.1, none, none]], dtype=torch.float64)
    ends = torch.tensor([[0.0], [1.0 - 2.0**-53]], dtype=torch.float64)
    for shift in torch.linspace(0.0, 3.0, 301, dtype=torch.float64):
        moved = logits.index_add(1, torch.tensor([1]), shift.view(1, 1)).expand(2, -1)
        assert draw_tokens(moved, ends, 1.0, None).flatten().tolist() == [1, 4]


@pytest.mark.parametrize("backend", ["reference", "continuous"])
def test_what_a_model_forbids_is_not_sampled(backend: str) -> None:
    prompt_BL, attention_BL = pad_left(PROMPTS * 8, 0)
    model = forbid(tiny_model(), FORBIDDEN)
    options = SETTINGS | {"numbers": range(len(prompt_BL)), "temperature": 3.0, "backend": backend}
    rollout = sample(model, prompt_BL, attention_BL, **options)
    drawn = {token for answer in rollout.answers() for token in answer}
    assert drawn == set(range(VOCABULARY)) - set(FORBIDDEN)


def test_scores_are_minus_infinity_there_and_gradients_finite() -> None:
    model = forbid(tiny_model(), FORBIDDEN)
    ids_BL, attention_BL = pad_left([[5, 2, 3, 4, 6, 7], [3, 8, 2, 5]], 0)
    ids_BL[:, -1], attention_BL[:, -1] = 0, 0
    full = completion_full_logp(model, ids_BL, attention_BL, 3, temperature=0.7)
    assert full[..., list(FORBIDDEN)].isneginf().all()
    torch.testing.assert_close(full.exp().sum(-1), torch.ones(2, 3, dtype=torch.float64))
    for part, logp_nV in iter_full_logp(
        model, ids_BL, attention_BL, 3, temperature=0.7, chunk_tokens=4
    ):
        torch.testing.assert_close(logp_nV, full.detach().flatten(0, 1)[part])
    token = completion_logp(model, ids_BL, attention_BL, 3, temperature=0.7, chunk_tokens=4)
    assert token[:, -1].isneginf().all()
    assert token[:, :-1].isfinite().all()
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    inside = token.masked_fill(attention_BL[:, -3:] == 0, 0.0)
    for loss in (inside.sum(), full.exp()[..., :4].sum()):
        gradients = torch.autograd.grad(loss, weights)
        assert all(gradient.isfinite().all() for gradient in gradients)
