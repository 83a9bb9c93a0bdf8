"""From config to prepared assets: prompts, teacher and warm start, calibration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from opdcliff import assets
from opdcliff.build_models import STUDENT, TEACHER, build_models
from opdcliff.calibrate import Binding, Calibration, calibrate
from opdcliff.canonical import decode_float, encode_floats, file_digest, write_json_atomic
from opdcliff.config import RunConfig
from opdcliff.contract import get_contract
from opdcliff.data.load import load_splits
from opdcliff.engine import pick_device
from opdcliff.evaluate import evaluate_model
from opdcliff.models import (
    Trio,
    assemble,
    load_model,
    load_tokenizer,
)
from opdcliff.paths import StudyPaths

# The modules whose code decides what an asset holds.
_DATA_CODE = tuple(f"data/{n}" for n in ("mini", "jsonl", "amazon", "amazon_lists", "amazon_rows"))
_MODEL_CODE = ("build_models", "data/answers", "data/prompts", "models", "sft", "tokenization")
_MEASURING_CODE = (
    "calibrate",
    "contract",
    "evaluate",
    "masses",
    "metrics",
    "ranking",
    "rollout",
    "rollout_continuous",
    "scoring",
    "theory",
    "token_classes",
)


@dataclass(frozen=True)
class Prepared:
    """Where the assets of a study lie, and the identity of the models."""

    data: Path
    models: Path
    models_identity: str


def prepare(
    config: RunConfig, paths: StudyPaths, before_models: Callable[[], None] = lambda: None
) -> Prepared:
    """Build or find the prompts and models of `config`.

    before_models: called if models have to be made, before they are.
    """
    data = prepare_data(config, paths)
    key = {
        "examples": assets.manifest(data)["facts"]["digest"],
        "model": asdict(config.model),
        "sft": asdict(config.sft),
        "contract": config.data.contract,
        "content": _folder_digests(config),
        "code": assets.code_digest(*_MODEL_CODE),
    }

    def make(folder: Path) -> dict[str, Any]:
        before_models()
        return build_models(config, data, folder)

    models = assets.ensure(paths, "models", key, make)
    return Prepared(data, models, assets.manifest(models)["identity"])


def prepare_data(config: RunConfig, paths: StudyPaths) -> Path:
    """Build or find the prompts of `config.data`."""
    settings = asdict(config.data)
    files = [Path(p).expanduser() for p in (settings.pop("path"), settings.pop("rubric")) if p]
    settings.pop("study_seeds")
    key = {
        "settings": settings,
        "files": [_digests(path) for path in files],
        "code": assets.code_digest(*_DATA_CODE),
    }
    return assets.ensure(paths, "data", key, lambda folder: _build_data(config, folder))


def load_trio(config: RunConfig, prepared: Prepared) -> Trio:
    """Student (at the warm start), teacher and base on the device of this process."""
    device = pick_device(config.engine)
    student = load_model(prepared.models / STUDENT, dtype=config.model.dtype)
    local = prepared.models / TEACHER
    teacher = (
        load_model(local, dtype=config.model.dtype)
        if local.is_dir()
        else load_model(
            config.model.teacher or "",
            dtype=config.model.dtype,
            revision=config.model.teacher_revision,
        )
    )
    trio = assemble(student, teacher, load_tokenizer(prepared.models / STUDENT))
    for model in (trio.student, trio.teacher, trio.base):
        model.to(device)
    return trio


def prepare_calibration(
    config: RunConfig, paths: StudyPaths, prepared: Prepared
) -> tuple[Calibration, Path]:
    """Measure or find p, b and lambda* of the prepared models."""
    key = {
        "models": prepared.models_identity,
        "code": assets.code_digest(*_MEASURING_CODE),
        "calibration": asdict(config.calibration),
        "max_new_tokens": config.rollout.max_new_tokens,
        "temperature": config.rollout.temperature,
        "contract": config.data.contract,
    }
    folder = assets.ensure(
        paths, "calibration", key, lambda aside: _build_calibration(config, prepared, aside)
    )
    binding = assets.manifest(folder)["facts"]["binding"]
    table = pd.read_csv(folder / "table.csv")
    return Calibration(table, None if binding is None else Binding(**binding)), folder


def references(config: RunConfig, paths: StudyPaths, prepared: Prepared) -> dict[str, Any]:
    """Metrics of teacher and warm start on the test prompts, measured once."""
    key = {
        "models": prepared.models_identity,
        "code": assets.code_digest(*_MEASURING_CODE),
        "evaluation": asdict(config.evaluation),
        "max_new_tokens": config.rollout.max_new_tokens,
        "temperature": config.rollout.temperature,
    }
    folder = assets.ensure(
        paths, "references", key, lambda aside: _build_references(config, prepared, aside)
    )
    facts: dict[str, Any] = assets.manifest(folder)["facts"]
    return {
        name: {key: decode_float(value) for key, value in metrics.items()}
        for name, metrics in facts.items()
    }


def _build_data(config: RunConfig, folder: Path) -> dict[str, Any]:
    splits, report = load_splits(config.data)
    facts = {"digest": assets.write_splits(folder, splits)}
    return facts if report is None else facts | {"report": report}


def _build_calibration(config: RunConfig, prepared: Prepared, folder: Path) -> dict[str, Any]:
    torch.set_num_threads(config.engine.threads)
    result = calibrate(
        load_trio(config, prepared),
        assets.read_splits(prepared.data).calibration,
        get_contract(config.data.contract),
        config.calibration,
        max_new_tokens=config.rollout.max_new_tokens,
        temperature=config.rollout.temperature,
        backend=config.rollout.backend,
        chunk_tokens=config.engine.score_chunk_tokens,
    )
    result.table.to_csv(folder / "table.csv", index=False)
    return {"binding": None if result.binding is None else asdict(result.binding)}


def _build_references(config: RunConfig, prepared: Prepared, folder: Path) -> dict[str, Any]:
    trio = load_trio(config, prepared)
    examples = assets.read_splits(prepared.data).test[: config.evaluation.final_prompts]
    contract = get_contract(config.data.contract)
    metrics = {
        name: evaluate_model(
            model,
            trio.tokenizer,
            examples,
            contract,
            config.evaluation,
            seed=config.seed,
            max_new_tokens=config.rollout.max_new_tokens,
            temperature=config.rollout.temperature,
            backend=config.rollout.backend,
        )
        for name, model in ((TEACHER, trio.teacher), ("warm_start", trio.base))
    }
    # NDCG of the answers that parsed is NaN where none did.
    encoded: dict[str, Any] = encode_floats(metrics)
    write_json_atomic(folder / "metrics.json", encoded)
    return encoded


def _folder_digests(config: RunConfig) -> dict[str, Any]:
    """Content of models given as folders; hub models are named by their revision."""
    sources = {STUDENT: config.model.student, TEACHER: config.model.teacher}
    folders = {role: Path(source).expanduser() for role, source in sources.items() if source}
    return {role: _digests(path) for role, path in folders.items() if path.is_dir()}


def _digests(path: Path) -> dict[str, str]:
    files = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.is_file())
    return {file.name: file_digest(file) for file in files}
