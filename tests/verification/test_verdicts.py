"""Verdicts: each outcome where it belongs, and nothing missing or strange is ever a pass."""

from __future__ import annotations

import math
from typing import Any

import pytest

from locked import BY_BRACKETS, LAMS, SEEDS, cliff_cells, contrast_test, onset_test, value
from opdcliff.verification.locked_test import LockedTest
from opdcliff.verification.verdicts import CellValue, Outcome, Verdict, corrected, judge

Cells = dict[tuple[str, float, int], CellValue]


def window(lo: float | None, hi: float | None) -> dict[str, Any]:
    return {"lo": lo, "hi": hi, "derivation": "made up"}


def verdict_of(falls_after: list[float], **changes: Any) -> Verdict:
    return judge(onset_test(**changes), cliff_cells(falls_after), SEEDS)


# ---- onset ----------------------------------------------------------------------------------


def test_an_interval_inside_the_window_confirms() -> None:
    verdict = verdict_of([1.75] * 5 + [1.80])
    assert verdict.outcome is Outcome.CONFIRMED
    assert verdict.points == pytest.approx([1.775] * 5 + [1.825])
    assert verdict.mean == pytest.approx(sum(verdict.points) / 6)
    assert verdict.low < verdict.mean < verdict.high
    assert verdict.bracket == (1.75, 1.85)
    assert 0.0 < verdict.p < 0.05
    assert verdict.point_inside
    # The fall from 0.95 to 0.05 over one step of .05: from 0.75 to 0.25 takes 5/9 of it.
    assert verdict.widths == pytest.approx([0.05 * 5 / 9] * 6)


@pytest.mark.parametrize(("lo", "hi"), [(1.60, 1.77), (1.78, 1.89)])
def test_an_interval_wholly_outside_refutes(lo: float, hi: float) -> None:
    verdict = verdict_of([1.75] * 6, window=window(lo, hi))
    assert verdict.outcome is Outcome.REFUTED
    assert ("above" if hi < 1.775 else "below") in verdict.reason
    assert not verdict.point_inside
    assert verdict.p == 1.0


@pytest.mark.parametrize(("lo", "inside"), [(1.79, True), (1.81, False)])
def test_a_straddling_interval_is_inconclusive_and_says_where_the_mean_is(
    lo: float, inside: bool
) -> None:
    verdict = verdict_of([1.75] * 3 + [1.80] * 3, window=window(lo, 1.9))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.point_inside is inside
    assert verdict.reason.endswith("inside" if inside else "outside")


@pytest.mark.parametrize(("lo", "hi"), [(1.775, 1.9), (1.6, 1.775)])
def test_equal_onsets_on_the_very_edge_confirm_nothing(lo: float, hi: float) -> None:
    point = verdict_of([1.75] * 6).mean
    edges = (point, hi) if lo == 1.775 else (lo, point)
    verdict = verdict_of([1.75] * 6, window=window(*edges))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.p == 1.0


def test_the_same_cell_of_the_grid_gives_an_interval_of_no_width_inside_it() -> None:
    verdict = verdict_of([1.75] * 6, window=window(1.75, 1.80))
    assert (verdict.outcome, verdict.low, verdict.high) == (Outcome.CONFIRMED, 1.775, 1.775)


# ---- onset by brackets ----------------------------------------------------------------------


def read_by_brackets(
    falls_after: list[float], bounds: tuple[float, float], *, without: tuple[float, ...] = ()
) -> Verdict:
    cells = {k: v for k, v in cliff_cells(falls_after).items() if k[1] not in without}
    test = onset_test(estimator=BY_BRACKETS, window=window(*bounds))
    return judge(test, cells, SEEDS)


@pytest.mark.parametrize(
    ("falls_after", "bounds", "outcome"),
    [
        # All seeds fall in one cell: that cell is the interval, and nothing narrower.
        ([1.80] * 6, (1.80, 1.85), Outcome.CONFIRMED),
        ([1.80] * 6, (1.81, 1.85), Outcome.INCONCLUSIVE),
        # The cell before the window, or behind it, only touches it.
        ([1.75] * 6, (1.80, 1.85), Outcome.REFUTED),
        ([1.85] * 6, (1.80, 1.85), Outcome.REFUTED),
        # One seed elsewhere: the interval reaches into its cell.
        ([1.80] * 5 + [1.75], (1.80, 1.85), Outcome.INCONCLUSIVE),
        ([1.80] * 5 + [1.75], (1.75, 1.85), Outcome.CONFIRMED),
        # Beyond the grid.
        ([1.90] * 6, (1.74, 1.84), Outcome.REFUTED),
        ([0.0] * 6, (1.74, 1.84), Outcome.REFUTED),
        ([1.90] * 6, (1.74, 1.95), Outcome.INCONCLUSIVE),
    ],
)
def test_brackets_decide_by_whole_cells(
    falls_after: list[float], bounds: tuple[float, float], outcome: Outcome
) -> None:
    verdict = read_by_brackets(falls_after, bounds)
    assert verdict.outcome is outcome, verdict
    if falls_after == [1.80] * 6:
        assert (verdict.low, verdict.high) == verdict.bracket == (1.80, 1.85)
    assert verdict.widths == ()


