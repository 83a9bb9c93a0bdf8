"""The objective against hand-computed tables, a slow reference and the theory's fixed point."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from opdcliff.errors import ConfigError
from opdcliff.theory.clip_rules import ClipRule, validate_clip
from opdcliff.training.full_objective import fold_topk, full_loss
from opdcliff.training.objective import (
    LossOutput,
    clip_weight,
    extrapolated_advantage,
    sampled_loss,
)
from reference_objective import advantage, central_difference, full_gradient, log_softmax, weight

VOCABULARY = 6
TEACHER_RULES = ["mask", "truncate", "two_sided", "none"]
POLICY_RULES = ["ppo", "aspo"]
PLAIN = {"lam": 1.0, "strength": None, "token_count": 1}


def sampled(
    student: Tensor, teacher: Tensor, base: Tensor | None = None, rule: str = "none", **options: Any
) -> LossOutput:
    """`sampled_loss`, unmasked and unclipped at lam = 1 unless told otherwise."""
    options = {"mask_BT": torch.ones_like(student), **PLAIN, **options}
    return sampled_loss(student, teacher, base, rule=ClipRule(rule), **options)


def full(
    student: Tensor, teacher: Tensor, base: Tensor | None = None, rule: str = "none", **options: Any
) -> LossOutput:
    """`full_loss`, unmasked and unclipped at lam = 1 unless told otherwise."""
    options = {"mask_BT": torch.ones_like(student[..., 0]), **PLAIN, **options}
    return full_loss(student, teacher, base, rule=ClipRule(rule), **options)


def full_ascent(
    logits: Tensor, teacher: Tensor, base: Tensor | None = None, rule: str = "none", **options: Any
) -> Tensor:
    """-grad of `full_loss` with respect to the student's logits."""
    leaf = logits.clone().requires_grad_()
    loss = full(leaf.log_softmax(-1), teacher, base, rule, **options).loss
    (gradient,) = torch.autograd.grad(-loss, leaf)
    return gradient


