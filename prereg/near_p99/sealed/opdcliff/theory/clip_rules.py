"""Clip rules by name, and which strengths they take; no torch, so that settings can be checked."""

from __future__ import annotations

import math
from enum import StrEnum

from opdcliff.errors import ConfigError


class ClipRule(StrEnum):
    """What happens to a token whose importance ratio is beyond the clip strength c.

    On pi_T/pi_S (the ratio of the theorem): `mask` drops r > c, `truncate` weighs by min(1, c/r),
    `two_sided` drops r outside [1/c, c], `none` keeps every token.
    On pi_theta/pi_old (staleness inside one rollout batch): `ppo` and `aspo`, see `sampled_loss`.
    Source: docs/theory.md, "The importance ratios".
    """

    MASK = "mask"
    TRUNCATE = "truncate"
    TWO_SIDED = "two_sided"
    NONE = "none"
    PPO = "ppo"
    ASPO = "aspo"

    @property
    def uses_policy_ratio(self) -> bool:
        """True where the clipped ratio is pi_theta/pi_old."""
        return self in (ClipRule.PPO, ClipRule.ASPO)


def validate_clip(rule: ClipRule, strength: float | None, updates_per_batch: int) -> None:
    """Refuse a clip that is out of range or can never act.

    strength: c, a bound on a probability ratio, finite and > 1; without meaning for `none`.
    updates_per_batch: optimizer updates made on one rollout batch. With a single one
    pi_theta = pi_old, so the ratio of `ppo` and `aspo` is identically 1.
    Raises ConfigError.
    """
    if rule is ClipRule.NONE:
        return
    if strength is None or not 1.0 < strength < math.inf:
        raise ConfigError(
            f"clip strength {strength} with rule '{rule}': it bounds a probability ratio and must "
            "be finite and > 1; set e.g. 5, or choose the rule 'none'"
        )
    if rule.uses_policy_ratio and updates_per_batch < 2:
        raise ConfigError(
            f"clip rule '{rule}' with {updates_per_batch} update per rollout batch can never act: "
            "pi_theta/pi_old stays 1; use at least 2 updates or a rule on pi_T/pi_S "
            "(mask, truncate, two_sided)"
        )
