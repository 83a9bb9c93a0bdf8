"""Every family: scores of its own forward, windows, and the same answers from each backend."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from families import FAMILIES, SLIDING, WINDOW, build
from opdcliff.errors import ConfigError
from opdcliff.models.tokens.train_bpe import pad_left
from opdcliff.rollout import continuous, reference
from opdcliff.rollout.draws import Rollout
from opdcliff.rollout.scoring import completion_logp, has_plain_head
from whole_logp import completion_full_logp

# Answers reach further than a sliding window, which is 8.
LENGTH, ANSWER = 30, 14
CAPPED = ("gemma2",)


def batch() -> tuple[Tensor, Tensor]:
    """Left padding of 0, 5 and 11, and the last row ends in padding."""
    generator = torch.Generator().manual_seed(1)
    ids_BL = torch.randint(2, 258, (3, LENGTH), generator=generator)
    attention_BL = (torch.arange(LENGTH) >= torch.tensor([[0], [5], [11]])).long()
    attention_BL[2, -3:] = 0
    return ids_BL * attention_BL, attention_BL


def own_logp(model: PreTrainedModel, ids_BL: Tensor, attention_BL: Tensor) -> Tensor:
    """log_softmax of the model's own logits, a row at a time without its left padding."""
    rows = []
    for ids_L, real_L in zip(ids_BL, attention_BL.bool(), strict=True):
        ids_1L = ids_L[None, int(real_L.int().argmax()) :]
        with torch.no_grad():
            logits = model(input_ids=ids_1L, attention_mask=torch.ones_like(ids_1L)).logits
        rows.append(logits[0, -ANSWER - 1 : -1].float().log_softmax(-1))
    return torch.stack(rows)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_those_of_the_models_own_forward(family: str, tied: bool) -> None:
    model = build(family, tie_word_embeddings=tied)
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) is tied
    assert has_plain_head(model) is (family not in CAPPED)
    ids_BL, attention_BL = batch()
    real_BT = attention_BL[:, -ANSWER:].bool()
    expected = own_logp(model, ids_BL, attention_BL)
    assert expected.std() > 0.5
    full = completion_full_logp(model, ids_BL, attention_BL, ANSWER, temperature=1.0)
    torch.testing.assert_close(full[real_BT], expected[real_BT], rtol=1e-5, atol=2e-5)
    token = completion_logp(model, ids_BL, attention_BL, ANSWER, temperature=1.0, chunk_tokens=5)
    chosen = expected.gather(-1, ids_BL[:, -ANSWER:, None]).squeeze(-1)
    torch.testing.assert_close(token[real_BT], chosen[real_BT], rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_in_bfloat16_differ_by_its_rounding(family: str) -> None:
    model = build(family).to(torch.bfloat16)
    ids_BL, attention_BL = batch()
    real_BT = attention_BL[:, -ANSWER:].bool()
    expected = own_logp(model, ids_BL, attention_BL)
    full = completion_full_logp(model, ids_BL, attention_BL, ANSWER, temperature=1.0)
    assert full.dtype == torch.float32
    # Eight binary digits of a logit of at most 4 to 8, through a few layers.
    assert (full - expected)[real_BT].abs().mean() < 2.0**-6
    assert (full - expected)[real_BT].abs().max() < 2.0**-3


@pytest.mark.parametrize("family", SLIDING)
def test_the_window_is_kept_beyond_its_length(family: str) -> None:
    """The same weights look further back with a wide window, and equal their own forward too."""
    near, far = (build(family, sliding_window=width) for width in (WINDOW, LENGTH))
    far.load_state_dict(near.state_dict())
    ids_BL, attention_BL = batch()
    scores = [
        completion_full_logp(model, ids_BL, attention_BL, ANSWER, temperature=1.0)
        for model in (near, far)
    ]
    real_BT = attention_BL[:, -ANSWER:].bool()
    assert (scores[0] - scores[1])[real_BT].abs().max() > 0.05
    for model, found in zip((near, far), scores, strict=True):
        expected = own_logp(model, ids_BL, attention_BL)
        torch.testing.assert_close(found[real_BT], expected[real_BT], rtol=1e-5, atol=2e-5)


def test_a_capped_gemma_3_is_scored_through_its_own_forward() -> None:
    model = build("gemma3", final_logit_softcapping=1.0)
    assert not has_plain_head(model)
    ids_BL, attention_BL = batch()
    real_BT = attention_BL[:, -ANSWER:].bool()
    found = completion_full_logp(model, ids_BL, attention_BL, ANSWER, temperature=1.0)
    expected = own_logp(model, ids_BL, attention_BL)
    torch.testing.assert_close(found[real_BT], expected[real_BT], rtol=1e-5, atol=2e-5)


# ---- sampling --------------------------------------------------------------------------------


def answers(model: PreTrainedModel, sample: Any, end: int, **options: Any) -> Rollout:
    generator = torch.Generator().manual_seed(2)
    lengths = (3, 20, 11, 7, 26, 5, 9, 14)
    prompts = [torch.randint(2, 258, (n,), generator=generator).tolist() for n in lengths]
    found: Rollout = sample(
        model,
        *pad_left(prompts, 0),
        numbers=range(len(prompts)),
        seed=0,
        stream=11,
        max_new_tokens=40,
        temperature=0.6,
        end_ids=(end,),
        pad_id=0,
        **options,
    )
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_every_backend_samples_the_same_answers(family: str) -> None:
    """Also where ended rows are dropped on the way, from a cache that slides."""
    model = build(family).double() if family not in CAPPED else build(family)
    first = answers(model, reference.sample, end=1)
    # The token that is said most ends answers, so that they are of many lengths.
    said = Counter(token for answer in first.answers() for token in answer[4:])
    end = said.most_common(1)[0][0]
    whole = answers(model, reference.sample, end)
    assert len(set(whole.lengths())) > 2
    assert max(whole.lengths()) > WINDOW
    assert answers(model, reference.sample, end, whole_up_to=0).answers() == whole.answers()
    if family in CAPPED:
        with pytest.raises(ConfigError, match=r"Gemma2ForCausalLM caps its attention scores"):
            answers(model, continuous.sample, end)
    else:
        assert answers(model, continuous.sample, end).answers() == whole.answers()


@pytest.mark.parametrize("backend", [reference.sample, continuous.sample])
@pytest.mark.parametrize("family", ["qwen3", "gemma3"])
def test_what_a_generation_config_asks_for_is_not_done(family: str, backend: Any) -> None:
    """Suppressed and forced tokens, penalties and cuts would be another distribution."""
    model = build(family)
    plain = answers(model, backend, end=1)
    said = [t for answer in plain.answers() for t in answer if t not in (7, 9)]
    own = model.generation_config
    own.update(
        suppress_tokens=said[:40],
        begin_suppress_tokens=said[:40],
        forced_bos_token_id=7,
        forced_eos_token_id=9,
        eos_token_id=said[:3],
        repetition_penalty=3.0,
        no_repeat_ngram_size=1,
        top_k=1,
        do_sample=True,
        num_beams=2,
        min_new_tokens=30,
        pad_token_id=None,
    )
    assert answers(model, backend, end=1).answers() == plain.answers()
    assert model.generation_config is own