def random_logp(seed: int, *shape: int, scale: float = 1.5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(*shape, generator=generator, dtype=torch.float64)
    return logits.log_softmax(-1)


# ---- advantage -------------------------------------------------------------------------------


def test_advantage_by_hand() -> None:
    teacher, student, base = (torch.tensor([math.log(x)]) for x in (0.8, 0.5, 0.4))
    plain = extrapolated_advantage(teacher, student, None, 1.0)
    assert plain.item() == pytest.approx(math.log(1.6))
    # 1.5 log .8 - log .5 - .5 log .4 = log(.8^1.5 / (.5 * .4^.5)) = log(2.2627417)
    extrapolated = extrapolated_advantage(teacher, student, base, 1.5)
    assert extrapolated.item() == pytest.approx(math.log(2.2627417))


def test_advantage_without_base_is_an_error_not_plain_opd() -> None:
    x = torch.zeros(1)
    with pytest.raises(ConfigError, match=r"lam=1\.2 needs the log-probs of the warm-start"):
        extrapolated_advantage(x, x, None, 1.2)


def test_advantage_is_detached() -> None:
    tensors = [torch.zeros(2, requires_grad=True) for _ in range(3)]
    assert not extrapolated_advantage(*tensors, 1.3).requires_grad


# ---- clip rules ------------------------------------------------------------------------------

RATIOS = [0.25, 0.5, 1.0, 2.0, 2.5, 4.0]  # with c = 2
TEACHER_TABLE = {
    "mask": [1.0, 1.0, 1.0, 1.0, 0.0, 0.0],
    "truncate": [1.0, 1.0, 1.0, 1.0, 0.8, 0.5],
    "two_sided": [0.0, 1.0, 1.0, 1.0, 0.0, 0.0],
    "none": [1.0, 1.0, 1.0, 1.0, 1.0, 1.0],
}
POLICY_RATIOS = [0.25, 0.4, 0.8, 1.0, 1.6, 3.0]  # with c = 2
# (rule, A) -> factor of A grad log pi_S, objective, and whether the clip acted
POLICY_TABLE = {
    ("ppo", 1.0): (
        [0.25, 0.4, 0.8, 1.0, 1.6, 0.0],
        [0.25, 0.4, 0.8, 1.0, 1.6, 2.0],
        [0, 0, 0, 0, 0, 1],
    ),
    ("ppo", -1.0): (
        [0.0, 0.0, 0.8, 1.0, 1.6, 3.0],
        [-0.5, -0.5, -0.8, -1.0, -1.6, -3.0],
        [1, 1, 0, 0, 0, 0],
    ),
    ("aspo", 1.0): (
        [3.0, 2.5, 1.25, 1.0, 0.625, 0.0],
        [3.0, 2.5, 1.25, 1.0, 0.625, 0.0],
        [1, 0, 0, 0, 0, 1],
    ),
    ("aspo", -1.0): (
        [0.0, 0.0, 0.8, 1.0, 1.6, 3.0],
        [-0.5, -0.5, -0.8, -1.0, -1.6, -3.0],
        [1, 1, 0, 0, 0, 0],
    ),
}


@pytest.mark.parametrize("rule", TEACHER_RULES)
def test_teacher_ratio_rules_by_hand(rule: str) -> None:
    log_ratio = torch.tensor(RATIOS, dtype=torch.float64).log()
    got = clip_weight(ClipRule(rule), 2.0, log_ratio)
    assert got.tolist() == pytest.approx(TEACHER_TABLE[rule])
    assert TEACHER_TABLE[rule] == pytest.approx([weight(rule, 2.0, r) for r in RATIOS])
    student = torch.zeros(1, 6, dtype=torch.float64)
    output = sampled(student, student + log_ratio, None, rule, strength=2.0)
    assert output.clipped_BT[0].tolist() == [float(w < 1) for w in TEACHER_TABLE[rule]]


@pytest.mark.parametrize(("rule", "a"), list(POLICY_TABLE))
def test_policy_ratio_rules_by_hand(rule: str, a: float) -> None:
    factors, objectives, clipped = POLICY_TABLE[rule, a]
    assert factors == pytest.approx([weight(rule, 2.0, r, a) for r in POLICY_RATIOS])
    log_ratio = torch.tensor(POLICY_RATIOS, dtype=torch.float64).log()
    for i, log_r in enumerate(log_ratio):
        student = torch.full((1, 1), -2.0, dtype=torch.float64, requires_grad=True)
        old = student.detach() - log_r
        output = sampled(student, student.detach() + a, None, rule, strength=2.0, logp_old_BT=old)
        (gradient,) = torch.autograd.grad(-output.loss, student)
        assert a * gradient.item() == pytest.approx(factors[i])
        assert -output.loss.item() == pytest.approx(objectives[i])
        assert output.clipped_BT.item() == clipped[i]


@pytest.mark.parametrize("rule", POLICY_RULES)
def test_policy_rules_at_ratio_one_are_the_plain_policy_gradient(rule: str) -> None:
    student = random_logp(0, 3, 4, VOCABULARY)[..., 0].requires_grad_()
    teacher = random_logp(1, 3, 4, VOCABULARY)[..., 0]
    clipped = sampled(student, teacher, None, rule, strength=1.2, logp_old_BT=student.detach())
    (gradient,) = torch.autograd.grad(clipped.loss, student)
    torch.testing.assert_close(gradient, student.detach() - teacher)


@pytest.mark.parametrize("strength", [None, 1.0, 0.5, math.inf, math.nan])
@pytest.mark.parametrize("rule", TEACHER_RULES[:-1] + POLICY_RULES)
def test_validate_clip_refuses_a_bad_strength(rule: str, strength: float | None) -> None:
    with pytest.raises(ConfigError, match="must be finite and > 1"):
        validate_clip(ClipRule(rule), strength, 4)


def test_validate_clip_refuses_a_policy_clip_that_cannot_act() -> None:
    for rule in POLICY_RULES:
        with pytest.raises(ConfigError, match="can never act"):
            validate_clip(ClipRule(rule), 5.0, 1)
        validate_clip(ClipRule(rule), 5.0, 2)
    for rule in TEACHER_RULES:
        validate_clip(ClipRule(rule), 5.0, 1)
    validate_clip(ClipRule.NONE, None, 1)


def test_rules_refuse_what_they_cannot_use() -> None:
    logp = random_logp(0, 1, 2, VOCABULARY)
    with pytest.raises(ConfigError, match="sampled tokens only"):
        full(logp, logp, None, "ppo", strength=5.0)
    with pytest.raises(ConfigError, match="policy that sampled the batch"):
        sampled(logp[..., 0], logp[..., 0], None, "aspo", strength=5.0)
    with pytest.raises(ConfigError, match="clip strength None"):
        sampled(logp[..., 0], logp[..., 0], None, "mask")


# ---- sampled loss ----------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    lam=st.sampled_from([1.0, 1.3, 2.0]),
    c=st.floats(1.1, 8.0),
    rule=st.sampled_from(TEACHER_RULES + POLICY_RULES),
)
def test_sampled_gradient_equals_the_reference_loop(
    seed: int, lam: float, c: float, rule: str
) -> None:
    student, teacher, base, old = (
        random_logp(seed + i, 2, 3, VOCABULARY)[..., 0] for i in range(4)
    )
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    options = {"mask_BT": mask, "lam": lam, "strength": c, "token_count": 5, "logp_old_BT": old}
    output = sampled(student.requires_grad_(), teacher, base, rule, **options)
    (gradient,) = torch.autograd.grad(output.loss, student)
    assert gradient[1, 2] == 0.0
    for b, t in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]:
        s, log_t, log_b, log_o = (x[b, t].item() for x in (student, teacher, base, old))
        a = advantage(log_t, s, log_b, lam)
        r = math.exp(s - log_o) if rule in POLICY_RULES else math.exp(log_t - s)
        expected = -weight(rule, c, r, a) * a / 5
        assert gradient[b, t].item() == pytest.approx(expected, abs=1e-12)
        assert output.advantage_BT[b, t].item() == pytest.approx(a)


