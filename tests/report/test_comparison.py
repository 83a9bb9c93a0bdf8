"""A rerun beside the committed study: what is the same, what is allowed, what is not."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from opdcliff.errors import NotReproducedError
from opdcliff.paths import REPO_ROOT
from opdcliff.report.comparison.compare import Agreement, Comparison, compared
from opdcliff.report.comparison.picture import differences
from opdcliff.report.comparison.printed import counts, headline
from opdcliff.report.comparison.tables import read_tables
from opdcliff.report.comparison.tolerance import JUMPS
from opdcliff.theory.onset import onset_of_seed, t_interval, wilson
from quick_tables import QUICK, edited


def against_committed(folder: Path) -> Comparison:
    return compared("mini/quick", read_tables(folder, "x"), read_tables(QUICK, "x"))


def outside(found: Comparison) -> set[tuple[str, str]]:
    numbers = found.numbers[found.numbers.verdict == Agreement.OUTSIDE]
    return set(zip(numbers.table, numbers.column, strict=True))


def arm(cells: pd.DataFrame, clip: str) -> pd.Series:
    return cells["clip"] == clip


def set_rate(cells: pd.DataFrame, rows: pd.Series, rate: float) -> None:
    """A parse rate, with what follows from it."""
    low, high = wilson(round(rate * 256), 256)
    cells.loc[rows, ["parse_rate", "parse_lo", "parse_hi"]] = rate, low, high
    cells.loc[rows, ["ndcg1_parsed", "ndcg1_all"]] = 0.98, 0.98 * rate


def with_onsets_of_its_cells(folder: Path) -> Path:
    """onsets.csv made anew from cells.csv, as far as the onset."""
    cells = pd.read_csv(folder / "cells.csv")

    def renewed(onsets: pd.DataFrame) -> None:
        for number, clip in enumerate(onsets["clip"]):
            seeds = [part for _, part in cells[arm(cells, clip)].groupby("seed")]
            found = [onset_of_seed(s.lam.tolist(), s.parse_rate.tolist(), 0.5) for s in seeds]
            points = [onset.point for onset in found]
            mean, star = sum(points) / len(points), onsets.lambda_star[number]
            low, high = t_interval(points)
            onsets.loc[number, ["onset", "onset_lo", "onset_hi"]] = mean, low, high
            onsets.loc[number, "off_by_percent"] = 100 * (mean / star - 1)
            onsets.loc[number, "bracket_lo"] = min(onset.below for onset in found)
            onsets.loc[number, "bracket_hi"] = max(onset.above for onset in found)
            onsets.loc[number, "points"] = " ".join(f"{point:.4f}" for point in points)

    return edited(folder, renewed, "onsets")


# ---- reproduced -------------------------------------------------------------------------------


def test_the_same_tables_are_the_same_bits(ours: Path) -> None:
    found = against_committed(ours)
    assert found.count(Agreement.SAME) == len(found.numbers) > 700
    found.raise_if_different()
    assert found.last_line().startswith(f"reproduced: {len(found.numbers)} numbers, of which")
    # A table of the same bits takes one line.
    assert counts(found)["column"].tolist() == ["all"] * 4


def test_seeds_that_change_places_are_within(ours: Path) -> None:
    """What a changed draw does: another seed of the same distribution."""
    turned = {0: 1, 1: 2, 2: 0}

    def turn(cells: pd.DataFrame) -> None:
        cells.loc[~arm(cells, "none_"), "seed"] = cells.seed.map(turned)

    found = against_committed(with_onsets_of_its_cells(edited(ours, turn)))
    assert not outside(found)
    assert found.count(Agreement.WITHIN) > 200


def test_a_seed_that_falls_in_the_next_grid_cell_is_within(ours: Path) -> None:
    """Seen [M] on another processor: c = 2, onset 1.352 against 1.340."""

    def later(cells: pd.DataFrame) -> None:
        set_rate(cells, arm(cells, "c2") & (cells.lam == 1.3539) & (cells.seed == 1), 0.71)

    found = against_committed(with_onsets_of_its_cells(edited(ours, later)))
    assert not outside(found)
    onset = headline(found).set_index("arm").loc["c2 full w100 n200"]
    assert (onset["committed"], onset[""]) == ("1.34031", "within")
    assert float(onset["here"]) > 1.349
    found.raise_if_different()


def test_lambdas_follow_the_calibration_and_are_found_by_their_place_on_the_grid(
    ours: Path,
) -> None:
    """Seen [M] under other kernels: lambda* .4% higher."""

    def scale(table: pd.DataFrame) -> None:
        for column in table:
            if column in ("lam", "lambda_star") or column.startswith("lambda_star_c"):
                table[column] *= 1.004
        if "lam" in table:
            table["lam"] = table.lam.round(4)

    for name in ("cells", "calibration"):
        edited(ours, scale, name)
    edited(ours, lambda onsets: onsets.assign(lambda_star=onsets.lambda_star * 1.004), "onsets")
    found = against_committed(with_onsets_of_its_cells(ours))
    assert not outside(found)


def test_a_bin_of_almost_the_same_threshold_may_bind(ours: Path) -> None:
    def other_bin(table: pd.DataFrame) -> None:
        table["binding"] = table.offsets == "28-55"

    def another_class(table: pd.DataFrame) -> None:
        table["binding"] = table["class"] == "id"

    assert not outside(against_committed(edited(ours, other_bin, "calibration")))
    found = against_committed(edited(ours, another_class, "calibration"))
    assert outside(found) == {("calibration", "binding")}


# ---- not reproduced ---------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [-2, 2])
def test_a_curve_shifted_by_two_steps_of_the_grid_is_outside(ours: Path, steps: int) -> None:
    def shift(cells: pd.DataFrame) -> None:
        for clip in ("c5", "c2"):
            for seed in (0, 1, 2):
                rows = cells.index[arm(cells, clip) & (cells.seed == seed)]
                rates = cells.parse_rate[rows].tolist()
                moved = [rates[min(max(n - steps, 0), len(rates) - 1)] for n in range(len(rates))]
                for row, rate in zip(rows, moved, strict=True):
                    set_rate(cells, cells.index == row, rate)

    found = outside(against_committed(with_onsets_of_its_cells(edited(ours, shift))))
    assert {("cells", "parse_rate"), ("onsets", "onset"), ("onsets", "off_by_percent")} <= found


@pytest.mark.parametrize("clip", ["c5", "c2"])
@pytest.mark.parametrize(
    ("by", "column"), [(0.9, None), (-0.9, None), (1.6, "onset"), (-1.6, "onset")]
)
def test_an_onset_may_move_by_a_grid_cell_and_no_further(
    ours: Path, clip: str, by: float, column: str | None
) -> None:
    def move(onsets: pd.DataFrame) -> None:
        row = arm(onsets, clip)
        onsets.loc[row, "onset"] += by * (onsets.bracket_hi - onsets.bracket_lo)[row]

    found = outside(against_committed(edited(ours, move, "onsets")))
    assert found == ({("onsets", column)} if column else set())


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("clip", "lam"), [("c5", 1.5101), ("c2", 1.1166)])
def test_a_parse_rate_far_below_the_cliff_lowered_by_a_fifth_is_outside(
    ours: Path, clip: str, lam: float, seed: int
) -> None:
    def lower(cells: pd.DataFrame) -> None:
        row = arm(cells, clip) & (cells.lam == lam) & (cells.seed == seed)
        set_rate(cells, row, float(cells.parse_rate[row].iloc[0]) - 0.2)

    found = against_committed(edited(ours, lower))
    assert ("cells", "parse_rate") in outside(found)
    with pytest.raises(NotReproducedError, match=f"{clip} full w100 n200 lam={lam} seed={seed}"):
        found.raise_if_different()


@pytest.mark.parametrize("by", [-0.05, 0.05])
@pytest.mark.parametrize("mass", ["p", "b"])
def test_another_mass_of_the_class_that_binds_is_outside(ours: Path, mass: str, by: float) -> None:
    def change(table: pd.DataFrame) -> None:
        table.loc[table.binding, mass] += by

    assert outside(against_committed(edited(ours, change, "calibration"))) == {
        ("calibration", mass)
    }


def test_of_a_mass_that_is_one_nothing_is_claimed(ours: Path) -> None:
    certain = read_tables(edited(ours, lambda table: table.assign(p=1.0), "calibration"), "x")
    found = compared("mini/quick", read_tables(QUICK, "x"), certain)
    assert not outside(found)
    assert found.count(Agreement.NOT_JUDGED) == 9


@pytest.mark.parametrize(
    ("column", "row", "value"),
    [
        ("prompts", 3, 255),
        ("status", 0, "collapsed"),
        ("status", 13, "finished"),
        ("updates", 0, 140),
        ("tail_ratio", 0, 40.0),
        ("tail_ratio", 0, 1.8),
        ("mean_length", 0, 120.0),
        ("truncated", 16, 0.3),
        ("ndcg1_parsed", 0, 0.7),
        ("clip_fraction", 30, 1e-6),
        ("residual", 0, 3.0),
        ("parse_rate", 0, float("nan")),
    ],
)
def test_one_wrong_number_of_a_run_is_outside(
    ours: Path, column: str, row: int, value: object
) -> None:
    def change(cells: pd.DataFrame) -> None:
        cells[column] = cells[column].astype(object)
        cells.loc[row, column] = value

    assert outside(against_committed(edited(ours, change))) == {("cells", column)}


def test_another_multiple_of_the_threshold_is_outside(ours: Path) -> None:
    found = against_committed(edited(ours, lambda cells: cells.replace({"lam": {1.5101: 1.548}})))
    assert outside(found) == {("cells", "lam")}


def test_a_tail_ratio_may_jump_as_far_as_it_did_in_the_locked_runs() -> None:
    runs = pd.read_csv(REPO_ROOT / "results/locked/mini/trajectories.csv")
    settled = runs[runs.step >= 100]
    lowest = settled.groupby(["arm", "lam", "seed"])["eval/parse_rate"].transform("min")
    parsing = settled[lowest > 0.85]
    ratio = parsing["train/tail_ratio/text"]
    median = ratio.groupby([parsing.arm, parsing.lam, parsing.step]).transform("median")
    above = (ratio / median).sort_values().tolist()
    assert len(above) == 898
    assert (above[-4], above[-3], above[-1]) == pytest.approx((1.09, 2.75, 6.88), abs=0.005)
    assert above[-1] < JUMPS["tail_ratio"] < 1.01 * above[-1]


def test_how_often_the_clip_acts_moves_with_the_models(ours: Path) -> None:
    """Seen [M] with models trained under AVX2: half as often again, in all runs."""

    def more(cells: pd.DataFrame) -> None:
        cells["clip_fraction"] *= 1.52

    assert not outside(against_committed(edited(ours, more)))


def test_a_reference_outside_its_sampling_error_is_outside(ours: Path) -> None:
    path = ours / "references.json"
    path.write_text(path.read_text().replace('"eval/parse_rate": 0.3125', '"eval/parse_rate": 0.5'))
    assert outside(against_committed(ours)) == {("references", "eval/parse_rate")}


def test_a_run_that_only_one_side_has_is_outside(ours: Path) -> None:
    found = against_committed(edited(ours, lambda cells: cells.drop(index=[4])))
    assert outside(found) == {("cells", "row")}
    more = edited(ours, lambda cells: cells.assign(seed=cells.seed.replace({2: 3})))
    assert {"the row is missing", "no such row is committed"} <= set(
        against_committed(more).numbers.reason
    )


def test_the_picture_marks_what_is_outside(ours: Path) -> None:
    def lower(cells: pd.DataFrame) -> None:
        cells.loc[0, "parse_rate"] = 0.5

    found = against_committed(edited(ours, lower))
    parts = differences(found.numbers)
    assert (parts.part.abs() > 1).sum() == 1
    assert len(parts) > 500
