"""Teacher and warm start on the test prompts: measured once, then found again."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from opdcliff.contract import contract_of
from opdcliff.data import read_splits
from opdcliff.models import MEASURING_CODE, TEACHER, Prepared, load_trio, without_compiled
from opdcliff.paths import StudyPaths
from opdcliff.settings import RunConfig
from opdcliff.storage import Asset, asset_cache, decode_float, encode_floats, write_json_atomic
from opdcliff.training.evaluation.answers import evaluate_model


def references(config: RunConfig, paths: StudyPaths, prepared: Prepared) -> dict[str, Any]:
    """Metrics of teacher and warm start on the test prompts, measured once."""
    key = {
        "models": prepared.models_identity,
        "code": asset_cache.code_digest(*MEASURING_CODE),
        "evaluation": asdict(config.evaluation),
        "max_new_tokens": config.rollout.max_new_tokens,
        "temperature": config.rollout.temperature,
    }
    asset = Asset.of(paths, "references", key)
    with asset.building() as draft:
        if draft is not None:
            draft.facts = _measure(config, prepared, draft.folder)
    facts: dict[str, Any] = asset_cache.manifest(asset.folder)["facts"]
    return {
        name: {key: decode_float(value) for key, value in metrics.items()}
        for name, metrics in facts.items()
    }


def _measure(config: RunConfig, prepared: Prepared, folder: Path) -> dict[str, Any]:
    trio = load_trio(config, prepared)
    examples = read_splits(prepared.data).test[: config.evaluation.final_prompts]
    contract = contract_of(config.data)
    metrics = {
        name: evaluate_model(
            model,
            trio.codec,
            examples,
            contract,
            config.evaluation,
            without_compiled(config.rollout),
            seed=config.seed,
        )
        for name, model in ((TEACHER, trio.teacher), ("warm_start", trio.base))
    }
    # NDCG of the answers that parsed is NaN where none did.
    encoded: dict[str, Any] = encode_floats(metrics)
    write_json_atomic(folder / "metrics.json", encoded)
    return encoded
