"""Making teacher and warm start: trained from config, or loaded, by supervised fine-tuning."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from opdcliff.contract import contract_of
from opdcliff.data import Splits, draw_answer, read_splits
from opdcliff.errors import ModelError
from opdcliff.models.device import pick_device
from opdcliff.models.lengths import SPLITS, check_lengths, measure_lengths
from opdcliff.models.load import build, load_model, load_tokenizer, same_vocabulary
from opdcliff.models.sft import answer_style, fine_tune
from opdcliff.models.tokens.codec import make_codec
from opdcliff.models.tokens.train_bpe import train_bpe
from opdcliff.models.tuning.adapters import ALL_LINEAR, has_adapter, merge_own, put_adapter
from opdcliff.models.tuning.saving import save_model
from opdcliff.processes import open_channel, tell, worker_pool
from opdcliff.settings import LoraConfig, ModelConfig, RunConfig
from opdcliff.terminal import Stage

TEACHER, STUDENT = "teacher", "student"
SEED_OF_ROLE = {TEACHER: 1, STUDENT: 2}


def build_models(config: RunConfig, data: Path, folder: Path) -> dict[str, Any]:
    """Fill `folder` with the warm start (and the teacher, where none is given).

    data: folder of the prepared prompts. Returns facts for the asset's manifest.

    Raises:
        ModelError: a model cannot be loaded, or student and teacher do not fit together.
        DataError: a prompt is too long for them, or not spelled by their tokenizer.
    """
    splits = read_splits(data)
    roles = tuned_roles(config.model)
    if config.model.student is None:
        tokenizer = train_bpe(_tokenizer_texts(config, splits), config.data.tokenizer_entries)
        tokenizer.save_pretrained(folder / TEACHER)
    else:
        tokenizer = load_tokenizer(config.model.student, revision=config.model.student_revision)
        other = tokenizer
        if config.model.teacher is not None:
            revision = config.model.teacher_revision
            other = load_tokenizer(config.model.teacher, revision=revision)
            same_vocabulary(tokenizer, other, ("student", "teacher"))
        if TEACHER in roles:
            other.save_pretrained(folder / TEACHER)
    tokenizer.save_pretrained(folder / STUDENT)
    codec = make_codec(tokenizer, config.data)
    for name in SPLITS:
        codec.check_spelling(getattr(splits, name))
    lengths = measure_lengths(config, codec, splits)
    check_lengths(config, data, lengths)
    facts = {"lengths": lengths, "fine_tuned": roles}
    if config.model.student is not None:
        facts["first_prompt"] = codec.prompt_text(splits.calibration[0])
    if STUDENT not in roles:
        model = load_model(
            config.model.student or "",
            dtype=config.model.dtype,
            revision=config.model.student_revision,
            role="student",
        )
        save_model(model, folder / STUDENT)
    return facts | ({"final_loss": _fine_tune_roles(config, data, folder, roles)} if roles else {})


def tuned_roles(model: ModelConfig) -> list[str]:
    """Which of teacher and student are fine-tuned here; a model that is built always is."""
    if model.student is None:
        return [TEACHER, STUDENT]
    teacher = model.tune_loaded_student if model.teacher is None else model.tune_loaded_teacher
    return [TEACHER] * teacher + [STUDENT] * model.tune_loaded_student


def starting_model(
    config: RunConfig, tokenizer: PreTrainedTokenizerFast, role: str, seed: int
) -> PreTrainedModel:
    """What fine-tuning of a role starts from: built, or loaded, with a fresh adapter if asked for.

    A loaded model is float32, or as `model.dtype` says below an adapter.
    """
    model, rank = config.model, config.sft.lora_rank
    if model.student is None:
        return build(_arch(config), tokenizer, seed)
    source, revision = model.student, model.student_revision
    if role == TEACHER and model.teacher is not None:
        source, revision = model.teacher, model.teacher_revision
    dtype = "float32" if rank is None else model.dtype
    loaded = load_model(source, dtype=dtype, revision=revision, role=role)
    if rank is None:
        return loaded
    return put_adapter(loaded, LoraConfig(rank, 2.0 * rank, [ALL_LINEAR], 0.0), seed)


def tuned_model(model: PreTrainedModel, dtype: str) -> PreTrainedModel:
    """A model whose fine-tuning is over: its adapter merged, if it has one, and in its dtype."""
    return (merge_own(model) if has_adapter(model) else model).to(getattr(torch, dtype))


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
        try:
            return {role: job.result() for role, job in jobs.items()}
        except BrokenProcessPool as error:
            raise ModelError(
                "a fine-tuning process died: killed, or out of memory; nothing half-made is kept, "
                "run the same command again"
            ) from error


def _fine_tune_worker(config: RunConfig, data: Path, folder: Path, role: str) -> float:
    return _fine_tune_role(config, data, folder, role, partial(tell, role))


def _fine_tune_role(
    config: RunConfig, data: Path, folder: Path, role: str, advance: Callable[[int], None]
) -> float:
    torch.set_num_threads(config.engine.threads)
    tokenizer = load_tokenizer(folder / role)
    seed = 10 * config.sft.seed + SEED_OF_ROLE[role]
    model = starting_model(config, tokenizer, role, seed)
    splits = read_splits(data)
    loss = fine_tune(
        model.to(pick_device(config.engine)),
        make_codec(tokenizer, config.data),
        splits.train,
        config.sft,
        getattr(config.sft, role),
        seed=seed,
        with_reason=contract_of(config.data).has_text,
        titles=splits.titles,
        advance=advance,
    )
    save_model(tuned_model(model, config.model.dtype), folder / role)
    return loss


def _tokenizer_texts(config: RunConfig, splits: Splits) -> list[str]:
    """Prompts and answers of both styles, so that the answer's pieces become tokens."""
    with_reason = contract_of(config.data).has_text
    rng = np.random.default_rng(config.sft.seed)
    texts = []
    for example in splits.train:
        for role in (config.sft.teacher, config.sft.student):
            style = answer_style(config.sft, role, with_reason=with_reason, titles=splits.titles)
            pieces = draw_answer(example, style, rng)
            texts.append(example.prompt + "".join(piece.text for piece in pieces))
    return texts


def _arch(config: RunConfig) -> Any:
    assert config.model.arch is not None, "checked by config.check"
    return config.model.arch