@pytest.mark.parametrize("rule", TEACHER_RULES + POLICY_RULES)
def test_sampled_loss_is_invariant_to_splits_and_padding(rule: str) -> None:
    logits = random_logp(3, 4, 5, VOCABULARY).requires_grad_()
    frozen = [random_logp(i, 4, 5, VOCABULARY)[..., 0] for i in (4, 5, 6)]
    mask = torch.arange(5) < torch.tensor([[5], [3], [1], [4]])
    dirty = [logp.masked_fill(~mask, math.nan) for logp in frozen]

    def run(tensors: list[Tensor], rows: slice, columns: slice = slice(None)) -> list[Tensor]:
        student = logits.log_softmax(-1)[..., 0][rows, columns]
        teacher, base, old = (x[rows, columns] for x in tensors)
        options = {"lam": 1.4, "strength": 1.5, "token_count": 13, "logp_old_BT": old}
        loss = sampled(student, teacher, base, rule, mask_BT=mask[rows, columns], **options).loss
        return [loss.detach(), torch.autograd.grad(loss, logits)[0]]

    whole = run(frozen, slice(None))
    splits = {
        "dirty padding": [run(dirty, slice(None))],
        "uneven": [run(dirty, slice(0, 1)), run(dirty, slice(1, 4))],
        "trimmed": [run(dirty, slice(i, i + 1), slice(0, n)) for i, n in enumerate((5, 3, 1, 4))],
    }
    for name, parts in splits.items():
        loss, gradient = (torch.stack(column).sum(0) for column in zip(*parts, strict=True))
        torch.testing.assert_close(loss, whole[0], msg=name)
        torch.testing.assert_close(gradient, whole[1], msg=name)
    assert whole[1].abs().max() > 0


