"""A study from data to figures: prepare, calibrate, train a grid, set onset beside lambda*."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from omegaconf import DictConfig, OmegaConf

from opdcliff.calibrate import Binding
from opdcliff.cells import Cell, is_finished
from opdcliff.conf_groups import options_of
from opdcliff.config import ClipConfig, ModelConfig, ProtocolArm, RunConfig
from opdcliff.duration import announcement, planned_updates
from opdcliff.errors import ConfigError
from opdcliff.paths import StudyPaths, conf_dir
from opdcliff.pool import run_cells
from opdcliff.prepare import prepare, prepare_calibration, references
from opdcliff.settings import check
from opdcliff.summary import Summary, summarise, write

# lambda values are rounded to this many decimals, so that names, records and tables agree.
LAM_DECIMALS = 4


@dataclass(frozen=True)
class StudyResult:
    """Where the results lie, and what they are."""

    folder: Path
    summary: Summary


def run_study(
    config: RunConfig, paths: StudyPaths, tell: Callable[[str], None] | None = None
) -> StudyResult:
    """Run every missing cell of `config.protocol` and write the results.

    Finished cells and prepared assets are reused. tell: is given about how long what is missing
    will take on this machine, before that begins; None measures nothing. Raises
    StudyIncompleteError if cells failed, after the results of the others have been written.
    """
    check_protocol(config)
    told: list[str | None] = []

    def announce(updates: int, fine_tuning: bool) -> None:
        if tell is not None and not told:
            told.append(announcement(config, updates, fine_tuning=fine_tuning))
            if told[0] is not None:
                tell(told[0])

    prepared = prepare(config, paths, lambda: announce(planned_updates(config), True))
    calibration, _ = prepare_calibration(config, paths, prepared)
    reference = references(config, paths, prepared)
    cells = grid(config, calibration.binding)
    missing = [cell for cell in cells if not is_finished(cell, prepared, paths)]
    announce(sum(cell.config.optim.updates for cell in missing), False)
    failures = run_cells(cells, prepared, paths, workers=config.protocol.workers)
    summary = summarise(config, cells, prepared, paths, calibration, reference)
    folder = paths.output.study_dir(config.data.name, config.protocol.name)
    write(summary, folder)
    if failures:
        from opdcliff.errors import StudyIncompleteError

        raise StudyIncompleteError(
            f"{len(failures)} of {len(cells)} cells have no outcome: "
            + "; ".join(f"{name} ({reason})" for name, reason in sorted(failures.items()))
            + "; run the same command again to retry them"
        )
    return StudyResult(folder, summary)


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


def resolve_lam(config: RunConfig, binding: Binding | None) -> float:
    """lambda of a single run: `lam.value`, or `lam.of_threshold` times lambda*."""
    if config.lam.value is not None:
        return config.lam.value
    assert config.lam.of_threshold is not None, "checked by settings.check"
    return round(config.lam.of_threshold * threshold(config, binding), LAM_DECIMALS)


def clip_option(name: str) -> ClipConfig:
    """An option of the group `clip`, as Hydra would read it.

    Raises:
        ConfigError: no such option.
    """
    return cast(ClipConfig, _option("clip", name, ClipConfig))


def model_option(name: str) -> ModelConfig:
    """An option of the group `model`, as Hydra would read it.

    Raises:
        ConfigError: no such option.
    """
    return cast(ModelConfig, _option("model", name, ModelConfig))


def _option(group: str, name: str, schema: type) -> object:
    if name not in options_of(group):
        raise ConfigError(
            f"{group}={name} is unknown; allowed: {', '.join(sorted(options_of(group)))}"
        )
    file = conf_dir() / group / f"{name}.yaml"
    content = OmegaConf.load(file)
    assert isinstance(content, DictConfig), "options are mappings"
    parents = [word for word in content.pop("defaults", []) if word != "_self_"]
    chain = [OmegaConf.load(file.with_name(f"{parent}.yaml")) for parent in parents]
    merged = OmegaConf.merge(OmegaConf.structured(schema), *chain, content)
    return OmegaConf.to_object(merged)
