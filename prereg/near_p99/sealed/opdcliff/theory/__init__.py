"""Numbers only, no torch: the closed form, the flow, the spread of positions, onsets over seeds.

Every formula names its point in docs/theory.md.
"""

from __future__ import annotations

from opdcliff.theory import threshold
from opdcliff.theory.bisection import bisected
from opdcliff.theory.brackets import bracket_interval, bracket_test
from opdcliff.theory.budget_flow import lambda_at
from opdcliff.theory.clip_rules import ClipRule, validate_clip
from opdcliff.theory.onset import (
    LEVEL,
    Onset,
    WindowTest,
    bootstrap_interval,
    holm,
    onset_of_seed,
    t_interval,
    width_of_seed,
    wilson,
    window_test,
)
from opdcliff.theory.simulate import Rule, even_position, simulate_position
from opdcliff.theory.spread import (
    Flow,
    Population,
    class_tokens,
    critical_lambda,
    end_of_room,
    onset_on_budget,
    trajectory,
)
from opdcliff.theory.threshold import (
    clip_safe_logit,
    fixed_point,
    fixed_point_logit,
    lambda_star,
    modal_mass_for,
    no_threshold_reason,
    onset_margin,
)

__all__ = [
    "LEVEL",
    "ClipRule",
    "Flow",
    "Onset",
    "Population",
    "Rule",
    "WindowTest",
    "bisected",
    "bootstrap_interval",
    "bracket_interval",
    "bracket_test",
    "class_tokens",
    "clip_safe_logit",
    "critical_lambda",
    "end_of_room",
    "even_position",
    "fixed_point",
    "fixed_point_logit",
    "holm",
    "lambda_at",
    "lambda_star",
    "modal_mass_for",
    "no_threshold_reason",
    "onset_margin",
    "onset_of_seed",
    "onset_on_budget",
    "simulate_position",
    "t_interval",
    "threshold",
    "trajectory",
    "validate_clip",
    "width_of_seed",
    "wilson",
    "window_test",
]