@pytest.mark.parametrize("rule", ["mask", "truncate", "none"])
def test_a_broken_teacher_reaches_the_loss(rule: str) -> None:
    logp = random_logp(0, 1, 2, VOCABULARY)[..., 0]
    broken = logp.clone()
    broken[0, 1] = math.nan
    assert sampled(logp, broken, None, rule, strength=5.0).loss.isnan()


@pytest.mark.parametrize("rule", TEACHER_RULES)
@pytest.mark.parametrize("lam", [1.0, 1.6])
def test_expected_sampled_gradient_is_the_full_gradient(rule: str, lam: float) -> None:
    logits, teacher, base = (random_logp(i, 1, 1, VOCABULARY) for i in (7, 8, 9))
    expected = torch.zeros_like(logits)
    for token in range(VOCABULARY):
        leaf = logits.clone().requires_grad_()
        rows = leaf.log_softmax(-1), teacher, base
        loss = sampled(*(x[..., token] for x in rows), rule, lam=lam, strength=1.5).loss
        expected += logits[..., token].exp() * torch.autograd.grad(-loss, leaf)[0]
    got = full_ascent(logits, teacher, base, rule, lam=lam, strength=1.5)
    torch.testing.assert_close(got, expected)


def test_unclipped_ppo_is_unbiased_for_the_full_gradient() -> None:
    logits, teacher, old = (random_logp(i, 1, 1, VOCABULARY, scale=0.5) for i in (1, 2, 3))
    leaf = logits.clone().requires_grad_()
    student = leaf.log_softmax(-1)
    losses = [
        sampled(
            student[..., i], teacher[..., i], rule="ppo", strength=1e6, logp_old_BT=old[..., i]
        ).loss
        for i in range(VOCABULARY)
    ]
    expectation = (old.flatten().exp() * torch.stack(losses)).sum()
    (got,) = torch.autograd.grad(-expectation, leaf)
    torch.testing.assert_close(got, full_ascent(logits, teacher))


# ---- full loss -------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", TEACHER_RULES)
@pytest.mark.parametrize("lam", [1.0, 1.6])
def test_full_gradient_equals_the_reference_loop(rule: str, lam: float) -> None:
    logits, teacher, base = (random_logp(i, 1, 8, VOCABULARY) for i in (10, 11, 12))
    got = full_ascent(logits, teacher, base, rule, lam=lam, strength=1.5)
    for t in range(8):
        rows = (x[0, t].tolist() for x in (logits, teacher, base))
        expected = full_gradient(*rows, lam=lam, rule=rule, c=1.5)
        assert got[0, t].tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("rule", TEACHER_RULES)
def test_full_gradient_equals_finite_differences_of_its_surrogate(rule: str) -> None:
    """Surrogate: sum_a softmax(z)_a k_a, the factors k = w A frozen at the point of the test."""
    rows = [random_logp(i, VOCABULARY).tolist() for i in (20, 21, 22)]
    logits, teacher, base = rows
    frozen = [
        weight(rule, 1.5, math.exp(t - s)) * advantage(t, s, b, 1.6)
        for t, s, b in zip(teacher, log_softmax(logits), base, strict=True)
    ]

    def surrogate(z: list[float]) -> float:
        return sum(math.exp(s) * k for s, k in zip(log_softmax(z), frozen, strict=True))

    tensors = [torch.tensor(row, dtype=torch.float64).view(1, 1, -1) for row in rows]
    got = full_ascent(*tensors, rule, lam=1.6, strength=1.5)
    assert got.flatten().tolist() == pytest.approx(central_difference(surrogate, logits), abs=1e-8)


