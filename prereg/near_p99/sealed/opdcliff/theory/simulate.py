"""Tabular simulator of the distillation loop at one position: a softmax policy over K tokens.

Plain gradient ascent on K free logits u with the score-function gradient of docs/theory.md,
points 1, 7 and 8, without a baseline:
    g = sum_a f(a) w(a) A(a) (onehot(a) - pi_S),
    A(a) = lam log pi_T(a) - log pi_S(a) - (lam - 1) log pi_B(a),
f = pi_S (`expected`) or the frequencies in a sampled batch (`sampled`), w the clip rule on
r = pi_T/pi_S, held constant in the gradient. A baseline would change the flow under a clip.

Parametrisation. Point 9, dz/dn = eta q(1-q)(z* - z) with z = logit q, is gradient ascent on z
itself: a Bernoulli policy with one logit. With K free logits, n_modal even modal tokens and n_tail
even tail tokens, the same gradient moves z by (1/n_modal + 1/n_tail) as much, twice as much for
K = 2. `simulate_position` divides its step on u by that factor (`class_step`), so `eta` means the
same for every K and the flow is exact; for uneven classes it is exact at the start only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from opdcliff.errors import ConfigError, TheoryDomainError
from opdcliff.theory import budget_flow, threshold

Array = NDArray[np.float64]
Rule = Literal["mask", "truncate", "none"]
Estimator = Literal["expected", "sampled"]


@dataclass(frozen=True)
class SimulatedPosition:
    """Teacher and base distributions at one position; tokens 0..n_modal-1 are the modal class.

    Both have shape (K,), are positive and sum to 1. Errors: TheoryDomainError.
    """

    teacher: Array
    base: Array
    n_modal: int = 1

    def __post_init__(self) -> None:
        if self.teacher.shape != self.base.shape or self.teacher.ndim != 1:
            raise TheoryDomainError(
                f"teacher and base have shapes {self.teacher.shape} and {self.base.shape}: "
                "both must be (K,)"
            )
        if not 1 <= self.n_modal < self.teacher.size:
            raise TheoryDomainError(
                f"n_modal = {self.n_modal} is outside its domain: must be at least 1 and leave a "
                f"tail among {self.teacher.size} tokens"
            )
        for name, masses in (("teacher", self.teacher), ("base", self.base)):
            if not (np.all(masses > 0.0) and abs(masses.sum() - 1.0) < 1e-9):
                raise TheoryDomainError(f"{name} = {masses} must be positive and sum to 1")

    @property
    def p(self) -> float:
        """Teacher mass on the modal class."""
        return float(self.teacher[: self.n_modal].sum())

    @property
    def b(self) -> float:
        """Base mass on the modal class."""
        return float(self.base[: self.n_modal].sum())


@dataclass(frozen=True)
class Trajectory:
    """What `simulate_position` saw; entry n of `z` and `q` is the state after n updates.

    z, q: (updates+1,) logit and modal mass of the student; lam: (updates,) coefficient of each
    update; clip_fraction: (updates,) share of the batch (of pi_S, if expected) with weight < 1;
    z_c: the clip boundary; crossed_at: first n with z > z_c, None if there is none. p is the
    teacher's modal mass.
    """

    z: Array
    q: Array
    lam: Array
    clip_fraction: Array
    z_c: float
    crossed_at: int | None
    p: float

    @property
    def tail_ratio(self) -> Array:
        """(1-p)/(1-q), shape (updates+1,): how much rarer the tail is than the teacher's."""
        return np.asarray((1.0 - self.p) * (1.0 + np.exp(self.z)))


def even_position(p: float, b: float, n_modal: int = 1, n_tail: int = 1) -> SimulatedPosition:
    """Position with masses p and b on the modal class, spread evenly inside both classes.

    Errors: TheoryDomainError.
    """
    threshold.no_threshold_reason(p, b)  # refuses masses outside (0, 1)
    if min(n_modal, n_tail) < 1:
        raise TheoryDomainError(
            f"n_modal = {n_modal}, n_tail = {n_tail}: both classes must have at least 1 token"
        )

    def spread(mass: float) -> Array:
        return np.repeat([mass / n_modal, (1.0 - mass) / n_tail], [n_modal, n_tail])

    return SimulatedPosition(spread(p), spread(b), n_modal)


