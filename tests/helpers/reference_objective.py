"""Slow, obvious objective in Python floats: one loop per sum, no tensors, no autograd."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

Row = Sequence[float]
# Stands for -inf: a mass of 1e-218, near enough to the limit and far from float64's end.
FAR = -500.0


def advantage(teacher: float, student: float, base: float, lam: float) -> float:
    """A = lam log pi_T - log pi_S - (lam - 1) log pi_B."""
    return lam * teacher - student - (lam - 1) * base


def weight(rule: str, c: float, r: float, a: float = 0.0) -> float:
    """Factor of A grad log pi_S for one token with ratio r (of the rule's own kind) and A = a."""
    if rule == "none":
        return 1.0
    if rule == "mask":
        return 0.0 if r > c else 1.0
    if rule == "truncate":
        return c / r if r > c else 1.0
    if rule == "two_sided":
        return 0.0 if r > c or r < 1 / c else 1.0
    if a > 0 and r > c:
        return 0.0
    if a < 0 and r < 1 / c:
        return 0.0
    if rule == "aspo" and a > 0:
        return min(1 / r, 3.0)
    assert rule in ("ppo", "aspo")
    return r


def log_softmax(logits: Row) -> list[float]:
    top = max(logits)
    total = top + math.log(sum(math.exp(x - top) for x in logits))
    return [x - total for x in logits]


def near_limit(row: Row) -> list[float]:
    """A row with `FAR` in place of -inf, at which every formula is finite."""
    return [max(x, FAR) for x in row]


def full_value(
    logits: Row, teacher: Row, base: Row, *, lam: float, rule: str, c: float
) -> tuple[float, float, float]:
    """Sums over a of pi_S w A, of pi_S A and of pi_S (log pi_S - log pi_T)."""
    student = log_softmax(logits)
    clipped = whole = kl = 0.0
    for a, log_p in enumerate(student):
        gain = advantage(teacher[a], log_p, base[a], lam)
        clipped += math.exp(log_p) * weight(rule, c, math.exp(teacher[a] - log_p)) * gain
        whole += math.exp(log_p) * gain
        kl += math.exp(log_p) * (log_p - teacher[a])
    return clipped, whole, kl


def full_gradient(
    logits: Row, teacher: Row, base: Row, *, lam: float, rule: str, c: float
) -> list[float]:
    """sum_a pi_S(a) w(a) A(a) d log pi_S(a) / d logit_j for every j, at one position."""
    student = log_softmax(logits)
    gradient = [0.0] * len(logits)
    for a, log_p in enumerate(student):
        w = weight(rule, c, math.exp(teacher[a] - log_p))
        factor = math.exp(log_p) * w * advantage(teacher[a], log_p, base[a], lam)
        for j, log_pj in enumerate(student):
            gradient[j] += factor * ((1.0 if a == j else 0.0) - math.exp(log_pj))
    return gradient


def central_difference(
    function: Callable[[list[float]], float], at: Row, step: float = 1e-5
) -> list[float]:
    gradient = []
    for j in range(len(at)):
        up, down = list(at), list(at)
        up[j] += step
        down[j] -= step
        gradient.append((function(up) - function(down)) / (2 * step))
    return gradient
