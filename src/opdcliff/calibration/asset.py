"""The calibration of prepared models: measured once, then found again."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from opdcliff.calibration.class_masses import Binding, Calibration, calibrate_trio
from opdcliff.calibration.outside import Outside
from opdcliff.contract import get_contract
from opdcliff.data import read_splits
from opdcliff.models import MEASURING_CODE, Prepared, load_trio
from opdcliff.paths import StudyPaths
from opdcliff.settings import RunConfig
from opdcliff.storage import Asset, asset_cache


def prepare_calibration(
    config: RunConfig, paths: StudyPaths, prepared: Prepared
) -> tuple[Calibration, Path]:
    """Measure or find p, b and lambda* of the prepared models."""
    key = {
        "models": prepared.models_identity,
        "code": asset_cache.code_digest(*MEASURING_CODE),
        "calibration": asdict(config.calibration),
        "max_new_tokens": config.rollout.max_new_tokens,
        "temperature": config.rollout.temperature,
        "contract": config.data.contract,
    }
    asset = Asset.of(paths, "calibration", key)
    with asset.building() as draft:
        if draft is not None:
            draft.facts = _measure(config, prepared, draft.folder)
    folder = asset.folder
    facts = asset_cache.manifest(folder)["facts"]
    binding = None if facts["binding"] is None else Binding(**facts["binding"])
    outside = tuple(Outside(**each) for each in facts["outside"])
    return Calibration(pd.read_csv(folder / "table.csv"), binding, outside), folder


def _measure(config: RunConfig, prepared: Prepared, folder: Path) -> dict[str, Any]:
    torch.set_num_threads(config.engine.threads)
    result = calibrate_trio(
        load_trio(config, prepared),
        read_splits(prepared.data).calibration,
        get_contract(config.data.contract),
        config.calibration,
        config.rollout,
        chunk_tokens=config.engine.score_chunk_tokens,
    )
    result.table.to_csv(folder / "table.csv", index=False)
    return {
        "binding": None if result.binding is None else asdict(result.binding),
        "outside": [asdict(each) for each in result.outside],
    }