def class_step(eta: float, position: SimulatedPosition) -> float:
    """Step on the K logits that moves the class logit z with step `eta`.

    eta / (sum of squared shares within the modal class + the same within the tail), shares of
    the base; eta / (1/n_modal + 1/n_tail) for even classes. Source: docs/theory.md, point 9 [D].
    """
    modal, tail = np.split(position.base, [position.n_modal])
    return eta / float(((modal / modal.sum()) ** 2).sum() + ((tail / tail.sum()) ** 2).sum())


def simulate_position(
    position: SimulatedPosition,
    *,
    lam: float,
    c: float,
    eta: float,
    updates: int,
    rule: Rule = "mask",
    estimator: Estimator = "expected",
    batch: int = 256,
    warmup_updates: int = 0,
    seed: int = 0,
) -> Trajectory:
    """Train a student from the base for `updates` updates and return its trajectory.

    Rules on r = pi_T/pi_S: `mask` drops tokens with r > c, `truncate` weighs them min(1, c/r),
    `none` leaves them. `batch` and `seed` matter to the `sampled` estimator only.

    Past z_c, `mask` drives q to theory.masked_fixed_point, in most settings 1; the approach is
    logarithmic in n, since the step shrinks with 1-q. `truncate` moves the cliff up as long as
    q log Z < 1 at z_c, Z the normaliser of pi_T^lam pi_B^(1-lam) [D]. `mask` also drops a modal
    token while p/q > c: a start with b < p/c is slower than the flow of point 9.

    Errors: ConfigError for an unknown rule or estimator or a count out of range,
    TheoryDomainError for lam, c or eta. Source: docs/theory.md, points 1 and 7-9.
    """
    _check_settings(rule, estimator, updates, batch, warmup_updates)
    p, b, n_modal = position.p, position.b, position.n_modal
    budget_flow.updates_to_exit(p, b, c, lam, eta)  # refuses values outside the domain
    z_c = threshold.clip_safe_logit(p, c)
    step = class_step(eta, position)
    rng = np.random.default_rng(seed)
    logp_teacher, logp_base = np.log(position.teacher), np.log(position.base)
    logits = logp_base.copy()
    z = np.empty(updates + 1)
    lams, clipped = np.empty(updates), np.empty(updates)
    z[0] = _class_logit(logits, n_modal)
    for n in range(updates):
        logp = logits - np.logaddexp.reduce(logits)
        pi = np.exp(logp)
        lams[n] = budget_flow.lambda_at(n, lam, warmup_updates)
        weight = _weight(rule, logp_teacher - logp, c)
        freq = pi if estimator == "expected" else rng.multinomial(batch, pi / pi.sum()) / batch
        advantage = lams[n] * logp_teacher - logp - (lams[n] - 1.0) * logp_base
        push = freq * weight * advantage
        logits = logits + step * (push - pi * push.sum())
        clipped[n] = freq[weight < 1.0].sum()
        z[n + 1] = _class_logit(logits, n_modal)
    beyond = np.flatnonzero(z > z_c)
    crossed_at = int(beyond[0]) if beyond.size else None
    return Trajectory(z, threshold.sigmoid(z), lams, clipped, z_c, crossed_at, p)


def _weight(rule: Rule, log_ratio: Array, c: float) -> Array:
    if rule == "none":
        return np.ones_like(log_ratio)
    if rule == "mask":
        return np.where(log_ratio <= np.log(c), 1.0, 0.0)
    return np.minimum(1.0, c * np.exp(-log_ratio))


def _class_logit(logits: Array, n_modal: int) -> float:
    # Some times faster than scipy's logsumexp on a handful of tokens.
    modal, tail = np.logaddexp.reduce(logits[:n_modal]), np.logaddexp.reduce(logits[n_modal:])
    return float(modal - tail)


def _check_settings(
    rule: str, estimator: str, updates: int, batch: int, warmup_updates: int
) -> None:
    if rule not in get_args(Rule):
        raise ConfigError(f"rule = {rule!r} is unknown: choose one of {get_args(Rule)}")
    if estimator not in get_args(Estimator):
        raise ConfigError(f"estimator = {estimator!r} is unknown: choose {get_args(Estimator)}")
    counts = (("updates", updates, 1), ("batch", batch, 1), ("warmup_updates", warmup_updates, 0))
    for name, value, least in counts:
        if value < least:
            raise ConfigError(f"{name} = {value} is out of range: must be at least {least}")
