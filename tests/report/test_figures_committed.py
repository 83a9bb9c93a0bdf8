"""All figures from committed results: numbers, provenance, missing inputs, determinism, colours."""

from __future__ import annotations

import io
import itertools
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from numpy.typing import NDArray
from PIL import Image

from made_results import made_results, make_study
from opdcliff.cli import command
from opdcliff.errors import ConfigError, InadmissibleError, TamperedError
from opdcliff.paths import REPO_ROOT, StudyPaths
from opdcliff.records.writer import RunRecord
from opdcliff.report.drawing import build, style
from opdcliff.report.drawing.budget_flow import UPPER_PLATEAU
from opdcliff.report.drawing.build import NAMES, build_figure, build_figures
from opdcliff.report.drawing.inputs import Inputs, MissingInputError
from opdcliff.report.drawing.page import Page, write_page
from opdcliff.report.drawing.parameters import parameter_counts
from opdcliff.settings.checks import load
from opdcliff.settings.compose import compose_one
from opdcliff.study.collect import collect
from opdcliff.theory import threshold
from opdcliff.verification.committed import seal_tables

COMMITTED = StudyPaths(REPO_ROOT / "runs", REPO_ROOT / "results", REPO_ROOT / "prereg")
# Their inputs have been committed from the start; the others are built as their studies are.
ALWAYS = ("geometry", "threshold_surface", "fine_grid", "budget", "trajectories", "calibration")

ENDINGS = ("png", "svg", "csv")

Array = NDArray[np.float64]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> StudyPaths:
    paths = made_results(tmp_path_factory.mktemp("made"))
    build_figures(paths, ["small_clip"])
    return paths


def csv_of(name: str, paths: StudyPaths) -> str:
    return as_csv(build_figure(name, Inputs(paths)).table)


def as_csv(table: pd.DataFrame) -> str:
    text = io.StringIO()
    table.to_csv(text, index=False, float_format="%.6g")
    return text.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_committed_results_give_the_committed_numbers_and_provenance(name: str) -> None:
    page = committed_page(name)
    folder = COMMITTED.committed.figures_dir()
    assert as_csv(page.table) == (folder / f"{name}.csv").read_text(), (
        "results and figure disagree: run `opdcliff figures`, and look at what changed"
    )
    assert described(folder / f"{name}.png") == page.provenance
    assert page.provenance in (folder / f"{name}.svg").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_figure_can_be_drawn(name: str, tmp_path: Path) -> None:
    page = committed_page(name)
    write_page(page, tmp_path, name)
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.{s}" for s in ENDINGS}
    assert described(tmp_path / f"{name}.png") == page.provenance
    assert page.provenance in (tmp_path / f"{name}.svg").read_text()


def committed_page(name: str) -> Page:
    """The figure of the committed results; skips one whose results are not there yet."""
    try:
        return build_figure(name, Inputs(COMMITTED))
    except MissingInputError:
        assert name not in ALWAYS
        assert not (COMMITTED.committed.figures_dir() / f"{name}.csv").exists()
        pytest.skip(f"no results of {name} are committed")


def described(path: Path) -> str:
    with Image.open(path) as image:
        assert "Creation Time" not in image.text  # type: ignore[attr-defined]
        text: str = image.text["Description"]  # type: ignore[attr-defined]
    return text


def test_the_locked_figures_name_lock_records_and_the_code_of_the_records() -> None:
    verdicts = json.loads((COMMITTED.committed.locked_dir("mini") / "verdicts.json").read_text())
    said = described(COMMITTED.committed.figures_dir() / "fine_grid.png")
    assert verdicts["lock_sha256"][:12] in said
    assert verdicts["runs_sha256"][:12] in said
    assert "code c35ce51a7272" in said


def test_twice_built_is_the_same_bytes(made: StudyPaths, tmp_path: Path) -> None:
    write_page(build_figure("small_clip", Inputs(made)), tmp_path, "small_clip")
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (made.own.figures_dir() / path.name).read_bytes(), path.name
    assert len(list(tmp_path.iterdir())) == 3


