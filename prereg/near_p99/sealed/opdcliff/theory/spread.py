"""The cliff of many positions at once: lambda* when positions differ, on a finite budget.

The closed form speaks of one position. In a network the positions of a class share their
parameters: position i sits at z_i = Z + r_i, where Z moves and the offsets r_i, of standard
deviation `spread`, stay. Z follows the mean force over positions, weighted by their gradient
w(z) = s(z)(1 - s(z)), s the sigmoid (docs/theory.md, point 16 [D]):

    G(Z) = E_r[w(Z + r) F(Z + r)] / E_r[w(Z + r)],
    F(z) = z* - z where z <= z_c, and A_m(z) = lam log p - log s(z) - (lam - 1) log b beyond it.

A position beyond z_c has lost its restoring term and pulls Z along. For spread > 0 the last rest
point of G vanishes at a lambda *below* lambda*: so many positions are beyond z_c that their pull
outweighs the others. For spread = 0 this is `theory`'s threshold. As there, the modal token is
taken not to be clipped itself (p/c <= q), which a start b under p/c breaks for its first updates.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

from opdcliff.errors import TheoryDomainError
from opdcliff.theory import budget_flow, domain, threshold

Array = NDArray[np.float64]

# Equally likely offsets r that stand for a normal distribution.
_OFFSETS: Array = np.asarray(stats.norm.ppf((np.arange(400) + 0.5) / 400))
# Parts an update is integrated in.
_PARTS = 4
_LAM_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Flow:
    """How fast the shared logit follows its force, per update: one of two laws.

    eta: plain gradient steps, dZ/dn = eta w(Z) G(Z), as in `budget_flow.updates_to_exit`. A loss
        that is a mean over the tokens of an answer gives the class its share of them, eta
        l/(l + rest), l = (1 - q^room)/(1 - q) its tokens within `room` at q = s(Z) and `rest` all
        others (point 21); without `rest` the share is 1.
    speed: logits per update whatever the size of the force, dZ/dn = speed sign G(Z): what an
        optimizer that divides the gradient by its own running size (AdamW) does far from a rest
        point. Near one it is slower than that; the windows that use it say so.
    """

    eta: float | None = None
    speed: float | None = None
    rest: float | None = None
    room: int | None = None

    def __post_init__(self) -> None:
        rate = self.eta if self.speed is None else self.speed
        if (self.eta is None) == (self.speed is None) or not 0.0 < (rate or 0.0) < np.inf:
            raise TheoryDomainError(
                f"eta = {self.eta!r}, speed = {self.speed!r}: give one of them, finite and above 0"
            )
        if (self.rest is None) != (self.room is None) or not (self.rest or 0.0) >= 0.0:
            raise TheoryDomainError(
                f"rest = {self.rest!r}, room = {self.room!r}: give both, rest at least 0, or none"
            )

    def share(self, z: float) -> float:
        """Share of an answer's tokens that the class has at logit z, 1 without `rest`."""
        if self.rest is None or self.room is None:
            return 1.0
        tokens = class_tokens(z, self.room)
        return tokens / (tokens + self.rest)

    def advanced(self, z: float, force: Callable[[float], float]) -> float:
        """Logit z one update on, under a force in logits that depends on where it is."""
        for _ in range(_PARTS):
            pull = force(z)
            if self.eta is not None:
                weight = self.share(z) * float(special.expit(z) * special.expit(-z))
                z += self.eta / _PARTS * weight * pull
            elif self.speed is not None:
                ahead = z + self.speed / _PARTS * float(np.sign(pull))
                # A step across the rest point would only come back: it is there.
                z = ahead if force(ahead) * pull > 0.0 else z
        return z


def class_tokens(z: float, room: int) -> float:
    """Mean tokens of a class that goes on with logit z, within `room`: (1 - q^room)/(1 - q)."""
    # 1 - q and log q to full precision for q near 1.
    return float(-np.expm1(room * special.log_expit(z)) / special.expit(-z))


