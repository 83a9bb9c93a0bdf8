"""Entries that a model forbids: the losses at the limit of the formula, or one line."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from opdcliff.errors import ModelError
from opdcliff.theory.clip_rules import ClipRule
from opdcliff.training.full_objective import fold_topk, full_loss
from opdcliff.training.objective import LossOutput, sampled_loss
from reference_objective import full_gradient, full_value, near_limit

ENTRIES, POSITIONS = 7, 5
TEACHER_RULES = ["mask", "truncate", "two_sided", "none"]
POLICY_RULES = ["ppo", "aspo"]
S, T, B = "student", "teacher", "base"
NOTHING = -math.inf


def logp_rows(*forbidding: str, entries: tuple[int, ...] = (5, 6)) -> dict[str, Tensor]:
    """Float64 rows (1, POSITIONS, ENTRIES) of the three models; the student's are logits."""
    rows = {}
    for seed, name in enumerate((S, T, B)):
        generator = torch.Generator().manual_seed(seed)
        logits = 1.5 * torch.randn(1, POSITIONS, ENTRIES, generator=generator, dtype=torch.float64)
        if name in forbidding:
            logits[..., list(entries)] = NOTHING
        rows[name] = logits if name == S else logits.log_softmax(-1)
    return rows


def full(rows: dict[str, Tensor], rule: str, lam: float, **more: Any) -> tuple[LossOutput, Tensor]:
    """The loss of one part of a batch, and its ascent direction in the student's logits."""
    leaf = rows[S].clone().requires_grad_()
    logp = leaf.log_softmax(-1)
    entries: Any = (logp, rows[T], rows[B])
    if (keep := more.pop("keep", None)) is not None:
        *entries, more["index_BTK"] = fold_topk(*entries, keep)
    options: dict[str, Any] = {
        "lam": lam,
        "rule": ClipRule(rule),
        "strength": 1.5,
        "token_count": 1,
        **more,
    }
    output = full_loss(*entries, torch.ones(1, POSITIONS), **options)
    return output, torch.autograd.grad(-output.loss, leaf)[0]


@pytest.mark.parametrize("lam", [0.0, 0.7, 1.0, 1.6])
@pytest.mark.parametrize("rule", TEACHER_RULES)
@pytest.mark.parametrize("forbidding", [(S,), (S, T), (S, B), (S, T, B)])
def test_what_the_student_forbids_counts_nothing(
    forbidding: tuple[str, ...], rule: str, lam: float
) -> None:
    rows = logp_rows(*forbidding)
    output, got = full(rows, rule, lam)
    assert got.isfinite().all()
    assert (got[..., 5:] == 0.0).all()
    values = []
    for t in range(POSITIONS):
        at = [near_limit(rows[name][0, t].tolist()) for name in (S, T, B)]
        expected = full_gradient(*at, lam=lam, rule=rule, c=1.5)
        assert got[0, t].tolist() == pytest.approx(expected, abs=1e-12)
        values.append(full_value(*at, lam=lam, rule=rule, c=1.5))
    clipped, whole, kl = (list(column) for column in zip(*values, strict=True))
    assert output.loss.item() == pytest.approx(-sum(clipped))
    assert output.advantage_BT[0].tolist() == pytest.approx(whole)
    assert output.kl_BT[0].tolist() == pytest.approx(kl)


@pytest.mark.parametrize(
    ("forbidding", "rule", "lam"),
    [
        # r = 0: outside [1/c, c].
        ((T,), "two_sided", 1.6),
        ((T, B), "two_sided", 1.6),
        # The factor of log pi_T is 0.
        ((T,), "mask", 0.0),
        # No base is read.
        ((B,), "mask", 1.0),
        ((B,), "none", 1.0),
    ],
)
def test_what_teacher_or_base_forbid_counts_nothing_where_the_formula_says_so(
    forbidding: tuple[str, ...], rule: str, lam: float
) -> None:
    rows = logp_rows(*forbidding)
    output, got = full(rows, rule, lam)
    assert torch.cat([x.flatten() for x in output]).isfinite().all()
    for t in range(POSITIONS):
        at = [near_limit(rows[name][0, t].tolist()) for name in (S, T, B)]
        expected = full_gradient(*at, lam=lam, rule=rule, c=1.5)
        assert got[0, t].tolist() == pytest.approx(expected, abs=1e-12)


def test_what_the_base_forbids_counts_nothing_where_the_ratio_is_clipped() -> None:
    """The teacher holds far more than c times the student's mass on the entry of each position."""
    rows = logp_rows(B, entries=(6,))
    rows[S][..., 6] = -6.0
    _, got = full(rows, "mask", 1.6)
    for t in range(POSITIONS):
        at = [near_limit(rows[name][0, t].tolist()) for name in (S, T, B)]
        expected = full_gradient(*at, lam=1.6, rule="mask", c=1.5)
        assert got[0, t].tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("rule", ["mask", "truncate", "none"])
def test_a_teacher_that_forbids_what_the_student_holds_is_one_line(rule: str) -> None:
    with pytest.raises(ModelError) as error:
        full(logp_rows(T, entries=(4,)), rule, 1.3)
    text = str(error.value)
    assert "\n" not in text
    assert "the teacher forbids token 4 (logit -inf) and the student holds mass on it" in text
    assert "clip=two_sided" in text


@pytest.mark.parametrize("lam", [0.7, 1.6])
def test_a_base_that_forbids_what_the_student_holds_is_one_line(lam: float) -> None:
    with pytest.raises(ModelError, match=r"the base forbids token 5 .* lam\.value=1"):
        full(logp_rows(B), "none", lam)


