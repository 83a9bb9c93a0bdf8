"""The cliff figure: what it shows, and that it is the same bytes every time."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from grid_frames import CLIFF, STARS, calibration, cells
from opdcliff.report.drawing import style
from opdcliff.report.drawing.cliff import draw_cliff
from opdcliff.study.summary import onset_table

pytestmark = pytest.mark.filterwarnings("error")


def draw(folder: Path, table: pd.DataFrame | None = None, **changes: Any) -> str:
    """Draw into a new folder; returns the text of the SVG."""
    folder.mkdir(exist_ok=True)
    table = cells(CLIFF) if table is None else table
    draw_cliff(
        table,
        changes.pop("onsets", onset_table(table)),
        changes.pop("calibration", calibration()),
        folder,
        **{"level": 0.5, "provenance": "models 0123456789ab, 27 cells", **changes},
    )
    return (folder / "cliff.svg").read_text()


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved."""
    seen: list[Figure] = []
    monkeypatch.setattr(style, "save", lambda figure, *rest: seen.append(figure))
    return seen


def test_the_same_tables_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("first", "second"):
        draw(tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert files == ["cliff.csv", "cliff.png", "cliff.svg"]
    for name in files:
        first, second = ((tmp_path / run / name).read_bytes() for run in ("first", "second"))
        assert first == second, name


def test_the_files_say_where_they_come_from(tmp_path: Path) -> None:
    text = draw(tmp_path, provenance="models abc, 3 cells")
    assert "models abc, 3 cells" in text
    with Image.open(tmp_path / "cliff.png") as image:
        assert image.text["Description"] == "models abc, 3 cells"  # type: ignore[attr-defined]
        assert "Creation Time" not in image.text  # type: ignore[attr-defined]


def test_the_table_beside_it_holds_the_plotted_numbers(tmp_path: Path) -> None:
    draw(tmp_path)
    table = cells(CLIFF)
    columns = ["clip", "estimator", "warmup", "budget", "lam", "lambda_star", "seed"]
    expected = table[[*columns, "parse_rate", "ndcg1_parsed"]].reset_index(drop=True)
    written = pd.read_csv(tmp_path / "cliff.csv")
    pd.testing.assert_frame_equal(written, expected, rtol=1e-6)


def test_every_arm_has_its_numbers_in_its_panel(figures: list[Figure]) -> None:
    table = cells(CLIFF)
    onsets = onset_table(table).set_index("clip")
    draw_cliff(table, onset_table(table), calibration(), Path(), level=0.5, provenance="x")
    (figure,) = figures
    assert len(figure.axes) == 3
    for axis, clip in zip(figure.axes, CLIFF, strict=True):
        arm = table[table["clip"] == clip]
        legend = axis.get_legend()
        assert legend is not None
        labels = [text.get_text() for text in legend.get_texts()]
        assert axis.get_title(loc="left") == f"clip {clip}, sampled, warm-up 80, budget 160"
        lines = {line.get_label(): line for line in axis.get_lines()}
        for seed in (0, 1, 2):
            points = lines[f"parse rate, seed {seed}"]
            part = arm[arm.seed == seed]
            assert list(points.get_xdata()) == part.lam.tolist()
            assert list(points.get_ydata()) == part.parse_rate.tolist()
        mean = lines["parse rate, mean"]
        assert list(mean.get_ydata()) == pytest.approx(
            arm.groupby("lam").parse_rate.mean().tolist()
        )
        predicted = [label for label in labels if label.startswith("predicted")]
        observed = [label for label in labels if label.startswith("observed")]
        if clip == "none_":
            assert predicted == observed == []
            continue
        assert predicted == [f"predicted lambda* = {STARS[clip]:.3f}"]
        assert lines[predicted[0]].get_xdata() == [STARS[clip]] * 2
        assert observed == [f"observed onset {onsets.onset[clip]:.3f}"]


def test_an_observed_onset_lies_on_the_level_with_its_interval(figures: list[Figure]) -> None:
    onsets = onset_table(cells(CLIFF))
    draw_cliff(cells(CLIFF), onsets, calibration(), Path(), level=0.55, provenance="x")
    (container,) = figures[0].axes[0].containers
    point, _, (bar,) = container
    assert point is not None
    row = onsets[onsets["clip"] == "c5"].iloc[0]
    assert (*point.get_xdata(), *point.get_ydata()) == (row.onset, 0.55)
    ((start, end),) = bar.get_segments()
    assert (start[0], end[0]) == pytest.approx((row.onset_lo, row.onset_hi))


def test_arms_that_do_not_cross_show_no_onset(tmp_path: Path) -> None:
    text = draw(tmp_path, cells({"c5": {1.5: 0.95, 1.7: 0.93}}))
    assert "observed onset" not in text
    assert "predicted lambda* = 1.800" in text


def test_single_lambdas_and_missing_ndcg_are_drawn(tmp_path: Path) -> None:
    table = cells({"none_": {2.0: 0.0}})
    assert table.ndcg1_parsed.isna().all()
    assert onset_table(table).empty
    assert "clip none_" in draw(tmp_path, table)


def test_an_interval_up_to_infinity_ends_with_the_grid(figures: list[Figure]) -> None:
    endless = calibration(lambda_star_c5_hi=math.inf)
    draw_cliff(cells(CLIFF), onset_table(cells(CLIFF)), endless, Path(), level=0.5, provenance="x")
    (band,) = figures[0].axes[0].patches
    assert band.get_extents().transformed(figures[0].axes[0].transData.inverted()).x1 == (
        pytest.approx(2.1)
    )
    assert np.isfinite(figures[0].axes[0].get_xlim()).all()


def test_no_binding_class_means_no_prediction(tmp_path: Path) -> None:
    assert "predicted" not in draw(tmp_path, calibration=calibration(binding=False))


def test_more_seeds_than_markers_are_all_drawn(figures: list[Figure]) -> None:
    table = cells({"c5": {1.5: 0.95, 1.9: 0.3}}, seeds=range(10))
    draw_cliff(table, onset_table(table), calibration(), Path(), level=0.5, provenance="x")
    labels = [line.get_label() for line in figures[0].axes[0].get_lines()]
    assert [f"parse rate, seed {seed}" in labels for seed in range(10)] == [True] * 10


def test_the_style_stays_with_the_figure(tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    draw(tmp_path)
    assert dict(mpl.rcParams) == before


def test_what_ranks_nothing_is_drawn_without_ndcg(tmp_path: Path) -> None:
    """Cells of a schema have no column of grades."""
    table = cells(CLIFF).filter(regex="^(?!ndcg)")
    text = draw(tmp_path, table)
    assert "NDCG" not in text
    written = pd.read_csv(tmp_path / "cliff.csv")
    assert written.columns[-1] == "parse_rate"
