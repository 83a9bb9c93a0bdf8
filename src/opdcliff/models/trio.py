"""Student, teacher and base together, over the entries that they share."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from transformers import PreTrainedModel

from opdcliff.errors import ConfigError, ModelError
from opdcliff.models.tokens.codec import Codec
from opdcliff.models.tuning.adapters import put_adapter, sharing
from opdcliff.models.weights.outputs import CutRows, cut_outputs
from opdcliff.settings import LoraConfig


@dataclass
class Trio:
    """The three models of on-policy distillation; teacher and base are frozen.

    cut: for "student" (and base) or "teacher", the outputs that only this model had.
    """

    student: PreTrainedModel
    teacher: PreTrainedModel
    base: PreTrainedModel
    codec: Codec
    cut: Mapping[str, CutRows] = field(default_factory=dict)


def assemble(student: PreTrainedModel, teacher: PreTrainedModel, codec: Codec) -> Trio:
    """Student with its frozen copy as base, and the frozen teacher.

    Models of one family may pad their embedding to different heights (Qwen3-1.7B and 8B do not);
    the shared tokenizer must fit into both; the higher one is cut to the other (`weights.outputs`).

    Raises:
        ModelError: the tokenizer has more entries than a model has outputs.
    """
    entries = len(codec.token_bytes)
    models = {"student": student, "teacher": teacher}
    sizes = {name: model.config.get_text_config().vocab_size for name, model in models.items()}
    for name, size in sizes.items():
        if size < entries:
            raise ModelError(
                f"the {name} has {size} outputs for {entries} tokens; it belongs to "
                "another tokenizer: choose models of one family"
            )
    shared = min(sizes.values())
    cut = {
        name: cut_outputs(models[name], shared, name)
        for name, size in sizes.items()
        if size > shared
    }
    base = copy.deepcopy(student)
    for frozen in (teacher, base):
        frozen.requires_grad_(False).eval()
    return Trio(student=student, teacher=teacher, base=base, codec=codec, cut=cut)


def fresh_student(
    trio: Trio, lora: LoraConfig | None = None, *, seed: int = 0, share: bool = True
) -> Trio:
    """The same teacher and base with a new trainable student at the warm start.

    lora: train a fresh adapter, drawn by `seed`, in place of all weights. The student's other
    weights are then those of the base: one copy serves both, and the base is the student with its
    adapter off. share: False gives the student a copy, for an engine that takes its weights apart.

    Raises:
        ConfigError: see `put_adapter`; or an adapter with dropout, since the answers that are
            sampled and those that are scored would come from different students.
    """
    if lora is None:
        student = copy.deepcopy(trio.base).requires_grad_(True)
        return replace(trio, student=student)
    if lora.dropout:
        raise ConfigError(
            f"model.lora.dropout={lora.dropout} is for `opdcliff sft`; a student that is distilled "
            "samples and scores without it: set model.lora.dropout=0"
        )
    student = sharing(trio.base) if share else copy.deepcopy(trio.base)
    return replace(trio, student=put_adapter(student, lora, seed))