def test_a_mass_that_rounds_to_nothing_is_still_refused() -> None:
    rows = {name: row.float() for name, row in logp_rows(T, entries=(4,)).items()}
    rows[S][..., 4] = -300.0
    assert (rows[S].log_softmax(-1).exp()[..., 4] == 0.0).all()
    with pytest.raises(ModelError, match="forbids token 4"):
        full(rows, "mask", 1.3)


def test_positions_outside_the_mask_may_forbid_anything() -> None:
    rows = logp_rows()
    mask = torch.tensor([[1, 1, 1, 0, 0]])
    options: dict[str, Any] = {"lam": 1.6, "rule": ClipRule.MASK, "strength": 1.5, "token_count": 3}

    def ascent() -> Tensor:
        leaf = rows[S].clone().requires_grad_()
        loss = full_loss(leaf.log_softmax(-1), rows[T], rows[B], mask, **options).loss
        return torch.autograd.grad(loss, leaf)[0]

    expected = ascent()
    rows[T][:, 3:, :2] = NOTHING
    rows[B][:, 4, 3] = NOTHING
    assert torch.equal(ascent(), expected)


def test_a_nan_still_reaches_the_loss_beside_forbidden_entries() -> None:
    rows = logp_rows(S, T, B)
    rows[T][0, 1, 2] = math.nan
    assert full(rows, "none", 1.3)[0].loss.isnan()


# ---- top-k with remainder --------------------------------------------------------------------


@pytest.mark.parametrize("forbidding", [(S,), (S, T), (S, T, B)])
@pytest.mark.parametrize("keep", [5, 6])
def test_a_fold_with_nothing_left_over_is_the_whole_loss(
    forbidding: tuple[str, ...], keep: int
) -> None:
    """Five of seven entries have mass: the remainder of the student, or of all, is empty."""
    rows = logp_rows(*forbidding)
    for name in forbidding[1:]:
        assert rows[name][..., 5:].isneginf().all()
    if forbidding == (S,):
        rows[T][..., 5:], rows[B][..., 5:] = -40.0, -40.0
    whole, expected = full(rows, "mask", 1.4)
    folded, got = full(rows, "mask", 1.4, keep=keep)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(folded.kl_BT, whole.kl_BT)


def test_a_fold_names_the_token_or_the_remainder_that_is_forbidden() -> None:
    rows = logp_rows(T, entries=(4,))
    rows[S][..., 4] += 20.0
    with pytest.raises(ModelError, match="forbids token 4 "):
        full(rows, "mask", 1.3, keep=2)
    rows = logp_rows(T, entries=(1, 2, 3, 4, 5, 6))
    rows[S][..., 0] += 20.0
    with pytest.raises(ModelError, match=r"forbids every token outside optim\.topk"):
        full(rows, "mask", 1.3, keep=1)


# ---- sampled tokens --------------------------------------------------------------------------


def sampled(rows: dict[str, Tensor], rule: str, **more: Any) -> tuple[LossOutput, Tensor]:
    """Token 5 everywhere, the last position padding; the gradient in the student's log-probs."""
    leaf = rows[S].log_softmax(-1)[..., 5].clone().requires_grad_()
    mask = torch.tensor([[1, 1, 1, 1, 0]])
    options: dict[str, Any] = {
        "lam": 1.6,
        "strength": 1.5,
        "token_count": 1,
        "logp_old_BT": leaf.detach(),
        **more,
    }
    token_BT = torch.full((1, POSITIONS), 5)
    output = sampled_loss(
        leaf,
        rows[T][..., 5],
        rows[B][..., 5],
        mask,
        rule=ClipRule(rule),
        token_BT=token_BT,
        **options,
    )
    return output, torch.autograd.grad(output.loss, leaf)[0]


@pytest.mark.parametrize("rule", TEACHER_RULES + POLICY_RULES)
def test_padding_that_the_models_forbid_changes_no_sampled_loss(rule: str) -> None:
    rows = logp_rows()
    whole, expected = sampled(rows, rule)
    for name in (S, T, B):
        rows[name][:, -1, 5] = NOTHING
    padded, got = sampled(rows, rule)
    assert torch.equal(got, expected)
    assert all(torch.equal(a, b) for a, b in zip(padded, whole, strict=True))


@pytest.mark.parametrize("rule", TEACHER_RULES + POLICY_RULES)
def test_a_token_of_no_mass_adds_nothing_to_a_sampled_loss(rule: str) -> None:
    output, got = sampled(logp_rows(S, T, B), rule)
    assert all((x == 0.0).all() for x in output)
    assert (got == 0.0).all()


@pytest.mark.parametrize("rule", ["mask", "truncate", "none", *POLICY_RULES])
def test_a_teacher_that_forbids_a_sampled_token_is_one_line(rule: str) -> None:
    with pytest.raises(ModelError, match=r"the teacher forbids token 5 .* the student sampled it"):
        sampled(logp_rows(T), rule)


def test_two_sided_leaves_out_a_sampled_token_that_the_teacher_forbids() -> None:
    output, got = sampled(logp_rows(T), "two_sided")
    assert (got == 0.0).all()
    assert output.clipped_BT[0].tolist() == [1.0, 1.0, 1.0, 1.0, 0.0]
    assert torch.cat([x.flatten() for x in output]).isfinite().all()


def test_a_base_is_only_refused_where_it_is_read() -> None:
    with pytest.raises(ModelError, match="the base forbids token 5"):
        sampled(logp_rows(B), "none")
    assert sampled(logp_rows(B), "none", lam=1.0)[1].isfinite().all()
