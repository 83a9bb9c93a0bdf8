"""The verb `calibrate`: measured masses of a teacher and a warm start, and a safe lambda."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from rich.console import Console

from opdcliff.calibration import Calibration, Outside, prepare_calibration
from opdcliff.models import Prepared, prepare, shown_prompt
from opdcliff.paths import StudyPaths
from opdcliff.settings import RunConfig
from opdcliff.storage import write_text_atomic
from opdcliff.study import LAM_DECIMALS
from opdcliff.terminal import print_table, print_text, with_intervals


def report(config: RunConfig, paths: StudyPaths, console: Console) -> Path:
    """Measure or find the calibration of `config`, print it, write calibration.csv.

    Returns the folder the table was written to.
    """
    prepared = prepare(config, paths)
    _show_prompt(prepared, console)
    calibration, _ = prepare_calibration(config, paths, prepared)
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
    for outside in calibration.outside:
        print_text(console, _outside(outside))
    if calibration.binding is None:
        console.print(
            "no threshold: no class whose tail the contract needs has p > b, so no lambda is "
            "unsafe by this criterion; or too few answers of the warm start reach that class "
            "(see positions)",
            highlight=False,
        )
    else:
        print_table(console, _title(calibration, config), _thresholds(calibration, config))
    return folder


def _show_prompt(prepared: Prepared, console: Console) -> None:
    """The first prompt as the model reads it, chat template and all: a wrong one is seen here."""
    text = shown_prompt(prepared)
    if text is not None:
        console.print("What the models read, of the first prompt:", highlight=False)
        lines = text.split("\n")
        shown = [*lines[:20], *(["..."] if len(lines) > 20 else [])]
        for line in shown:
            # A control character in a prompt is to be seen, not obeyed.
            seen = "".join(c if c.isprintable() or c == "\t" else repr(c)[1:-1] for c in line)
            console.print(f"  | {seen}", markup=False, highlight=False, soft_wrap=True)


def _outside(found: Outside) -> str:
    text = (
        f"the {found.model} has {found.outputs} outputs, and the first {found.shared} are "
        f"compared, those of both models: at answer positions the others hold {found.mean:.2g} of "
        f"its mass on average, {found.largest:.2g} at most"
    )
    if not found.warns:
        return text
    return (
        f"warning: {text}; above 1% what is measured and trained is not quite the {found.model} "
        "given: fine-tune it on answers first, or check that it is of this tokenizer"
    )


def _title(calibration: Calibration, config: RunConfig) -> str:
    binding = calibration.binding
    assert binding is not None, "checked by the caller"
    share = config.lam.of_threshold
    advice = "" if share is None else f"; safe is {share:g} x lambda*"
    return f"Binding: class {binding.token_class}, offsets {binding.offsets}{advice}"


def _thresholds(calibration: Calibration, config: RunConfig) -> pd.DataFrame:
    binding, share = calibration.binding, config.lam.of_threshold
    assert binding is not None, "checked by the caller"
    rows = []
    for c in config.calibration.strengths:
        star = binding.lambda_star(c)
        row = {"c": c, "p": binding.p, "b": binding.b, "lambda*": star}
        rows.append(
            row if share is None else row | {"safe lambda": round(share * star, LAM_DECIMALS)}
        )
    return pd.DataFrame(rows)