def test_lam_one_is_reverse_kl_and_other_lam_is_not() -> None:
    logits, teacher, base = (random_logp(i, 1, 3, VOCABULARY) for i in (30, 31, 32))
    leaf = logits.clone().requires_grad_()
    student = leaf.log_softmax(-1)
    reverse_kl = torch.nn.functional.kl_div(teacher, student, log_target=True, reduction="sum")
    (expected,) = torch.autograd.grad(-reverse_kl, leaf)
    assert full(logits, teacher).loss.item() == pytest.approx(reverse_kl.item())
    torch.testing.assert_close(full_ascent(logits, teacher), expected)
    torch.testing.assert_close(full_ascent(logits, teacher, base), expected)
    assert (full_ascent(logits, teacher, base, lam=1.2) - expected).abs().max() > 0.01


def test_full_loss_is_invariant_to_splits_and_padding() -> None:
    logits = random_logp(40, 3, 4, VOCABULARY).requires_grad_()
    lengths = (4, 2, 3)
    mask = torch.arange(4) < torch.tensor(lengths)[:, None]
    teacher = random_logp(41, 3, 4, VOCABULARY).masked_fill(~mask[..., None], math.nan)

    def gradient(rows: slice, columns: slice) -> Tensor:
        part = (rows, columns)
        student = logits.log_softmax(-1)[part]
        options = {"mask_BT": mask[part], "strength": 1.5, "token_count": 9}
        output = full(student, teacher[part], None, "mask", **options)
        assert not output.advantage_BT.isnan().any()
        return torch.autograd.grad(output.loss, logits)[0]

    whole = gradient(slice(None), slice(None))
    trimmed = [gradient(slice(i, i + 1), slice(0, n)) for i, n in enumerate(lengths)]
    torch.testing.assert_close(torch.stack(trimmed).sum(0), whole)
    assert whole.abs().max() > 0


@pytest.mark.parametrize("rule", TEACHER_RULES)
def test_fixed_point_has_no_gradient(rule: str) -> None:
    teacher, base = random_logp(50, 1, 4, VOCABULARY, scale=0.5), random_logp(51, 1, 4, VOCABULARY)
    fixed = (1.3 * teacher - 0.3 * base).log_softmax(-1)
    inside = 1.01 * (teacher - fixed).abs().max().exp().item()
    got = full_ascent(fixed, teacher, base, rule, lam=1.3, strength=inside)
    assert got.abs().max() < 1e-12
    elsewhere = fixed + random_logp(52, 1, 4, VOCABULARY)
    away = full_ascent(elsewhere, teacher, base, rule, lam=1.3, strength=inside)
    assert away.abs().max() > 0.01


def two_class(p: float) -> Tensor:
    return torch.tensor([[[p, 1.0 - p]]], dtype=torch.float64).log()


@pytest.mark.parametrize("q", [0.6, 0.9, 0.97])
def test_inside_the_clip_one_position_relaxes_to_the_fixed_point(q: float) -> None:
    """dz/dn = q(1-q)(z* - z), docs/theory.md, point 7; p = .9, b = .5, c = 5."""
    ascent = full_ascent(
        two_class(q), two_class(0.9), two_class(0.5), "mask", lam=1.5, strength=5.0
    )
    z_star, z = 1.5 * math.log(9.0), math.log(q / (1.0 - q))
    assert ascent[0, 0, 0].item() == pytest.approx(q * (1 - q) * (z_star - z))


def test_past_the_clip_one_position_runs_away() -> None:
    """dz/dn = q(1-q) A(m) > 0 though z > z*, docs/theory.md, point 8; (1-p)/(1-q) = 6.67 > 5."""
    q = 0.985
    ascent = full_ascent(
        two_class(q), two_class(0.9), two_class(0.5), "mask", lam=1.5, strength=5.0
    )
    modal = 1.5 * math.log(0.9) - math.log(q) - 0.5 * math.log(0.5)
    assert math.log(q / (1 - q)) > 1.5 * math.log(9.0)
    assert ascent[0, 0, 0].item() == pytest.approx(q * (1 - q) * modal)
    assert modal > 0


