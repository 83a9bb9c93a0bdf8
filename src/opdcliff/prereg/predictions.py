"""The tests of the confirmatory study: their wording, estimators and windows.

Three tests of the onset (T1 fine grid, T2 budget extension, T3 small clip), the closed form taken
to the letter beside T1 and T3, and three contrasts (flatness, lift, parity).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from opdcliff.prereg.pilot import PilotFacts
from opdcliff.prereg.windows import (
    Masses,
    Setting,
    cell_window,
    checked_window,
    masses_of,
    onset_window,
)
from opdcliff.settings import PredictionConfig, RunConfig
from opdcliff.verification import (
    METRIC_VERSIONS,
    CellRef,
    ContrastEstimator,
    Design,
    LockedArm,
    LockedTest,
    Metric,
    OnsetEstimator,
    Window,
)

WARM_START, LARGER_SFT = "warm_start", "larger_sft"

_EXCLUSIONS = (
    "none on outcome: collapsed and diverged runs are data (a diverged run parses nothing); a cell "
    "without an outcome makes the test NOT_RUN"
)
_STOPPING = {
    "points": "all cells of the design are run once; none is added, repeated or dropped after a "
    "look",
    "brackets": "the cells that bisection of the grid asks for (opdcliff.theory.bisected) are run "
    "once; none is added, repeated or dropped after a look",
}
_ONSET_REFUTED = "the interval of the mean onset over seeds lies wholly outside the window"
_CONTRAST_REFUTED = (
    "the t-interval of the mean difference over seeds lies wholly outside the window"
)
_CELL_REFUTED = f"{_ONSET_REFUTED}; the window is one cell of the grid"


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


def write_tests(grounds: Grounds) -> list[LockedTest]:
    """All tests of a protocol.

    Raises:
        ConfigError: a window that is vacuous or impossible on its grid.
    """
    named = grounds.predictions
    t1 = _allowed(grounds, named.fine_grid)
    onset_tests = [
        _onset_test(
            grounds,
            "T1",
            named.fine_grid,
            t1,
            claim="At the base budget the student stops parsing at lambda*(p, b, c), less what the "
            "spread of positions takes.",
            source="fine-grid test of the paper [P]; window derived here [D], theory points 14, 16",
            hypothesis=f"the onset at c = {grounds.strength(named.fine_grid):g} lies in the window "
            "computed from calibration and pilot",
        ),
        *([] if named.extended is None else [_budget_test(grounds, named.extended, t1)]),
        _onset_test(
            grounds,
            "T3",
            named.small_clip,
            _allowed(grounds, named.small_clip),
            claim="The same p and b predict the onset at a smaller clip; nothing is refitted.",
            source="small-clip test of the paper [P]; spread of the same pilot [D], point 16",
            hypothesis=f"the onset at c = {grounds.strength(named.small_clip):g} lies in the "
            f"window computed with the {named.pilot[0].clip} pilot",
        ),
    ]
    exact = [
        _onset_test(
            grounds,
            f"{test}_exact",
            arm,
            cell_window(grounds.masses(arm)[0].star(grounds.strength(arm)), grounds.arms[arm].lams),
            claim="The onset is the closed form itself, below the resolution of the grid.",
            source="Theorem 4.1, Eq. 4 [S], taken to the letter",
            hypothesis="the onset lies in the grid cell that holds lambda*, no allowance made",
            refutes=_CELL_REFUTED,
            correction="none",
        )
        for test, arm in (("T1", named.fine_grid), ("T3", named.small_clip))
    ]
    return [*onset_tests, *exact, *_contrasts(grounds)]


def _budget_test(grounds: Grounds, arm: str, t1: Window) -> LockedTest:
    """T2: as T1 with more updates, and not above its window."""
    own = _allowed(grounds, arm)
    (lo, hi), (_, highest) = own.bounds, t1.bounds
    settings, base = (grounds.arms[a].settings for a in (arm, grounds.predictions.fine_grid))
    return _onset_test(
        grounds,
        "T2",
        arm,
        checked_window(
            lo,
            min(hi, highest),
            f"{own.derivation}; not above the window of T1",
            grounds.arms[arm].lams,
        ),
        claim="A longer budget does not move the onset up, and not below the noise allowance.",
        source="budget test of the paper [P]; finite-budget flow [D], theory points 9, 16",
        hypothesis=f"with {settings['optim']['updates']} updates for {base['optim']['updates']} "
        "the onset lies in the window",
    )


def _allowed(grounds: Grounds, arm: str) -> Window:
    return onset_window(
        grounds.masses(arm), grounds.pilot, grounds.setting(arm), grounds.arms[arm].lams
    )


def _onset_test(
    grounds: Grounds,
    name: str,
    arm: str,
    window: Window,
    *,
    claim: str,
    source: str,
    hypothesis: str,
    refutes: str = _ONSET_REFUTED,
    correction: str = "holm",
) -> LockedTest:
    by = grounds.predictions.decide_by
    estimator = OnsetEstimator.model_validate(
        {"kind": "onset", "level": grounds.level, "confidence": 0.95, "by": by}
    )
    texts = {"claim": claim, "source": source, "hypothesis": hypothesis, "refutes": refutes}
    return _test(grounds, name, arm, "eval/parse_rate", estimator, window, texts, correction)


def _contrasts(grounds: Grounds) -> list[LockedTest]:
    named = grounds.predictions
    fine = named.fine_grid
    safe = CellRef(arm=fine, lam=grounds.safe_lam())
    far = CellRef(arm=named.far_below, lam=grounds.arms[named.far_below].lams[0])
    delta = named.flat_delta
    rows = [
        (
            ("flatness", "eval/ndcg1_parsed", far, 0.5),
            Window(
                lo=-delta, hi=delta, derivation="equivalence margin, chosen before any locked run"
            ),
            "Below the cliff the ranking quality of parsed answers does not depend on lambda.",
            "NDCG@1 of parsed answers flat in lambda [P]",
            f"NDCG@1 of parsed answers at {safe.lam:g} and {far.lam:g} differs by less than "
            f"{delta:g}",
        ),
        (
            ("lift", "eval/parse_rate", CellRef(arm=WARM_START, lam=None), 0.0),
            Window(lo=named.least_lift, hi=None, derivation="least lift worth naming, chosen"),
            "Below the cliff distillation lifts the strict parse rate above the warm start's.",
            "33.5% to 94.8% [P]",
            f"the parse rate at {safe.lam:g} is over {named.least_lift:g} above the warm start's",
        ),
        (
            ("parity", "eval/ndcg1_all", CellRef(arm=LARGER_SFT, lam=None), 0.0),
            Window(lo=-named.parity_margin, hi=None, derivation="non-inferiority margin, chosen"),
            "The small distilled student is no worse than a fine-tuned model five times its size.",
            "1.7B student at parity with 8B SFT [P]",
            f"NDCG@1 over all answers at {safe.lam:g} is not {named.parity_margin:g} or more under "
            "the larger model's",
        ),
    ]
    if named.larger_model is None:
        rows = rows[:-1]
    return [
        _test(
            grounds,
            name,
            fine,
            metric,
            # 90%: inside the window is then the same as two one-sided tests at 5% (or one).
            ContrastEstimator(
                kind="contrast", of=safe, minus=minus, confidence=0.90, least_parse_rate=gate
            ),
            window,
            {"claim": claim, "source": source, "hypothesis": said, "refutes": _CONTRAST_REFUTED},
            "none",
        )
        for (name, metric, minus, gate), window, claim, source, said in rows
    ]


def _test(
    grounds: Grounds,
    name: str,
    arm: str,
    metric: str,
    estimator: OnsetEstimator | ContrastEstimator,
    window: Window,
    texts: Mapping[str, str],
    correction: str,
) -> LockedTest:
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
            "stopping": _STOPPING[grounds.predictions.decide_by],
            "correction": correction,
            "provenance": {
                "design.lams": "[D] multiples of the calibrated lambda*, in conf/protocol",
                "window": (
                    "[D] rule in opdcliff.prereg.windows; inputs [M] calibration and pilot"
                    if estimator.kind == "onset"
                    else "[here] chosen, in conf/protocol"
                ),
            },
        }
    )
