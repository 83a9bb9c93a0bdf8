"""Slow, obvious objective in Python floats: one loop per sum, no tensors, no autograd."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

Row = Sequence[float]


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