def test_full_diagnostics_by_hand() -> None:
    output = full(two_class(0.98), two_class(0.9), None, "mask", strength=4.0)
    assert output.clipped_BT.item() == pytest.approx(0.02)
    kl = 0.98 * math.log(0.98 / 0.9) + 0.02 * math.log(0.02 / 0.1)
    assert output.advantage_BT.item() == pytest.approx(-kl)
    assert output.loss.item() == pytest.approx(0.98 * math.log(0.98 / 0.9))


# ---- top-k with remainder --------------------------------------------------------------------


@pytest.mark.parametrize("rule", TEACHER_RULES)
def test_remainder_of_one_token_changes_nothing(rule: str) -> None:
    logits, teacher, base = (random_logp(i, 2, 3, VOCABULARY) for i in (60, 61, 62))
    leaf = logits.clone().requires_grad_()
    logp = leaf.log_softmax(-1)
    folded = fold_topk(logp, teacher, base, VOCABULARY - 1)
    whole = full(logp, teacher, base, rule, lam=1.4, strength=1.5)
    kept = full(*folded[:3], rule, lam=1.4, strength=1.5)
    for a, b in zip(kept, whole, strict=True):
        torch.testing.assert_close(a, b)
    (expected,) = torch.autograd.grad(whole.loss, leaf, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(kept.loss, leaf)[0], expected)


def test_fold_topk_keeps_the_joint_mass_and_sums_the_rest() -> None:
    student = torch.tensor([[[0.5, 0.05, 0.05, 0.3, 0.1]]], dtype=torch.float64).log()
    teacher = torch.tensor([[[0.1, 0.7, 0.05, 0.1, 0.05]]], dtype=torch.float64).log()
    folded = fold_topk(student, teacher, None, 2)
    assert folded.index_BTK.flatten().tolist() == [1, 0]
    assert folded.student_BTK.exp().flatten().tolist() == pytest.approx([0.05, 0.5, 0.45])
    assert folded.teacher_BTK.exp().flatten().tolist() == pytest.approx([0.7, 0.1, 0.2])
    assert folded.base_BTK is None


def test_folded_gradient_is_that_of_merged_tokens() -> None:
    """Two of five kept: finite differences of sum_a pi_S(a) A(a) with the other three as one."""
    rows = [random_logp(i, 1, 1, 5) for i in (70, 71, 72)]
    leaf = rows[0].clone().requires_grad_()
    folded = fold_topk(leaf.log_softmax(-1), *rows[1:], 2)
    (got,) = torch.autograd.grad(-full(*folded[:3], lam=1.4).loss, leaf)
    logits, teacher, base = (row.flatten().tolist() for row in rows)
    kept = folded.index_BTK.flatten().tolist()

    def merged(row: list[float]) -> list[float]:
        rest = sum(math.exp(x) for i, x in enumerate(row) if i not in kept)
        return [*(row[i] for i in kept), math.log(rest)]

    def objective(z: list[float]) -> float:
        entries = zip(merged(log_softmax(z)), merged(teacher), merged(base), strict=True)
        return sum(math.exp(s) * advantage(t, s, b, 1.4) for s, t, b in entries)

    assert got.flatten().tolist() == pytest.approx(central_difference(objective, logits), abs=1e-8)


@pytest.mark.parametrize("keep", [0, VOCABULARY, VOCABULARY + 1])
def test_fold_topk_refuses_a_fold_of_nothing(keep: int) -> None:
    logp = random_logp(0, 1, 1, VOCABULARY)
    with pytest.raises(ConfigError, match="allowed are 1 to 5"):
        fold_topk(logp, logp, None, keep)
