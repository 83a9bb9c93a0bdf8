"""The tests of a lock: their wording, estimators and windows.

Tests of the onset (T1 fine grid, T2 budget extension, T3 small clip), the closed form taken to the
letter beside T1 and T3, a shortfall carried from an earlier lock, previews, and the contrasts. A
protocol without an arm for one does without it.
"""

from __future__ import annotations

from opdcliff.prereg.claims.carried import Shortfall, carried_tests
from opdcliff.prereg.claims.contrasts import contrasts
from opdcliff.prereg.claims.grounds import ONSET_REFUTED, Grounds, onset_test
from opdcliff.prereg.claims.previews import preview_tests
from opdcliff.prereg.windows import cell_window, checked_window, onset_window
from opdcliff.preview import Preview
from opdcliff.verification import LockedTest, Window

_CELL_REFUTED = f"{ONSET_REFUTED}; the window is one cell of the grid"


def write_tests(
    grounds: Grounds, previewed: Preview | None, earlier: Shortfall | None
) -> list[LockedTest]:
    """All tests of a protocol.

    previewed: settled students at the arms that are to be previewed. earlier: the shortfall of
    another lock that is carried to this one.

    Raises:
        ConfigError: a window that is vacuous or impossible on its grid.
    """
    named = grounds.predictions
    t1 = _allowed(grounds, named.fine_grid)
    onset_tests = [
        onset_test(
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
        *(_budget_test(grounds, arm, t1) for arm in named.extended),
        *([] if named.small_clip is None else [_small_clip_test(grounds, named.small_clip)]),
    ]
    exact = [
        onset_test(
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
        if named.exact and arm is not None
    ]
    carried = carried_tests(grounds, earlier)
    return [
        *onset_tests,
        *exact,
        *carried,
        *preview_tests(grounds, previewed),
        *contrasts(grounds),
    ]


def _budget_test(grounds: Grounds, arm: str, t1: Window) -> LockedTest:
    """T2: as T1 with more updates, and not above its window."""
    own = _allowed(grounds, arm)
    (lo, hi), (_, highest) = own.bounds, t1.bounds
    named = grounds.predictions
    settings, base = (grounds.arms[a].settings for a in (arm, named.fine_grid))
    name = "T2" if len(named.extended) == 1 else f"T2_{settings['optim']['updates']}"
    return onset_test(
        grounds,
        name,
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


def _small_clip_test(grounds: Grounds, arm: str) -> LockedTest:
    """T3: as T1 at a smaller clip, from the same pilot."""
    return onset_test(
        grounds,
        "T3",
        arm,
        _allowed(grounds, arm),
        claim="The same p and b predict the onset at a smaller clip; nothing is refitted.",
        source="small-clip test of the paper [P]; spread of the same pilot [D], point 16",
        hypothesis=f"the onset at c = {grounds.strength(arm):g} lies in the window computed with "
        f"the {grounds.predictions.pilot[0].clip} pilot",
    )


def _allowed(grounds: Grounds, arm: str) -> Window:
    return onset_window(
        grounds.masses(arm), grounds.pilot, grounds.setting(arm), grounds.arms[arm].lams
    )
