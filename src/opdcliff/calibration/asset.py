"""The calibration of prepared models: measured once, then found again."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from opdcliff.calibration.class_masses import STEPS, Binding, Calibration, calibrate_trio
from opdcliff.calibration.distribution import Homogeneity
from opdcliff.calibration.outside import Outside
from opdcliff.contract import NO_WRAPPER, classes_problem, contract_of
from opdcliff.data import read_splits
from opdcliff.errors import ConfigError
from opdcliff.models import MEASURING_CODE, Prepared, load_trio, without_compiled
from opdcliff.paths import StudyPaths
from opdcliff.settings import RunConfig
from opdcliff.storage import Asset, asset_cache, decode_floats, encode_floats
from opdcliff.terminal import Stage


def prepare_calibration(
    config: RunConfig, paths: StudyPaths, prepared: Prepared
) -> tuple[Calibration, Path]:
    """Measure or find p, b and lambda* of the prepared models. Raises as `require_classes`."""
    require_classes(config, prepared)
    asset = calibration_asset(config, paths, prepared)
    with asset.building() as draft:
        if draft is not None:
            draft.facts = _measure(config, prepared, draft.folder)
    folder = asset.folder
    facts = decode_floats(asset_cache.manifest(folder)["facts"])
    binding = None if facts["binding"] is None else Binding(**facts["binding"])
    outside = tuple(Outside(**each) for each in facts["outside"])
    verdict = None if facts["homogeneity"] is None else Homogeneity.of(facts["homogeneity"])
    table, positions = (pd.read_csv(folder / f"{name}.csv") for name in ("table", "positions"))
    left = facts["unfollowed"]
    return Calibration(table, binding, outside, positions, verdict, left), folder


def calibration_asset(config: RunConfig, paths: StudyPaths, prepared: Prepared) -> Asset:
    """Where the calibration of prepared models lies or will lie."""
    key = {
        "models": prepared.models_identity,
        "code": asset_cache.code_digest(*MEASURING_CODE),
        "calibration": asdict(config.calibration),
        "max_new_tokens": config.rollout.max_new_tokens,
        "temperature": config.rollout.temperature,
        "contract": config.data.contract,
    }
    return Asset.of(paths, "calibration", key)


def require_classes(config: RunConfig, prepared: Prepared) -> None:
    """Refuse answers without token classes, of which p and b could be measured.

    Raises:
        ConfigError: the contract only judges, or its classes cannot be told for all prompts.
    """
    problem = classes_problem(contract_of(config.data), read_splits(prepared.data).forms())
    if problem is not None:
        named = f"data.contract={config.data.contract}"
        if config.data.wrapper != NO_WRAPPER:
            named += f" with data.wrapper={config.data.wrapper}"
        raise ConfigError(
            f"{named} {problem}; there is no p, b or lambda* then: `opdcliff preview` needs none "
            "and shows parse rates over lambda, and runs take lam.value=NUMBER"
        )


def _measure(config: RunConfig, prepared: Prepared, folder: Path) -> dict[str, Any]:
    torch.set_num_threads(config.engine.threads)
    trio = load_trio(config, prepared)
    with Stage("measuring p and b", STEPS) as stage:
        result = calibrate_trio(
            trio,
            read_splits(prepared.data).calibration,
            contract_of(config.data),
            config.calibration,
            without_compiled(config.rollout),
            chunk_tokens=config.engine.score_chunk_tokens,
            advance=stage.advance_of("calibration"),
        )
    result.table.to_csv(folder / "table.csv", index=False)
    result.positions.to_csv(folder / "positions.csv", index=False)
    verdict = result.homogeneity
    return {
        # The spread may be infinite, for which JSON has no number.
        "homogeneity": None if verdict is None else encode_floats(asdict(verdict)),
        "binding": None if result.binding is None else asdict(result.binding),
        "outside": [asdict(each) for each in result.outside],
        "unfollowed": result.unfollowed,
    }
