"""The bounds on a calibration against the draws that they were measured on."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from opdcliff.paths import REPO_ROOT
from opdcliff.report.comparison.calibration import calibration_allowed
from opdcliff.report.comparison.compare import Agreement, judge
from opdcliff.report.comparison.retrained import (
    DRAWS,
    HONEST_RERUNS,
    NUMBERS,
    SIGMAS,
    SPREADS,
    apart,
)
from quick_tables import QUICK

MASSES = ["p", "b", "lambda_star_c5", "lambda_star_c2"]


@pytest.fixture(scope="module")
def draws() -> pd.DataFrame:
    table = pd.read_csv(REPO_ROOT / "benchmarks" / "rounding.csv")
    return table[table.draw > 0]


def log_odds(share: pd.Series) -> pd.Series:
    return np.log(share / (1 - share))


@pytest.mark.parametrize("name", SPREADS)
def test_a_spread_is_that_of_the_draws_rounded_up(name: str, draws: pd.DataFrame) -> None:
    rows = [part for _, part in draws[draws["class"] == name].groupby("offsets")]
    assert {len(row) for row in rows} == {DRAWS}
    known, stars = SPREADS[name], draws.lambda_star_c5[draws["class"] == name]
    columns = [(known.p, "p", log_odds), (known.b, "b", log_odds)]
    # Where p and b are alike lambda* is infinite in some draws, and has no spread.
    assert math.isfinite(known.log_star) == np.isfinite(stars).all()
    if math.isfinite(known.log_star):
        columns.append((known.log_star, "lambda_star_c5", np.log))
    for value, column, scale in columns:
        found = math.sqrt(np.mean([scale(row[column]).var() for row in rows]))
        assert 0 <= value - found < 0.02 * value, column


def test_every_draw_is_a_calibration_that_the_committed_one_allows(draws: pd.DataFrame) -> None:
    table = pd.read_csv(QUICK / "calibration.csv")
    keyed = draws.set_index(["class", "offsets"])
    for _, row in table.iterrows():
        for _, draw in keyed.loc[(row["class"], row.offsets)].iterrows():
            for column in (*MASSES, "prompts", "positions"):
                allowed = calibration_allowed(row, column, table)
                verdict = judge(f"{draw[column]:.6g}", f"{row[column]:.6g}", allowed)
                assert verdict != Agreement.OUTSIDE, (row["class"], row.offsets, column)


def test_the_draw_without_a_nudge_is_the_committed_calibration() -> None:
    """The same bits on the kernels of the committed tables; the file was made on those."""
    made = pd.read_csv(REPO_ROOT / "benchmarks" / "rounding.csv")
    table = pd.read_csv(QUICK / "calibration.csv")
    pd.testing.assert_frame_equal(
        made[made.draw == 0][["class", "offsets", *MASSES]].reset_index(drop=True),
        table[["class", "offsets", *MASSES]],
        rtol=1e-5,
    )


def test_all_numbers_of_a_rerun_hold_at_once_but_in_one_of_a_hundred() -> None:
    """Normal numbers, as many as a study may have: the largest of them against the bound."""
    rng = np.random.default_rng(0)
    largest = np.array([np.abs(rng.standard_normal(NUMBERS)).max() for _ in range(20_000)])
    share = (largest > SIGMAS).mean()
    assert share == pytest.approx(1 / HONEST_RERUNS, rel=0.25)
    # Estimated from few draws: a difference of two of them, in the spread that the others show.
    pairs = rng.standard_normal((20_000, 2))
    seen = rng.standard_normal((20_000, DRAWS)).std(axis=1, ddof=1)
    assert (np.abs(pairs[:, 0] - pairs[:, 1]) < apart(1.0) * seen).all()
