"""The verb `calibrate`: measured masses of a teacher and a warm start, and a safe lambda."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from rich.console import Console

from opdcliff.calibration import (
    Calibration,
    prepare_calibration,
    require_classes,
    tabulate_curves,
    tabulate_distribution,
)
from opdcliff.cli.words import say_prompt
from opdcliff.models import prepare, shown_prompt
from opdcliff.paths import StudyPaths
from opdcliff.report import draw_thresholds
from opdcliff.settings import RunConfig
from opdcliff.storage import write_text_atomic
from opdcliff.study import LAM_DECIMALS
from opdcliff.terminal import print_table, print_text, with_intervals

# Written where there is a threshold.
_OF_SINGLE_POSITIONS = (
    "distribution.csv",
    *(f"thresholds.{kind}" for kind in ("svg", "png", "csv")),
)


def report(config: RunConfig, paths: StudyPaths, console: Console) -> Path:
    """Measure or find the calibration of `config`, print it, write tables and picture.

    calibration.csv, distribution.csv (quantiles of single positions), thresholds.svg, .png, .csv.
    Returns the folder that they were written to.
    """
    prepared = prepare(config, paths)
    require_classes(config, prepared)
    say_prompt(shown_prompt(prepared))
    calibration, measured = prepare_calibration(config, paths, prepared)
    folder = paths.output.study_dir(config.data.name, "calibration")
    folder.mkdir(parents=True, exist_ok=True)
    write_text_atomic(
        folder / "calibration.csv", calibration.table.to_csv(index=False, float_format="%.6g")
    )
    print_table(
        console,
        f"p, b and lambda* per token class on {config.calibration.prompts} prompts (95% interval "
        "over prompts)",
        with_intervals(calibration.table),
    )
    if calibration.caution is not None:
        print_text(console, calibration.caution)
    for outside in calibration.outside:
        print_text(console, outside.in_words())
    if calibration.unfollowed:
        print_text(console, _unfollowed(calibration.unfollowed))
    if calibration.binding is None:
        # Those of another pair would stand beside this one's table.
        for name in _OF_SINGLE_POSITIONS:
            (folder / name).unlink(missing_ok=True)
        console.print(
            "no threshold: no class whose tail the contract needs has p > b, so no lambda is "
            "unsafe by this criterion; or too few answers of the warm start reach that class "
            "(see positions)",
            highlight=False,
        )
    else:
        print_table(console, _title(calibration, config), _thresholds(calibration, config))
        _single_positions(calibration, config, folder, console, provenance=measured.name)
    return folder


def _single_positions(
    calibration: Calibration, config: RunConfig, folder: Path, console: Console, *, provenance: str
) -> None:
    """Print and write how thresholds differ from position to position, and draw it."""
    binding, verdict = calibration.binding, calibration.homogeneity
    assert binding is not None, "checked by the caller"
    assert verdict is not None, "there with a binding class"
    table = tabulate_distribution(calibration.positions, config.calibration.strengths)
    write_text_atomic(folder / "distribution.csv", table.to_csv(index=False, float_format="%.6g"))
    c = config.calibration.strengths[0]
    own = calibration.positions[calibration.positions["class"] == binding.token_class]
    medians = table[(table.c == c) & (table["class"] == binding.token_class)]
    print_table(
        console,
        f"lambda* of single positions of class {binding.token_class} at c = {c:g}: quantiles, "
        "plain or weighted by the teacher's tail 1 - p; inf is p <= b",
        medians.drop(columns=["class", "c", "p", "b"]),
    )
    note = verdict.in_words()
    print_text(console, note)
    draw_thresholds(tabulate_curves(own, c), medians, folder, c=c, note=note, origin=provenance)


def _unfollowed(share: float) -> str:
    return (
        f"{share:.1%} of the accepted answers are written as no grammar writes them (keys in "
        "another order than the schema's, or letters of keys and listed values as escapes): their "
        "positions are labelled up to there only"
    )


def _title(calibration: Calibration, config: RunConfig) -> str:
    binding = calibration.binding
    assert binding is not None, "checked by the caller"
    share = config.lam.of_threshold
    if _is_wide(calibration):
        advice = "; not homogeneous, see below"
    else:
        advice = "" if share is None else f"; safe is {share:g} x lambda*"
    return f"Binding: class {binding.token_class}, offsets {binding.offsets}{advice}"


def _thresholds(calibration: Calibration, config: RunConfig) -> pd.DataFrame:
    binding, share = calibration.binding, config.lam.of_threshold
    assert binding is not None, "checked by the caller"
    rows = []
    for c in config.calibration.strengths:
        star = binding.lambda_star(c)
        row = {"c": c, "p": binding.p, "b": binding.b, "lambda*": star}
        name = f"{share} x lambda*, not homogeneous" if _is_wide(calibration) else "safe lambda"
        rows.append(row if share is None else row | {name: round(share * star, LAM_DECIMALS)})
    return pd.DataFrame(rows)


def _is_wide(calibration: Calibration) -> bool:
    return calibration.homogeneity is not None and not calibration.homogeneity.homogeneous
