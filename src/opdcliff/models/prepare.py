"""From config to prepared assets: prompts, teacher and warm start, calibration."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from opdcliff.contract import contract_of
from opdcliff.data import read_form, write_splits
from opdcliff.models.decoding import REFERENCE, Decoding, prepare_decoding
from opdcliff.models.device import pick_device
from opdcliff.models.lengths import check_lengths
from opdcliff.models.load import load_model, load_tokenizer
from opdcliff.models.make_pair import STUDENT, TEACHER, build_models
from opdcliff.models.prompts import content_of_files, load_splits, print_filters
from opdcliff.models.tokens.chat import CHAT_SETTINGS, chat_identity
from opdcliff.models.tokens.codec import end_ids_of, make_codec
from opdcliff.models.trio import Trio, assemble
from opdcliff.models.tuning.saving import content_of
from opdcliff.paths import StudyPaths
from opdcliff.rollout import offer_memory, offer_step
from opdcliff.settings import RunConfig
from opdcliff.storage import Asset, asset_cache

# The rooms and files whose code decides what an asset holds.
_DATA_CODE = ("data",)
_MODEL_CODE = ("data", "models")
MEASURING_CODE = ("calibration", "contract", "models", "rollout", "theory", "training/evaluation")


@dataclass(frozen=True)
class Prepared:
    """Where the assets of a study lie, the identity of the models, and what samples answers."""

    data: Path
    models: Path
    models_identity: str
    decoding: Decoding = field(default_factory=lambda: Decoding(REFERENCE))


def prepare(config: RunConfig, paths: StudyPaths, updates: int = 0) -> Prepared:
    """Build or find the prompts and models of `config`.

    updates: those that the command will make, over all cells (see `prepare_decoding`).

    Raises:
        DataError: a prompt and the answers asked for are longer than the models know.
    """
    data = prepare_data(config, paths)
    models = models_asset(config, paths, data)
    with models.building() as draft:
        if draft is not None:
            draft.facts = build_models(config, data, draft.folder)
    # Models that are there may have been made for shorter answers.
    check_lengths(config, data, asset_cache.manifest(models.folder)["facts"]["lengths"])
    decoding = prepare_decoding(config, paths, models.folder / STUDENT, updates)
    return Prepared(data, models.folder, models.identity, decoding)


def shown_prompt(prepared: Prepared) -> str | None:
    """The first prompt of the calibration as loaded models read it; None for models built here."""
    facts = asset_cache.manifest(prepared.models)["facts"]
    text: str | None = facts.get("first_prompt")
    return text


def prepare_data(config: RunConfig, paths: StudyPaths) -> Path:
    """Build or find the prompts of `config.data`."""
    asset = data_asset(config, paths)
    with asset.building() as draft:
        if draft is not None:
            splits, report = load_splits(config.data, paths)
            draft.facts["digest"] = write_splits(draft.folder, splits)
            if report is not None:
                draft.facts["report"] = report
                print_filters(Console(stderr=True), report)
    return asset.folder


def data_asset(config: RunConfig, paths: StudyPaths) -> Asset:
    """Where the prompts of `config.data` lie or will lie."""
    settings = asdict(config.data)
    for name in ("path", "rubric", "study_seeds", "form", "wrapper", *CHAT_SETTINGS):
        settings.pop(name)
    key = {
        "settings": settings,
        "form": read_form(contract_of(config.data), config.data.form),
        "files": content_of_files(config.data, paths),
        "code": asset_cache.code_digest(*_DATA_CODE),
    }
    return Asset.of(paths, "data", key)


def models_asset(config: RunConfig, paths: StudyPaths, data: Path) -> Asset:
    """Where the models of `config` lie or will lie; data: folder of the prepared prompts."""
    model = asdict(config.model)
    # A fresh adapter goes onto the warm start, which is the same without it.
    model.pop("lora")
    key = {
        "examples": asset_cache.manifest(data)["facts"]["digest"],
        "model": model,
        "sft": asdict(config.sft),
        "contract": config.data.contract,
        "wrapper": config.data.wrapper,
        "chat": chat_identity(config.data),
        "content": _folder_digests(config),
        "code": asset_cache.code_digest(*_MODEL_CODE),
    }
    return Asset.of(paths, "models", key)


def load_trio(config: RunConfig, prepared: Prepared) -> Trio:
    """Student (at the warm start), teacher and base on the device of this process."""
    device = pick_device(config.engine)
    if prepared.decoding.step is not None:
        offer_step(prepared.decoding.step)
    offer_memory(config.rollout.engine_memory)
    student = load_model(prepared.models / STUDENT, dtype=config.model.dtype, role="student")
    local = prepared.models / TEACHER
    teacher = (
        load_model(local, dtype=config.model.dtype, role="teacher")
        if local.is_dir()
        else load_model(
            config.model.teacher or "",
            dtype=config.model.dtype,
            revision=config.model.teacher_revision,
            role="teacher",
        )
    )
    ends = [*end_ids_of(student), *end_ids_of(teacher)]
    codec = make_codec(load_tokenizer(prepared.models / STUDENT), config.data, ends)
    trio = assemble(student, teacher, codec)
    for model in (trio.student, trio.teacher, trio.base):
        model.to(device)
    return trio


def _folder_digests(config: RunConfig) -> dict[str, Any]:
    """Content of models given as folders; hub models are named by their revision."""
    sources = {STUDENT: config.model.student, TEACHER: config.model.teacher}
    folders = {role: Path(source).expanduser() for role, source in sources.items() if source}
    return {role: content_of(path, None) for role, path in folders.items() if path.is_dir()}
