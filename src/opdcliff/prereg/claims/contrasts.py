"""The contrasts of a lock: flatness, lift and parity, each of two cells over all seeds."""

from __future__ import annotations

from opdcliff.prereg.claims.grounds import CHOSEN, Grounds, locked_test
from opdcliff.settings import PredictionConfig
from opdcliff.verification import CellRef, ContrastEstimator, LockedTest, Window

WARM_START, LARGER_SFT = "warm_start", "larger_sft"

_REFUTED = "the t-interval of the mean difference over seeds lies wholly outside the window"


def contrasts(grounds: Grounds) -> list[LockedTest]:
    """Those of the three that the protocol has what it takes for, in that order."""
    named = grounds.predictions
    fine = named.fine_grid
    safe = CellRef(arm=fine, lam=grounds.safe_lam())
    rows = [_lift(named, safe)]
    if named.far_below is not None:
        far = CellRef(arm=named.far_below, lam=grounds.arms[named.far_below].lams[0])
        rows.insert(0, _flatness(named, safe, far))
    if named.larger_model is not None:
        rows.append(_parity(named, safe))
    return [
        locked_test(
            grounds,
            name,
            fine,
            metric,
            # 90%: inside the window is then the same as two one-sided tests at 5% (or one).
            ContrastEstimator(
                kind="contrast", of=safe, minus=minus, confidence=0.90, least_parse_rate=gate
            ),
            window,
            {"claim": claim, "source": source, "hypothesis": said, "refutes": _REFUTED},
            "none",
            CHOSEN,
        )
        for (name, metric, minus, gate), window, claim, source, said in rows
    ]


# Name, metric, what is taken off and the parse rate both sides need; window; claim; source; words.
_Row = tuple[tuple[str, str, CellRef, float], Window, str, str, str]


def _flatness(named: PredictionConfig, safe: CellRef, far: CellRef) -> _Row:
    delta = named.flat_delta
    return (
        ("flatness", "eval/ndcg1_parsed", far, 0.5),
        Window(lo=-delta, hi=delta, derivation="equivalence margin, chosen before any locked run"),
        "Below the cliff the ranking quality of parsed answers does not depend on lambda.",
        "NDCG@1 of parsed answers flat in lambda [P]",
        f"NDCG@1 of parsed answers at {safe.lam:g} and {far.lam:g} differs by less than {delta:g}",
    )


def _lift(named: PredictionConfig, safe: CellRef) -> _Row:
    return (
        ("lift", "eval/parse_rate", CellRef(arm=WARM_START, lam=None), 0.0),
        Window(lo=named.least_lift, hi=None, derivation="least lift worth naming, chosen"),
        "Below the cliff distillation lifts the strict parse rate above the warm start's.",
        "33.5% to 94.8% [P]",
        f"the parse rate at {safe.lam:g} is over {named.least_lift:g} above the warm start's",
    )


def _parity(named: PredictionConfig, safe: CellRef) -> _Row:
    return (
        ("parity", "eval/ndcg1_all", CellRef(arm=LARGER_SFT, lam=None), 0.0),
        Window(lo=-named.parity_margin, hi=None, derivation="non-inferiority margin, chosen"),
        "The small distilled student is no worse than a fine-tuned model five times its size.",
        "1.7B student at parity with 8B SFT [P]",
        f"NDCG@1 over all answers at {safe.lam:g} is not {named.parity_margin:g} or more under the "
        "larger model's",
    )
