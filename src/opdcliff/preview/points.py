"""Where settled students are sampled: clips and lambdas, as given or of a protocol's arms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from opdcliff.calibration import Binding
from opdcliff.errors import ConfigError
from opdcliff.settings import RunConfig
from opdcliff.study import grid
from opdcliff.theory import ClipRule

# Lambdas where none are given: so many, evenly up to this share of the largest lambda*.
_LAMS, _FARTHEST, _WITHOUT_STAR = 8, 1.4, 3.0


@dataclass(frozen=True)
class Clip:
    """A clip rule and its strength, infinite without a clip."""

    rule: ClipRule
    strength: float

    def __str__(self) -> str:
        if math.isinf(self.strength):
            return "no clip"
        named = "" if self.rule is ClipRule.MASK else f"{self.rule}, "
        return f"{named}c = {self.strength:g}"

    @classmethod
    def of(cls, config: RunConfig) -> Clip:
        """The clip of a run's settings."""
        return cls.named(config.clip.rule, config.clip.strength)

    @classmethod
    def named(cls, rule: str, strength: float | None) -> Clip:
        """A clip by the fields of the group `clip`."""
        known = ClipRule(rule)
        return cls(known, math.inf if known is ClipRule.NONE or strength is None else strength)


def points_of(config: RunConfig, binding: Binding | None) -> dict[Clip, list[float]]:
    """The lambdas at each clip: `preview.lams`, else those of the protocol's arms, else eight.

    Raises:
        ConfigError: arms, and no binding class whose lambda* their lambdas are multiples of.
    """
    if config.protocol.arms and config.preview.lams is None:
        found: dict[Clip, list[float]] = {}
        for cell in grid(config, binding):
            lams = found.setdefault(Clip.of(cell.config), [])
            if cell.lam not in lams:
                lams.append(cell.lam)
        return {clip: sorted(lams) for clip, lams in found.items()}
    clips = _clips(config)
    lams = config.preview.lams or _default_lams(stars_of(binding, clips))
    return {clip: list(lams) for clip in clips}


def stars_of(binding: Binding | None, clips: Sequence[Clip]) -> dict[Clip, float]:
    """lambda* at each clip of which it is the threshold: a soft cap has another one (point 8)."""
    if binding is None:
        return {}
    hard = (ClipRule.MASK, ClipRule.TWO_SIDED)
    return {clip: binding.lambda_star(clip.strength) for clip in clips if clip.rule in hard}


def check_margin(clip: Clip, margin: float) -> None:
    """Refuse a margin under which the teacher itself would be gone. ConfigError."""
    widest = math.log(clip.strength)
    if not margin < widest:
        raise ConfigError(
            f"preview.margin={margin:g} takes in the teacher itself at c = {clip.strength:g}; "
            f"allowed: below log c = {widest:.3f}"
        )


def _clips(config: RunConfig) -> list[Clip]:
    """The strengths that are looked at under the rule of the settings, no clip last."""
    rule, free = ClipRule(config.clip.rule), Clip(ClipRule.NONE, math.inf)
    if rule is ClipRule.NONE:
        return [free]
    strengths = config.preview.strengths or config.calibration.strengths
    return [*(Clip(rule, strength) for strength in strengths), free]


def _default_lams(stars: dict[Clip, float]) -> list[float]:
    finite = [star for star in stars.values() if math.isfinite(star)]
    top = max(finite) * _FARTHEST if finite else _WITHOUT_STAR
    return [round(1.0 + (top - 1.0) * k / (_LAMS - 1), 4) for k in range(_LAMS)]