def test_a_missing_input_skips_its_figure_in_one_line_with_the_command(
    made: StudyPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "results"
    shutil.copytree(made.results, results)
    shutil.rmtree(results / "studies" / "mini" / "clips")
    paths = StudyPaths(made.runs, results, made.prereg)
    # One before it and one after it, to save the time of all.
    monkeypatch.setattr(build, "NAMES", ("geometry", "small_clip", "calibration"))
    first, line, last = build_figures(paths, None)
    assert first.startswith("geometry: written to")
    assert last.startswith("calibration: written to")
    assert line == (
        "small_clip: skipped, results/studies/mini/clips/cells.csv is missing; "
        "`opdcliff study experiment=clips` makes it"
    )
    with pytest.raises(MissingInputError, match=r"figure small_clip: .*clips"):
        build_figures(paths, ["small_clip"])


def test_the_command_line_tells_an_unknown_figure_and_setting(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command.main(["figures", "only=cliffs"]) == ConfigError.exit_code
    assert "allowed: geometry" in capsys.readouterr().err
    assert command.main(["figures", "lam.value=2"]) == ConfigError.exit_code
    assert command.main(["collect"]) == ConfigError.exit_code


def test_every_locked_run_of_the_fine_grid_is_a_point() -> None:
    table = pd.read_csv(COMMITTED.committed.figures_dir() / "fine_grid.csv")
    cells = pd.read_csv(COMMITTED.committed.locked_dir("mini") / "cells.csv")
    mine, runs = table[table.row == "run"], cells[cells.arm == "fine_grid"]
    assert len(mine) == len(runs) == 48
    assert sorted(mine.parse_rate) == pytest.approx(sorted(runs["eval/parse_rate"]), rel=1e-5)


def test_an_onset_off_the_grid_is_drawn_open_and_kept(made: StudyPaths, tmp_path: Path) -> None:
    results = tmp_path / "results"
    shutil.copytree(made.results, results)
    make_study(results, "scope_llama", {"c5": (0.8875, 0.94, 0.97)}, onset=2.0)
    page = build_figure("scope", Inputs(StudyPaths(made.runs, results, made.prereg)))
    row = page.table[page.table.what == "family: Llama, c = 5"].iloc[0]
    assert np.isnan(row.onset)
    assert row.bracket_hi == np.inf
    (axis,) = page.figure.axes
    assert ">" in [line.get_marker() for line in axis.get_lines()]
    assert "a seed does not cross on the grid" in [text.get_text() for text in axis.texts]


def test_a_table_written_after_collecting_is_not_taken_for_the_records(
    made: StudyPaths, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    shutil.copytree(made.results, results)
    paths = StudyPaths(made.runs, results, made.prereg)
    assert "records 9d70bb1c3a10" in Inputs(paths).study("mini", "quick", "x").origin
    (results / "studies/mini/quick/cells.csv").write_text("clip\nc5\n")
    with pytest.raises(TamperedError, match=r"cells\.csv was edited"):
        Inputs(paths).study("mini", "quick", "x")
    # Sealed anew without its runs, it no longer claims them.
    seal_tables(results / "studies/mini/quick", {})
    assert "records not noted" in Inputs(paths).study("mini", "quick", "x").origin


def test_the_flow_of_the_budget_figure_ends_where_the_windows_do() -> None:
    predictions = compose_one(["protocol=mini"]).protocol.predictions
    assert predictions.upper_plateau == UPPER_PLATEAU
    table = pd.read_csv(COMMITTED.committed.figures_dir() / "budget.csv")
    flow = table[table.row.str.startswith("flow")]
    star = table[table.row == "lambda_star"].lam.iloc[0]
    assert (
        flow.lam.min() < star == pytest.approx(threshold.lambda_star(0.855742, 0.456257, 5.0), 1e-5)
    )
    assert flow.updates.notna().all()


def test_parameters_are_those_of_the_models_and_need_a_possible_count() -> None:
    counts = parameter_counts(["tiny", "tiny_5x"], "tiny_5x", 561088)
    # 343 entries: width 64; two layers of q, k, v, o, norms of heads, feed-forward, norms; a norm.
    layer = 64 * (64 + 32 + 32 + 64) + 2 * 16 + 3 * 64 * 128 + 2 * 64
    assert counts == {"tiny": 343 * 64 + 2 * layer + 64, "tiny_5x": 561088}
    with pytest.raises(ValueError, match="561089"):
        parameter_counts(["tiny"], "tiny_5x", 561089)


def finished_run(paths: StudyPaths, protocol: str, lam: float, seed: int) -> None:
    """A record of three evaluations, as a cell of `train -m` writes it."""
    config = asdict(load(compose_one(["protocol=grid", f"protocol.name={protocol}", "clip=c5"])))
    plain = config | {"resolved_lam": lam, "kind": "opd", "seed": seed}
    identity = f"{round(lam * 100):032x}{seed:032x}"
    folder = paths.cell_dir(protocol, f"lam{lam}-s{seed}", identity)
    with RunRecord.create(
        folder, identity=identity, config=plain, seed=seed, protocol=protocol, name="x"
    ) as record:
        for step in (0, 20, 40):
            record.log(step, {"eval/parse_rate": 1 / 3, "train/lam": lam, "time/step_s": 1.0})


def test_collected_tables_hold_every_evaluation_and_name_the_records(tmp_path: Path) -> None:
    paths = StudyPaths(tmp_path / "runs", tmp_path / "results", tmp_path / "prereg")
    for lam, seed in ((1.9, 1), (1.5, 0), (1.5, 1)):
        finished_run(paths, "own_grid", lam, seed)
    found = collect("own_grid", paths)
    assert (found.folder, found.runs, found.left_out) == (paths.own.grid_dir("own_grid"), 3, 0)
    table = pd.read_csv(found.folder / "trajectories.csv")
    assert table[["lam", "seed", "step"]].to_numpy().tolist() == [
        [lam, seed, step] for lam, seed in ((1.5, 0), (1.5, 1), (1.9, 1)) for step in (0, 20, 40)
    ]
    assert set(table["eval/parse_rate"]) == {0.33333}
    assert table["train/headroom"].isna().all()
    assert not [name for name in table if name.startswith("time/")]
    assert len(pd.read_csv(found.folder / "cells.csv")) == 3
    noted = json.loads((found.folder / "provenance.json").read_text())
    assert (noted["lock_sha256"], noted["runs"]) == (None, 3)
    assert (
        Inputs(paths)
        .grid("own_grid", "x")
        .origin.startswith(
            f"own_grid: exploratory, no lock, records {noted['runs_sha256'][:12]}, code "
        )
    )
    first = {path.name: path.read_bytes() for path in found.folder.iterdir()}
    collect("own_grid", paths)
    assert first == {path.name: path.read_bytes() for path in found.folder.iterdir()}
    # Its own tables it makes anew, as after a kill; another's it does not seal once edited.
    for name in ("cells.csv", "trajectories.csv"):
        (found.folder / name).write_text("cut")
    collect("own_grid", paths)
    assert first == {path.name: path.read_bytes() for path in found.folder.iterdir()}
    (found.folder / "onsets.csv").write_text("clip\n")
    with pytest.raises(TamperedError, match=r"onsets\.csv is not listed"):
        collect("own_grid", paths)


def test_the_committed_trajectories_end_where_the_committed_runs_do() -> None:
    folder = COMMITTED.committed.locked_dir("mini")
    keys = ["arm", "lam", "seed"]
    ends = pd.read_csv(folder / "trajectories.csv").groupby(keys)["eval/parse_rate"].last()
    cells = pd.read_csv(folder / "cells.csv")
    runs = cells[cells.kind == "opd"].set_index(keys)["eval/parse_rate"]
    assert len(ends) == len(runs) == 184
    assert ends.to_dict() == pytest.approx(runs.to_dict(), abs=6e-6)


def test_collecting_where_nothing_ran_is_told(tmp_path: Path) -> None:
    paths = StudyPaths(tmp_path / "runs", tmp_path / "results", tmp_path / "prereg")
    with pytest.raises(InadmissibleError, match="nothing to collect"):
        collect("mini", paths)


def test_series_differ_without_colour() -> None:
    markers, lines = ([getattr(s, name) for s in style.SERIES] for name in ("marker", "line"))
    assert len(set(markers)) == len({str(line) for line in lines}) == len(style.SERIES)
    lightness = [_lab(_linear(s.color))[0] for s in style.SERIES]
    assert all(abs(a - b) >= 6 for a, b in itertools.combinations(lightness, 2)), lightness


# Dichromats' view of linear RGB at full severity: Machado et al. (2009), IEEE TVCG 15, 1291-1298.
PROTAN = [
    [0.152286, 1.052583, -0.204868],
    [0.114503, 0.786281, 0.099216],
    [-0.003882, -0.048116, 1.051998],
]
DEUTAN = [
    [0.367322, 0.860646, -0.227968],
    [0.280085, 0.672501, 0.047413],
    [-0.011820, 0.042940, 0.968881],
]
TRITAN = [
    [1.255528, -0.076749, -0.178779],
    [-0.078411, 0.930809, 0.147602],
    [0.004733, 0.691367, 0.303900],
]


@pytest.mark.parametrize("seen_by", [PROTAN, DEUTAN, TRITAN])
def test_series_differ_for_the_colour_blind(seen_by: list[list[float]]) -> None:
    seen = [_lab(np.clip(np.array(seen_by) @ _linear(s.color), 0, 1)) for s in style.SERIES]
    assert min(float(np.linalg.norm(a - b)) for a, b in itertools.combinations(seen, 2)) > 10


def _linear(color: str) -> Array:
    rgb = np.array(to_rgb(color))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def _lab(linear: Array) -> Array:
    """CIE L*a*b* of linear sRGB, D65."""
    matrix = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.array(matrix) @ linear / np.array([0.9505, 1.0, 1.089])
    cube: Callable[[Array], Array] = np.cbrt
    f = np.where(xyz > 0.008856, cube(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])
