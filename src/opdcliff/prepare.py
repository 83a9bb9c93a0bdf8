"""From config to prepared assets: prompts, teacher and warm start, calibration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from opdcliff import assets
from opdcliff.calibrate import Binding, Calibration, calibrate
from opdcliff.canonical import decode_float, encode_floats, file_digest, write_json_atomic
from opdcliff.config import RunConfig
from opdcliff.contract import REASON, get_contract
from opdcliff.data.answers import draw_answer
from opdcliff.data.example import Splits
from opdcliff.data.mini import SplitSizes, generate
from opdcliff.engine import pick_device
from opdcliff.evaluate import evaluate_model
from opdcliff.models import (
    Trio,
    assemble,
    build,
    load_model,
    load_tokenizer,
    same_vocabulary,
)
from opdcliff.paths import StudyPaths
from opdcliff.progress import Stage
from opdcliff.sft import answer_style, fine_tune
from opdcliff.tokenization import train_bpe
from opdcliff.workers import open_channel, tell, worker_pool

TEACHER, STUDENT = "teacher", "student"
_SEED_OF_ROLE = {TEACHER: 1, STUDENT: 2}


@dataclass(frozen=True)
class Prepared:
    """Where the assets of a study lie, and the identity of the models."""

    data: Path
    models: Path
    models_identity: str


def prepare(config: RunConfig, paths: StudyPaths) -> Prepared:
    """Build or find the prompts and models of `config`."""
    data = prepare_data(config, paths)
    key = {
        "examples": assets.manifest(data)["facts"]["digest"],
        "model": asdict(config.model),
        "sft": asdict(config.sft),
        "contract": config.data.contract,
        "content": _folder_digests(config),
    }
    models = assets.ensure(paths, "models", key, lambda folder: _build_models(config, data, folder))
    return Prepared(data, models, assets.manifest(models)["identity"])


def prepare_data(config: RunConfig, paths: StudyPaths) -> Path:
    """Build or find the prompts of `config.data`."""
    settings = asdict(config.data)
    files = [Path(p).expanduser() for p in (settings.pop("path"), settings.pop("rubric")) if p]
    key = {"settings": settings, "files": [_digests(path) for path in files]}
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
    splits, report = _load_data(config)
    facts = {"digest": assets.write_splits(folder, splits)}
    return facts if report is None else facts | {"report": report}


def _load_data(config: RunConfig) -> tuple[Splits, dict[str, object] | None]:
    data = config.data
    sizes = SplitSizes(data.train, data.calibration, data.test)
    if data.name == "mini":
        return generate(data.seed, sizes, candidates=data.candidates), None
    source = Path(data.path or "").expanduser()
    if data.name == "prompts":
        from opdcliff.data.jsonl import load_prompts

        return load_prompts(source, sizes), None
    from opdcliff.data.amazon import SplitPlan, load_amazon

    whole = sizes.train + sizes.calibration + sizes.test
    with Stage("reading reviews and items (bytes)", _total_bytes(source)) as stage:
        splits, report = load_amazon(
            source,
            candidates=data.candidates,
            seed=data.seed,
            sizes=SplitPlan(
                sizes.train,
                sizes.calibration,
                sizes.test,
                (sizes.train / whole, sizes.calibration / whole, sizes.test / whole),
            ),
            rubric=None if data.rubric is None else Path(data.rubric).expanduser(),
            min_items=data.min_items,
            max_history=data.max_history,
            max_title_words=data.max_title_words,
            progress=lambda done, total: stage.update("bytes", done),
        )
    return splits, report.as_dict()


def _build_models(config: RunConfig, data: Path, folder: Path) -> dict[str, Any]:
    splits = assets.read_splits(data)
    roles = [STUDENT]
    if config.model.student is None:
        tokenizer = train_bpe(_tokenizer_texts(config, splits), config.data.tokenizer_entries)
        tokenizer.save_pretrained(folder / TEACHER)
        tokenizer.save_pretrained(folder / STUDENT)
        roles = [TEACHER, STUDENT]
    else:
        student_source = config.model.student
        tokenizer = load_tokenizer(student_source, revision=config.model.student_revision)
        other = load_tokenizer(config.model.teacher or "", revision=config.model.teacher_revision)
        same_vocabulary(tokenizer, other, ("student", "teacher"))
        tokenizer.save_pretrained(folder / STUDENT)
        if not config.model.tune_loaded_student:
            model = load_model(
                student_source, dtype=config.model.dtype, revision=config.model.student_revision
            )
            model.save_pretrained(folder / STUDENT)
            return {"fine_tuned": []}
    losses = _fine_tune_roles(config, data, folder, roles)
    return {"fine_tuned": roles, "final_loss": losses}


def _fine_tune_roles(
    config: RunConfig, data: Path, folder: Path, roles: list[str]
) -> dict[str, float]:
    """Fine-tune teacher and student, side by side on a machine without a GPU."""
    total = sum(getattr(config.sft, role).steps for role in roles)
    side_by_side = pick_device(config.engine).type == "cpu" and len(roles) > 1
    title = f"fine-tuning {' and '.join(roles)}"
    if not side_by_side:
        with Stage(title, total) as stage:
            return {
                role: _fine_tune_role(config, data, folder, role, stage.advance_of(role))
                for role in roles
            }
    channel = open_channel()
    with Stage(title, total, channel), worker_pool(len(roles), channel) as pool:
        jobs = {role: pool.submit(_fine_tune_worker, config, data, folder, role) for role in roles}
        return {role: job.result() for role, job in jobs.items()}


def _fine_tune_worker(config: RunConfig, data: Path, folder: Path, role: str) -> float:
    return _fine_tune_role(config, data, folder, role, partial(tell, role))


def _fine_tune_role(
    config: RunConfig, data: Path, folder: Path, role: str, advance: Callable[[int], None]
) -> float:
    torch.set_num_threads(config.engine.threads)
    tokenizer = load_tokenizer(folder / role)
    seed = 10 * config.sft.seed + _SEED_OF_ROLE[role]
    source = config.model.student if role == STUDENT else None
    model = (
        build(_arch(config), tokenizer, seed)
        if source is None
        else load_model(source, dtype="float32", revision=config.model.student_revision)
    )
    loss = fine_tune(
        model.to(pick_device(config.engine)),
        tokenizer,
        assets.read_splits(data).train,
        config.sft,
        getattr(config.sft, role),
        seed=seed,
        with_reason=REASON in get_contract(config.data.contract).keys,
        advance=advance,
    )
    model.to(getattr(torch, config.model.dtype)).save_pretrained(folder / role)
    return loss


def _build_calibration(config: RunConfig, prepared: Prepared, folder: Path) -> dict[str, Any]:
    torch.set_num_threads(config.engine.threads)
    result = calibrate(
        load_trio(config, prepared),
        assets.read_splits(prepared.data).calibration,
        get_contract(config.data.contract),
        config.calibration,
        max_new_tokens=config.rollout.max_new_tokens,
        temperature=config.rollout.temperature,
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
        )
        for name, model in ((TEACHER, trio.teacher), ("warm_start", trio.base))
    }
    # NDCG of the answers that parsed is NaN where none did.
    encoded: dict[str, Any] = encode_floats(metrics)
    write_json_atomic(folder / "metrics.json", encoded)
    return encoded


def _tokenizer_texts(config: RunConfig, splits: Splits) -> list[str]:
    """Prompts and answers of both styles, so that the answer's pieces become tokens."""
    import numpy as np

    with_reason = REASON in get_contract(config.data.contract).keys
    rng = np.random.default_rng(config.sft.seed)
    texts = []
    for example in splits.train:
        for role in (config.sft.teacher, config.sft.student):
            pieces = draw_answer(
                example, answer_style(config.sft, role, with_reason=with_reason), rng
            )
            texts.append(example.prompt + "".join(piece.text for piece in pieces))
    return texts


def _arch(config: RunConfig) -> Any:
    assert config.model.arch is not None, "checked by config.check"
    return config.model.arch


def _folder_digests(config: RunConfig) -> dict[str, Any]:
    """Content of models given as folders; hub models are named by their revision."""
    sources = {STUDENT: config.model.student, TEACHER: config.model.teacher}
    folders = {role: Path(source).expanduser() for role, source in sources.items() if source}
    return {role: _digests(path) for role, path in folders.items() if path.is_dir()}


def _digests(path: Path) -> dict[str, str]:
    files = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.is_file())
    return {file.name: file_digest(file) for file in files}


def _total_bytes(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.iterdir() if p.is_file())
