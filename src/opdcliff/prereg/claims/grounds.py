"""What the tests of a lock are written from, and the parts that all of them have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from opdcliff.prereg.pilot import PilotFacts
from opdcliff.prereg.windows import Masses, Setting, masses_of, require_a_cell
from opdcliff.settings import PredictionConfig, RunConfig
from opdcliff.verification import (
    METRIC_VERSIONS,
    PARSE_RATE,
    ContrastEstimator,
    Design,
    LockedArm,
    LockedTest,
    Metric,
    OnsetEstimator,
    Window,
)

_EXCLUSIONS = (
    "none on outcome: collapsed and diverged runs are data (a diverged run parses nothing); a cell "
    "without an outcome makes the test NOT_RUN"
)
_STOPPING = {
    False: "all cells of the design are run once; none is added, repeated or dropped after a look",
    True: "the cells that bisection of the grid asks for (opdcliff.theory.bisected) are run "
    "once; none is added, repeated or dropped after a look",
}
# Where the window of a test is from.
ONSET_RULE = "[D] rule in opdcliff.prereg.windows; inputs [M] calibration and pilot"
CHOSEN = "[here] chosen, in conf/protocol"
ONSET_REFUTED = "the interval of the mean onset over seeds lies wholly outside the window"


@dataclass(frozen=True)
class Grounds:
    """What the tests of a protocol are written from."""

    config: RunConfig
    predictions: PredictionConfig
    arms: Mapping[str, LockedArm]
    table: pd.DataFrame
    pilot: PilotFacts
    seeds: int

    def strength(self, arm: str) -> float:
        """Clip strength of an arm."""
        return float(self.arms[arm].settings["clip"]["strength"])

    def masses(self, arm: str) -> list[Masses]:
        """Calibrated masses with the lambda* interval at the arm's clip."""
        return masses_of(self.table, self.strength(arm))

    def setting(self, arm: str) -> Setting:
        """What an arm's onset is predicted for."""
        settings = self.arms[arm].settings
        return Setting(
            strength=self.strength(arm),
            updates=settings["optim"]["updates"],
            warmup_updates=settings["lam"]["warmup_updates"],
            room=settings["rollout"]["max_new_tokens"],
            closing_share=self.level / self.predictions.upper_plateau,
        )

    @property
    def level(self) -> float:
        """Midway between the plateaus."""
        return 0.5 * (self.predictions.upper_plateau + self.predictions.lower_plateau)

    def safe_lam(self) -> float:
        """The lambda of the fine grid at the safe multiple."""
        arm = self.arms[self.predictions.fine_grid]
        return arm.lams[arm.multiples.index(self.predictions.safe_multiple)]


def locked_test(
    grounds: Grounds,
    name: str,
    arm: str,
    metric: str,
    estimator: OnsetEstimator | ContrastEstimator,
    window: Window,
    texts: Mapping[str, str],
    correction: str,
    rule: str = ONSET_RULE,
) -> LockedTest:
    """A test of an arm.

    texts: claim, source, hypothesis and what would refute it. rule: where its window is from.
    """
    settings = grounds.arms[arm].settings
    return LockedTest.model_validate(
        {
            "id": name,
            **texts,
            "metric": Metric(name=metric, version=METRIC_VERSIONS[metric]),
            "design": Design(
                arm=arm,
                clip=settings["clip"]["name"],
                strength=settings["clip"]["strength"],
                lams=grounds.arms[arm].lams,
                updates=settings["optim"]["updates"],
                warmup_updates=settings["lam"]["warmup_updates"],
                seeds=grounds.seeds,
            ),
            "estimator": estimator,
            "window": window,
            "minimum_seeds": grounds.predictions.least_seeds,
            "exclusions": _EXCLUSIONS,
            "stopping": _STOPPING[grounds.config.protocol.bisect],
            "correction": correction,
            "provenance": {
                "design.lams": "[D] multiples of the calibrated lambda*, in conf/protocol",
                "window": rule,
                **grounds.predictions.choices,
            },
        }
    )


def onset_test(
    grounds: Grounds,
    name: str,
    arm: str,
    window: Window,
    *,
    claim: str,
    source: str,
    hypothesis: str,
    refutes: str = ONSET_REFUTED,
    correction: str = "holm",
    rule: str = ONSET_RULE,
) -> LockedTest:
    """A test of where the answers of an arm stop to parse.

    Raises:
        ConfigError: onsets are read as grid cells, and none lies whole in the window.
    """
    by = "brackets" if grounds.config.protocol.bisect else "points"
    if by == "brackets":
        require_a_cell(window, grounds.arms[arm].lams, f"{name}, arm {arm}")
    estimator = OnsetEstimator.model_validate(
        {"kind": "onset", "level": grounds.level, "confidence": 0.95, "by": by}
    )
    texts = {"claim": claim, "source": source, "hypothesis": hypothesis, "refutes": refutes}
    return locked_test(
        grounds, name, arm, PARSE_RATE, estimator, window, texts, correction, rule=rule
    )
