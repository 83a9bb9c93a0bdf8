"""All figures by name: rebuilt from committed results."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from opdcliff.errors import ConfigError
from opdcliff.paths import StudyPaths
from opdcliff.report.drawing import style
from opdcliff.report.drawing.inputs import Inputs, MissingInputError
from opdcliff.report.drawing.page import Page, write_page

# Each is a module of this package with `build(inputs) -> Page`.
NAMES = (
    "geometry",
    "threshold_surface",
    "bifurcation",
    "fine_grid",
    "budget",
    "small_clip",
    "trajectories",
    "size_axis",
    "clip_rules",
    "calibration",
    "scope",
    "titles_onset",
    "near_grid",
    "shortfall",
    "step_sizes",
    "near_budget",
    "preview_locked",
    "preview_beside",
    "preview_rare",
    "pretrained",
)
# Where it is no module of `figures` itself.
_FOLDERS = {
    "near_grid": "figures.near",
    "shortfall": "figures.near",
    "step_sizes": "figures.near",
    "near_budget": "figures.near",
    "preview_locked": "figures.preview",
    "preview_beside": "figures.preview",
    "preview_rare": "figures.preview",
    "pretrained": "figures.preview",
}


def build_figure(name: str, inputs: Inputs) -> Page:
    """One figure and its numbers, nothing written.

    Raises:
        MissingInputError: a table it needs is not there.
    """
    place = _FOLDERS.get(name, "figures")
    module = importlib.import_module(f"opdcliff.report.{place}.{name}")
    with style.own_style():
        page: Page = module.build(inputs)
    return page


def build_figures(paths: StudyPaths, only: Sequence[str] | None = None) -> list[str]:
    """Write all figures whose inputs are there, or those named; a line on each.

    Raises:
        ConfigError: an unknown name. MissingInputError: a named figure lacks an input.
    """
    unknown = [name for name in only or () if name not in NAMES]
    if unknown:
        raise ConfigError(f"only={unknown[0]} is no figure; allowed: {', '.join(NAMES)}")
    folder, inputs, lines = paths.output.figures_dir(), Inputs(paths), []
    for name in NAMES if only is None else only:
        try:
            page = build_figure(name, inputs)
        except MissingInputError as error:
            if only is not None:
                raise MissingInputError(f"figure {name}: {error}") from error
            lines.append(f"{name}: skipped, {error}")
            continue
        folder.mkdir(parents=True, exist_ok=True)
        write_page(page, folder, name)
        lines.append(f"{name}: written to {folder / name}.svg, .png, .csv")
    return lines
