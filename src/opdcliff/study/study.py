"""A study from data to figures: prepare, calibrate, train a grid, set onset beside lambda*."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from opdcliff.calibration import Binding, prepare_calibration
from opdcliff.errors import ConfigError
from opdcliff.models import Prepared, models_asset, prepare, prepare_data
from opdcliff.paths import StudyPaths
from opdcliff.settings import ProtocolArm, RunConfig, check, clip_option
from opdcliff.study.bisection import asked_for
from opdcliff.study.cells import Cell, is_finished
from opdcliff.study.duration import announcement, planned_updates
from opdcliff.study.pool import run_cells
from opdcliff.study.predicted import predicted_lam
from opdcliff.study.summary import Summary, summarise_study, write_summary
from opdcliff.training import references

# lambda values are rounded to this many decimals, so that names, records and tables agree.
LAM_DECIMALS = 4


@dataclass(frozen=True)
class StudyResult:
    """Where the results lie, what they are, and the reason of each cell that has no outcome."""

    folder: Path
    summary: Summary
    failures: dict[str, str]
    cells: int


def run_study(
    config: RunConfig, paths: StudyPaths, tell: Callable[[str], None] | None = None
) -> StudyResult:
    """Run every missing cell of `config.protocol` and write the results.

    Finished cells and prepared assets are reused. tell: is given about how long what is missing
    will take on this machine, before that begins; None measures nothing. Where cells failed, the
    results are those of the others.
    """
    check_protocol(config)
    data = prepare_data(config, paths)
    to_tune = not models_asset(config, paths, data).is_ready()
    if to_tune and tell is not None:
        _announce(config, planned_updates(config), tell, fine_tuning=True)
    prepared = prepare(config, paths, planned_updates(config))
    calibration, _ = prepare_calibration(config, paths, prepared)
    reference = references(config, paths, prepared)
    cells = grid(config, calibration.binding)
    if not to_tune and tell is not None:
        missing = [cell for cell in cells if not is_finished(cell, prepared, paths)]
        updates = sum(cell.config.optim.updates for cell in missing)
        if config.protocol.bisect:
            updates = min(updates, planned_updates(config))
        _announce(config, updates, tell, fine_tuning=False)
    cells, failures = _run(config, cells, prepared, paths)
    summary = summarise_study(config, cells, prepared, paths, calibration, reference)
    folder = paths.output.study_dir(config.data.name, config.protocol.name)
    write_summary(summary, folder)
    return StudyResult(folder, summary, failures, len(cells))


def _run(
    config: RunConfig, cells: list[Cell], prepared: Prepared, paths: StudyPaths
) -> tuple[list[Cell], dict[str, str]]:
    """Run the cells, or round by round those that bisection asks for; which, and what failed."""
    workers = config.protocol.workers
    if not config.protocol.bisect:
        return cells, run_cells(cells, prepared, paths, workers=workers)
    while True:
        asked = asked_for(cells, prepared, paths)
        if all(is_finished(cell, prepared, paths) for cell in asked):
            return asked, {}
        failures = run_cells(asked, prepared, paths, workers=workers)
        if failures:
            return asked, failures


def _announce(
    config: RunConfig, updates: int, tell: Callable[[str], None], *, fine_tuning: bool
) -> None:
    text = announcement(config, updates, fine_tuning=fine_tuning)
    if text is not None:
        tell(text)


def check_protocol(config: RunConfig) -> None:
    """Refuse a protocol whose cells could not all be run, before anything is.

    Raises:
        ConfigError: no arms, an arm without cells, a multiple that is not positive, a value that
            no cell of the arm could have, or the same cell twice.
    """
    protocol = config.protocol
    if config.lam.value is not None:
        raise ConfigError(
            f"lam.value={config.lam.value} has no effect on a study, whose lambdas are the "
            "multiples of protocol.arms; leave it null, or use `opdcliff train`"
        )
    if not protocol.arms:
        raise ConfigError(
            f"protocol.arms of protocol={protocol.name} is empty; choose a protocol with arms, or "
            "use `opdcliff train`"
        )
    seen: set[tuple[object, ...]] = set()
    for number, arm in enumerate(protocol.arms):
        where = f"protocol.arms[{number}]"
        _check_lists(arm, where)
        for seed in arm.seeds:
            try:
                own = arm_config(config, arm, seed)
            except ConfigError as error:
                raise ConfigError(f"{error} (in {where})") from error
            for multiple in arm.multiples:
                settings = (own.clip.name, own.optim.estimator, own.lam.warmup_updates)
                cell = (*settings, own.optim.updates, multiple, seed)
                if cell in seen:
                    raise ConfigError(
                        f"{where} has the cell multiple={multiple:g} seed={seed} twice, or shares "
                        "it with an arm before it; drop one"
                    )
                seen.add(cell)


def _check_lists(arm: ProtocolArm, where: str) -> None:
    for name, values in (("multiples", arm.multiples), ("seeds", arm.seeds)):
        if not values:
            raise ConfigError(f"{where}.{name} is empty; give at least one")
    for multiple in arm.multiples:
        if not 0 < multiple < math.inf:
            raise ConfigError(
                f"{where}.multiples holds {multiple}; allowed: numbers > 0 (multiples of lambda*)"
            )


def grid(config: RunConfig, binding: Binding | None) -> list[Cell]:
    """The cells of the study's arms; lambdas are multiples of the calibrated threshold.

    Raises:
        ConfigError: no threshold was calibrated (p <= b everywhere).
    """
    cells = []
    for arm in config.protocol.arms:
        for multiple in arm.multiples:
            for seed in arm.seeds:
                cell_config = arm_config(config, arm, seed)
                lam = round(multiple * threshold(cell_config, binding), LAM_DECIMALS)
                cells.append(Cell(cell_config, lam, config.protocol.name))
    return cells


def arm_config(config: RunConfig, arm: ProtocolArm, seed: int) -> RunConfig:
    """The run config of one cell of an arm, checked."""
    own = copy.deepcopy(config)
    own.seed = seed
    own.clip = clip_option(arm.clip)
    if arm.estimator is not None:
        own.optim.estimator = arm.estimator
    if arm.warmup_updates is not None:
        own.lam.warmup_updates = arm.warmup_updates
    if arm.updates is not None:
        own.optim.updates = arm.updates
    check(own)
    return own


def threshold(config: RunConfig, binding: Binding | None) -> float:
    """lambda* at the clip strength of a run; without a clip, at the first calibrated strength."""
    if binding is None:
        raise ConfigError(
            "the calibration found no threshold: no class whose tail the contract needs has p > b; "
            "set lam.value for a single run, or choose a teacher that is surer than the warm start"
        )
    return binding.lambda_star(config.clip.strength or config.calibration.strengths[0])


def floored(lam: float) -> float:
    """A lambda that must not be passed, to the decimals that names and records have."""
    scale: int = 10**LAM_DECIMALS
    return math.floor(lam * scale) / scale


def resolve_lam(
    config: RunConfig, binding: Binding | None, prepared: Prepared, paths: StudyPaths
) -> float:
    """lambda of a single run: `lam.value`, what a pilot recommends, or a multiple of lambda*."""
    if config.lam.value is not None:
        return config.lam.value
    if config.lam.predicted:
        return floored(predicted_lam(config, prepared, paths))
    assert config.lam.of_threshold is not None, "checked by settings.check"
    return round(config.lam.of_threshold * threshold(config, binding), LAM_DECIMALS)
