"""Fine-tuning a model of one's own on answers of one's own, to make a teacher or a warm start."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from opdcliff.data import load_answers
from opdcliff.errors import ConfigError, ModelError
from opdcliff.models.batches import Rows, batch_of_update
from opdcliff.models.device import pick_device
from opdcliff.models.load import load_model, load_tokenizer, positions_in
from opdcliff.models.sft import Descent, descend, loss_tokens, mean_loss
from opdcliff.models.tokens.chat import chat_identity
from opdcliff.models.tokens.codec import make_codec
from opdcliff.models.tuning.adapters import base_of, is_adapter, merge_own, put_adapter
from opdcliff.models.tuning.rows import hold_out, rows_of
from opdcliff.models.tuning.saving import content_of, save_model
from opdcliff.settings import RunConfig
from opdcliff.storage import Asset, asset_cache, file_digest, writing
from opdcliff.terminal import Stage

_KIND = "sft"
_CODE = ("data", "models")


@dataclass(frozen=True)
class Tuned:
    """A model that was fine-tuned, or found so; facts: losses and counts, see `_tune`."""

    folder: Path
    facts: dict[str, Any]
    found: bool


def fine_tune_own(config: RunConfig, folder: Path, *, merge: bool) -> Tuned:
    """Fine-tune `model.student` on the lines of `data.path` as `tune` says, into `folder`.

    The folder loads as `model.student` or `model.teacher`: a model, or with `model.lora` its
    adapter; with `merge` the model with the adapter in it. It appears once it is whole; what is
    there already is found by the same settings and files, and refused by others.

    Raises:
        ConfigError: settings that do not go together.
        DataError: a line that cannot be used.
        ModelError: the model cannot be loaded, or the fine-tuning diverged.
        RecordError: the folder is there and is not the result of these settings and files.
    """
    asset = _asset(config, folder, merge)
    with writing(folder), asset.building() as draft:
        if draft is not None:
            draft.facts = _tune(config, draft.folder, merge)
    return Tuned(folder, asset_cache.manifest(folder)["facts"], draft is None)


def _asset(config: RunConfig, folder: Path, merge: bool) -> Asset:
    model, source, file = config.model, config.model.student or "", _file(config)
    if merge and model.lora is None:
        raise ConfigError("merge=true merges an adapter and there is none; add lora=adapter")
    if model.lora is not None and not merge and is_adapter(source):
        raise ConfigError(
            f"model.student={source} is an adapter, and a fresh one on top of it could not name "
            "its base; add merge=true, which writes the whole model"
        )
    key = {
        "model": content_of(source, model.student_revision),
        "dtype": model.dtype,
        "lora": None if model.lora is None else asdict(model.lora),
        "merge": merge,
        "tune": asdict(config.tune),
        "chat": chat_identity(config.data),
        "data": file_digest(file) if file.is_file() else None,
        "code": asset_cache.code_digest(*_CODE),
    }
    return Asset.at(folder, _KIND, key)


def _tune(config: RunConfig, folder: Path, merge: bool) -> dict[str, Any]:
    """Fill `folder`; returns facts about it.

    Losses are means over answer tokens, in nats; `held_out_loss` before and after, null where no
    line is held out.
    """
    torch.set_num_threads(config.engine.threads)
    tune, file = config.tune, _file(config)
    train, held = hold_out(load_answers(file), tune.held_out, tune.seed, file)
    source, revision = config.model.student or "", config.model.student_revision
    codec = make_codec(load_tokenizer(source, revision=revision), config.data)
    model = _load(config)
    encoded = partial(rows_of, codec, file=file, positions=positions_in(model.config))
    rows, held_rows = encoded(lines=train), encoded(lines=held)
    steps = max(1, math.ceil(tune.epochs * len(rows) / tune.batch_size))
    measure = partial(mean_loss, pad_id=codec.pad_id, micro_batch=config.engine.micro_batch)
    before = measure(model, held_rows) if held_rows else None
    with Stage("fine-tuning", steps) as stage:
        last = _descend(config, model, codec.pad_id, rows, steps, stage.advance_of(""))
    after = measure(model, held_rows) if held_rows else None
    _require_finite(config, last if after is None else after)
    if merge:
        merge_own(model)
    elif config.model.lora is None:
        model.to(getattr(torch, config.model.dtype))
    base, base_revision = base_of(source, revision)
    save_model(model, folder, base=base, revision=base_revision)
    codec.tokenizer.save_pretrained(folder)
    return {
        "first_prompt": codec.prompt_text(train[0].as_example()),
        "lines": {"train": len(rows), "held_out": len(held_rows)},
        "loss_tokens": {"train": loss_tokens(rows), "held_out": loss_tokens(held_rows)},
        "steps": steps,
        "last_batch_loss": last,
        "held_out_loss": {"before": before, "after": after},
    }


def _load(config: RunConfig) -> PreTrainedModel:
    """The model to train: in float32, or as `model.dtype` says with an adapter in float32 on it."""
    lora = config.model.lora
    model = load_model(
        config.model.student or "",
        dtype="float32" if lora is None else config.model.dtype,
        revision=config.model.student_revision,
        role="student",
    )
    if lora is not None:
        put_adapter(model, lora, config.tune.seed)
    if config.engine.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
        # Only reentrant checkpoints need that where embeddings are frozen.
        model.disable_input_require_grads()
    return model.to(pick_device(config.engine))


def _descend(
    config: RunConfig,
    model: PreTrainedModel,
    pad_id: int,
    rows: Rows,
    steps: int,
    advance: Callable[[int], None],
) -> float:
    tune = config.tune
    how = Descent(
        steps=steps,
        lr=tune.lr,
        warmup_steps=math.ceil(tune.warmup * steps),
        weight_decay=tune.weight_decay,
        grad_clip=tune.grad_clip,
        advice=_advice(config),
        micro_batch=config.engine.micro_batch,
    )
    batches = (_batch(rows, tune.batch_size, step, tune.seed) for step in range(steps))
    # Dropout, of the model or its adapter, draws from torch's own generators.
    with torch.random.fork_rng():
        torch.manual_seed(tune.seed)
        return descend(model, pad_id, batches, how, advance)


def _batch(rows: Sequence[tuple[list[int], list[int]]], size: int, step: int, seed: int) -> Rows:
    return [row for _, row in batch_of_update(rows, size, step, seed)]


def _require_finite(config: RunConfig, loss: float) -> None:
    """The last step may have left weights that no gradient has shown yet."""
    if not math.isfinite(loss):
        raise ModelError(
            f"fine-tuning diverged: loss {loss} after the last step; {_advice(config)}"
        )


def _advice(config: RunConfig) -> str:
    return f"lower tune.lr (it is {config.tune.lr})"


def _file(config: RunConfig) -> Path:
    return Path(config.data.path or "").expanduser()