def test_a_bisected_test_reads_its_path_and_misses_only_what_is_on_it() -> None:
    # 1.80 holds, then 1.85 falls: three of five lambdas say nothing.
    whole = read_by_brackets([1.80] * 6, (1.80, 1.85))
    assert read_by_brackets([1.80] * 6, (1.80, 1.85), without=(1.70, 1.75, 1.90)) == whole
    missing = read_by_brackets([1.80] * 6, (1.80, 1.85), without=(1.85,))
    assert missing.outcome is Outcome.NOT_RUN
    assert "6 of 12 cells have no outcome, the first: fine_grid lam=1.85 seed=11" in missing.reason
    nothing = judge(onset_test(estimator=BY_BRACKETS), {}, SEEDS)
    assert "6 of 6 cells have no outcome, the first: fine_grid lam=1.8 seed=11" in nothing.reason


def test_a_bisected_cell_without_its_metric_is_no_collapse() -> None:
    cells = cliff_cells([1.80] * 6)
    cells["fine_grid", 1.85, 13] = value(math.nan)
    verdict = judge(onset_test(estimator=BY_BRACKETS), cells, SEEDS)
    assert verdict.outcome is Outcome.INADMISSIBLE
    # Beside the path it is not read.
    cells = cliff_cells([1.80] * 6)
    cells["fine_grid", 1.70, 13] = value(math.nan)
    assert (
        judge(onset_test(estimator=BY_BRACKETS), cells, SEEDS).outcome is not Outcome.INADMISSIBLE
    )


@pytest.mark.parametrize(
    ("falls_after", "bounds", "outcome"),
    [
        # No seed falls inside the grid: it is above the window.
        ([1.90] * 6, (1.74, 1.84), Outcome.REFUTED),
        ([1.90] * 6, (1.74, 1.95), Outcome.INCONCLUSIVE),
        # Every seed has fallen at the first lambda: it is below.
        ([0.0] * 6, (1.74, 1.84), Outcome.REFUTED),
        ([0.0] * 6, (1.60, 1.84), Outcome.INCONCLUSIVE),
        # One seed alone decides nothing.
        ([1.75] * 5 + [1.90], (1.74, 1.84), Outcome.INCONCLUSIVE),
        ([1.75] * 5 + [0.0], (1.74, 1.84), Outcome.INCONCLUSIVE),
        ([0.0] * 3 + [1.90] * 3, (1.74, 1.84), Outcome.INCONCLUSIVE),
    ],
)
def test_seeds_that_do_not_cross_inside_the_grid(
    falls_after: list[float], bounds: tuple[float, float], outcome: Outcome
) -> None:
    verdict = verdict_of(falls_after, window=window(*bounds))
    assert verdict.outcome is outcome
    assert "do not cross the level" in verdict.reason
    assert verdict.p == 1.0


# ---- contrasts ------------------------------------------------------------------------------


def contrast_cells(gains: list[float], **metrics: float) -> Cells:
    cells: Cells = {}
    for seed, gain in zip(SEEDS, gains, strict=True):
        cells["warm_start", 1.0, seed] = value(0.3, **metrics)
        cells["fine_grid", 1.70, seed] = value(0.3 + gain, **metrics)
    return cells


@pytest.mark.parametrize(
    ("gains", "outcome"),
    [
        ([0.60, 0.61, 0.62, 0.63, 0.64, 0.65], Outcome.CONFIRMED),
        ([0.10, 0.11, 0.12, 0.13, 0.14, 0.15], Outcome.REFUTED),
        ([0.10, 0.20, 0.30, 0.35, 0.40, 0.60], Outcome.INCONCLUSIVE),
    ],
)
def test_a_contrast_is_the_mean_difference_per_seed(gains: list[float], outcome: Outcome) -> None:
    verdict = judge(contrast_test(), contrast_cells(gains), SEEDS)
    assert verdict.outcome is outcome
    assert verdict.points == pytest.approx(gains)


def test_a_two_sided_contrast_needs_both_sides() -> None:
    flat = contrast_test(window=window(-0.03, 0.03))
    tiny = [0.01, -0.01, 0.0, 0.01, -0.01, 0.0]
    assert judge(flat, contrast_cells(tiny), SEEDS).outcome is Outcome.CONFIRMED
    assert judge(flat, contrast_cells([0.05] * 6), SEEDS).outcome is Outcome.REFUTED
    assert judge(flat, contrast_cells([-0.05] * 6), SEEDS).outcome is Outcome.REFUTED


def test_a_side_that_parses_too_little_makes_a_contrast_inadmissible() -> None:
    estimator = contrast_test().model_dump()["estimator"] | {"least_parse_rate": 0.5}
    verdict = judge(contrast_test(estimator=estimator), contrast_cells([0.6] * 6), SEEDS)
    assert verdict.outcome is Outcome.INADMISSIBLE
    assert "warm_start lam=1 parses 0.300" in verdict.reason


# ---- what is missing or strange ---------------------------------------------------------------


