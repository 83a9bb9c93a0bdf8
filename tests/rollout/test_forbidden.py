"""Entries that a model forbids: never sampled, scored as -inf, and no NaN in any gradient."""

from __future__ import annotations

import pytest
import torch

from forbidding import forbid
from opdcliff.models.tokens.train_bpe import pad_left
from opdcliff.rollout.backends import sample
from opdcliff.rollout.sampler import draw_tokens
from opdcliff.rollout.scoring import completion_full_logp, completion_logp, iter_full_logp
from tiny_rollout import PROMPTS, SETTINGS, VOCABULARY, tiny_model

# The padding token is among them.
FORBIDDEN = (0, 9, 10)


def test_a_draw_at_the_very_end_takes_the_last_token_that_has_mass() -> None:
    logits = torch.tensor([[0.3, -1.0, 0.1, -torch.inf, -torch.inf]], dtype=torch.float64)
    largest = torch.tensor([[1.0 - 2.0**-53]], dtype=torch.float64)
    for shift in torch.linspace(0.0, 3.0, 301, dtype=torch.float64):
        # At some of these sums the product with the largest number below 1 rounds to the sum.
        moved = logits + shift * torch.tensor([1.0, 0.0, 0.5, 1.0, 1.0])
        assert draw_tokens(moved, largest, 1.0, None).item() == 2


@pytest.mark.parametrize("backend", ["generate", "continuous"])
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
