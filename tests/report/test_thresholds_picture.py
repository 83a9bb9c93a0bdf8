"""The picture of single positions: its numbers, its limits, and curves without an end."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from opdcliff.calibration.distribution import tabulate_curves, tabulate_distribution
from opdcliff.report.drawing.thresholds import draw_thresholds

pytestmark = pytest.mark.filterwarnings("error")


def _positions(p: list[float], b: float, source: str) -> pd.DataFrame:
    return pd.DataFrame({"class": "text", "source": source, "p": p, "b": b})


def _draw(positions: pd.DataFrame, folder: Path) -> pd.DataFrame:
    curves, medians = tabulate_curves(positions, 5.0), tabulate_distribution(positions, [5.0])
    draw_thresholds(curves, medians, folder, c=5.0, note="homogeneous: no", origin="abc")
    return pd.read_csv(folder / "thresholds.csv")


WIDE = pd.concat(
    [
        _positions([0.999] * 50 + [0.8] * 40 + [0.3] * 10, 0.5, "warm_start"),
        _positions([0.2] * 100, 0.5, "forced"),
        _positions(np.linspace(0.6, 0.99, 100).tolist(), 0.5, "teacher"),
    ]
)


def test_the_table_holds_the_plotted_curves_and_the_files_say_where_they_come_from(
    tmp_path: Path,
) -> None:
    before = dict(mpl.rcParams)
    table = _draw(WIDE, tmp_path)
    assert set(table.source) == {"warm_start", "forced", "teacher"}
    assert set(table.weighting) == {"plain", "tail"}
    warm = table[(table.source == "warm_start") & (table.weighting == "plain")]
    # What is left at the right has no upper threshold.
    assert np.isinf(warm[warm["share"] > 0.901].threshold).all()
    assert np.isfinite(warm[warm["share"] < 0.899].threshold).all()
    assert np.isinf(table[table.source == "forced"].of_medians).all()
    text = (tmp_path / "thresholds.svg").read_text()
    assert "calibration abc" in text
    assert "homogeneous: no" in text
    assert dict(mpl.rcParams) == before


def test_the_same_positions_give_the_same_bytes_and_equal_ones_are_drawn(tmp_path: Path) -> None:
    alike = _positions([0.9] * 20, 0.5, "warm_start")
    for name in ("first", "second"):
        _draw(alike, tmp_path / name)
    for name in ("thresholds.csv", "thresholds.png"):
        first, second = ((tmp_path / run / name).read_bytes() for run in ("first", "second"))
        assert first == second


def test_a_class_without_any_threshold_is_drawn(tmp_path: Path) -> None:
    assert np.isinf(_draw(_positions([0.2] * 20, 0.5, "forced"), tmp_path).threshold).all()