def test_a_missing_cell_is_not_run_and_shows_no_statistics() -> None:
    cells = cliff_cells([1.75] * 6)
    del cells["fine_grid", 1.85, 13]
    verdict = judge(onset_test(), cells, SEEDS)
    assert verdict.outcome is Outcome.NOT_RUN
    assert "1 of 30 cells" in verdict.reason
    assert "fine_grid lam=1.85 seed=13" in verdict.reason
    assert verdict.points == ()
    assert math.isnan(verdict.mean)


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ({}, "has no metric eval/parse_rate"),
        ({"eval/parse_rates": 0.95}, "has no metric eval/parse_rate"),
        ({"eval/parse_rate": math.nan}, "has eval/parse_rate = nan"),
        ({"eval/parse_rate": math.inf}, "has eval/parse_rate = inf"),
        ({"eval/parse_rate": 1.01}, "has eval/parse_rate = 1.01"),
        ({"eval/parse_rate": -0.1}, "has eval/parse_rate = -0.1"),
    ],
)
def test_a_metric_that_is_missing_or_no_rate_is_inadmissible(
    metrics: dict[str, float], said: str
) -> None:
    cells = cliff_cells([1.75] * 6)
    cells["fine_grid", 1.80, 12] = CellValue("finished", metrics)
    verdict = judge(onset_test(), cells, SEEDS)
    assert verdict.outcome is Outcome.INADMISSIBLE
    assert said in verdict.reason
    assert verdict.points == ()


@pytest.mark.parametrize("metric", [("eval/parse_rate", 2), ("eval/ndcg5_all", 1)])
def test_an_unknown_metric_or_version_is_inadmissible(metric: tuple[str, int]) -> None:
    verdict = verdict_of([1.75] * 6, metric={"name": metric[0], "version": metric[1]})
    assert verdict.outcome is Outcome.INADMISSIBLE


def test_too_few_seeds_are_inadmissible_however_often_one_is_named() -> None:
    cells = cliff_cells([1.75] * 6)
    assert judge(onset_test(), cells, SEEDS[:5]).outcome is Outcome.INADMISSIBLE
    repeated = [*SEEDS[:5], SEEDS[0]]
    assert judge(onset_test(), cells, repeated).outcome is Outcome.INADMISSIBLE


def test_an_unknown_level_or_grid_is_inadmissible() -> None:
    unknown_level = {"kind": "onset", "level": None, "confidence": 0.95}
    assert verdict_of([1.75] * 6, estimator=unknown_level).outcome is Outcome.INADMISSIBLE
    design = onset_test().model_dump()["design"] | {"lams": None}
    assert verdict_of([1.75] * 6, design=design).outcome is Outcome.INADMISSIBLE


def test_a_diverged_run_parses_nothing_and_is_counted() -> None:
    cells = cliff_cells([1.75] * 6)
    for lam in LAMS[2:]:
        cells["fine_grid", lam, 11] = CellValue("diverged", {"eval/parse_rate": 0.95})
    assert judge(onset_test(), cells, SEEDS).points[0] == pytest.approx(
        1.75 + 0.05 * (0.95 - 0.5) / 0.95
    )


def test_ndcg_of_parsed_answers_of_a_diverged_run_is_inadmissible() -> None:
    metric = {"name": "eval/ndcg1_parsed", "version": 1}
    cells = contrast_cells([0.6] * 6, **{"eval/ndcg1_parsed": 0.9})
    assert judge(contrast_test(metric=metric, window=window(-0.1, 0.1)), cells, SEEDS).outcome is (
        Outcome.CONFIRMED
    )
    cells["fine_grid", 1.70, 11] = CellValue("diverged", dict(cells["fine_grid", 1.70, 11].metrics))
    verdict = judge(contrast_test(metric=metric), cells, SEEDS)
    assert verdict.outcome is Outcome.INADMISSIBLE


# ---- several tests ----------------------------------------------------------------------------


def three(verdicts: list[Verdict]) -> tuple[list[LockedTest], list[Verdict]]:
    tests = [onset_test(id=verdict.id) for verdict in verdicts]
    return tests, verdicts


def made(name: str, p: float, outcome: Outcome = Outcome.CONFIRMED) -> Verdict:
    return Verdict(name, outcome, "", (0.0, 1.0), p=p)


def test_holm_multiplies_the_smallest_p_by_the_number_of_tests() -> None:
    found = corrected(*three([made("A", 0.01), made("B", 0.02), made("C", 0.5)]))
    assert [v.p_holm for v in found] == pytest.approx([0.03, 0.04, 0.5])


def test_a_test_that_was_not_judged_counts_as_p_of_one() -> None:
    found = corrected(*three([made("A", 0.01), made("B", 0.0, Outcome.NOT_RUN)]))
    assert [v.p_holm for v in found] == pytest.approx([0.02, 1.0])


def test_tests_outside_the_family_keep_their_own_p() -> None:
    tests = [onset_test(id="A"), onset_test(id="B", correction="none")]
    found = corrected(tests, [made("A", 0.01), made("B", 0.02)])
    assert [v.p_holm for v in found] == pytest.approx([0.01, 0.02])