@dataclass(frozen=True)
class Population:
    """Positions of one class: masses p and b, clip strength c, spread in logits (>= 0)."""

    p: float
    b: float
    c: float
    spread: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.spread < np.inf:
            raise TheoryDomainError(f"spread = {self.spread!r} must be finite and at least 0")
        if not np.isfinite(threshold.lambda_star(self.p, self.b, self.c)):
            raise TheoryDomainError(
                f"p = {self.p:.6g} <= b = {self.b:.6g}: there is no threshold to move"
            )

    @property
    def lambda_star(self) -> float:
        """The threshold without spread (point 4)."""
        return threshold.lambda_star(self.p, self.b, self.c)

    def force(self, z: Array | float, lam: float) -> Array:
        """G at each Z of `z`, in logits; the values of lam and z are not looked at."""
        z_star = self._logit_b + lam * (self._logit_p - self._logit_b)
        each = np.asarray(z)[..., None] + self.spread * _OFFSETS
        forces = np.where(each <= self._boundary, z_star - each, self._modal(each, lam))
        small = np.exp(-np.abs(each))
        weights = small / (1.0 + small) ** 2  # s(z)(1 - s(z)), to full precision at any z
        return np.asarray((weights * forces).sum(-1) / weights.sum(-1))

    def critical_lambda(self) -> float:
        """Largest lambda at which the shared logit still has a rest point inside the safe region.

        lambda* for spread 0, and below it by about (m/spread) * spread / (logit p - logit b)
        otherwise, m the margin in logits at which the rest point vanishes. Z is searched on a grid:
        the result is low by up to .0005 at spreads of .04 and more, by .005 as the spread goes to
        0. Raises TheoryDomainError where there is none even at lambda = 1.
        Source: docs/theory.md, point 16 [D].
        """
        star = self.lambda_star
        if self.spread == 0.0:
            return star
        z = np.linspace(self._logit_b, self._boundary, 400)

        def lowest(lam: float) -> float:
            return float(self.force(z, lam).min())

        if lowest(1.0) > 0.0:
            raise TheoryDomainError(
                f"spread = {self.spread:.6g} leaves no rest point even at lambda = 1; the "
                "positions differ by more than the safe region is wide"
            )
        return float(optimize.brentq(lowest, 1.0, star, xtol=_LAM_TOLERANCE))

    def margin(self) -> float:
        """Logits short of z_c at which the rest point vanishes, to leading order in the spread.

        m = spread (u + 1/u),  u^2 = 2 log(A/(spread sqrt(2 pi))),

        A the force just beyond z_c at lambda*. The onset falls short of lambda* by
        m/(logit p - logit b), a share m/(z_c - logit b) of it: to 0 with the spread at any p, and
        like 1/(z_c - logit b) as p goes to 1 at a given spread. 0 for spread 0.
        Raises TheoryDomainError where the spread is not small beside A (u < 1).
        Source: docs/theory.md, point 20 [D].
        """
        if self.spread == 0.0:
            return 0.0
        pull = self._modal(np.array(self._boundary), self.lambda_star)
        square = 2.0 * np.log(pull / (self.spread * np.sqrt(2.0 * np.pi)))
        if not square >= 1.0:
            raise TheoryDomainError(
                f"spread = {self.spread:.6g} is not small beside the force {float(pull):.4g} "
                "beyond the clip's boundary; critical_lambda() goes without that"
            )
        u = float(np.sqrt(square))
        return self.spread * (u + 1.0 / u)

    # Kept, since a path asks for the force some hundred thousand times.
    @cached_property
    def _logit_p(self) -> float:
        return threshold.logit(self.p)

    @cached_property
    def _logit_b(self) -> float:
        return threshold.logit(self.b)

    @cached_property
    def _boundary(self) -> float:
        """z_c."""
        return threshold.clip_safe_logit(self.p, self.c)

    def _modal(self, z: Array, lam: float) -> Array:
        """A_m at each logit."""
        rest = lam * math.log(self.p) - (lam - 1.0) * math.log(self.b)
        return rest - special.log_expit(z)


def critical_lambda(p: float, b: float, c: float, spread: float) -> float:
    """lambda* of positions that differ by `spread` logits: `Population.critical_lambda`.

    >>> round(critical_lambda(0.856, 0.456, 5.0, 0.1), 2)
    1.79
    """
    return Population(p, b, c, spread).critical_lambda()


def onset_on_budget(
    population: Population, flow: Flow, *, updates: int, warmup_updates: int, z_end: float
) -> float:
    """Smallest lambda at which the shared logit passes `z_end` within `updates` updates.

    Starts at logit b; lambda rises linearly over `warmup_updates`. z_end: the logit q at which the
    observed quantity has fallen, see `end_of_room`; above the rest points. The result lies above
    the critical lambda and falls to it as the budget grows, but for steps that carry Z over a
    narrow barrier (.0007 below it at .086 logits an update); infinity where twice lambda* is not
    enough.
    Source: docs/theory.md, points 9 and 16 [D].
    """
    if updates < 1:
        raise TheoryDomainError(f"updates = {updates!r} must be at least 1")

    def falls(lam: float) -> bool:
        path = trajectory(
            population, flow, lam, updates=updates, warmup_updates=warmup_updates, z_end=z_end
        )
        return bool(path[-1] >= z_end)

    low, high = 1.0, 2.0 * population.lambda_star
    if not falls(high):
        return float("inf")
    while high - low > _LAM_TOLERANCE:
        middle = 0.5 * (low + high)
        low, high = (low, middle) if falls(middle) else (middle, high)
    return high


def end_of_room(room: int, level: float) -> float:
    """Logit q at which a share `level` of texts still closes within `room` tokens.

    1 - q^room = level. Source: docs/theory.md, points 11 and 16 [D].
    """
    if not (0.0 < level < 1.0 and room > 0):
        raise TheoryDomainError(f"level = {level!r} must lie in (0, 1) and room = {room!r} above 0")
    return threshold.logit(float((1.0 - level) ** (1.0 / room)))


def trajectory(
    population: Population,
    flow: Flow,
    lam: float,
    *,
    updates: int,
    warmup_updates: int,
    z_end: float = np.inf,
) -> Array:
    """Shared logit after 0, 1, ... updates from logit b, up to `updates` or until `z_end`."""
    domain.coefficient(lam)
    path = [threshold.logit(population.b)]
    for update in range(updates):
        if path[-1] >= z_end:
            break
        lam_now = budget_flow.lambda_at(update, lam, warmup_updates)
        path.append(flow.advanced(path[-1], partial(_force_at, population, lam_now)))
    return np.array(path)


def _force_at(population: Population, lam: float, z: float) -> float:
    return float(population.force(z, lam))
