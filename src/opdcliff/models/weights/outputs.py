"""Models of one family whose outputs differ by padding rows: cut to those that both have.

Families pad embedding and head to multiples that depend on the size of the model (Qwen2.5-0.5B has
151,936 rows and 7B 152,064 for one tokenizer). Log-probs can only be subtracted over one set of
entries, so the rows that only the larger model has are cut from its weights when a pair is put
together: sampling, scoring, evaluation, calibration and the loss then all see softmax over the
shared entries, by construction, and so does whoever loads the trained student.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from opdcliff.errors import ModelError


@dataclass(frozen=True)
class CutRows:
    """What `cut_outputs` took from a model.

    outputs, shared: rows before and after. rows: those taken, one tensor per cut parameter.
    """

    outputs: int
    shared: int
    rows: tuple[Tensor, ...]


def cut_outputs(model: PreTrainedModel, shared: int, role: str) -> CutRows:
    """Keep the first `shared` rows of embedding and head, in place; role: what errors call it.

    Raises:
        ModelError: the model has no head of one row per output.
    """
    outputs = model.config.get_text_config().vocab_size
    parameters = _tall(model, outputs, role)
    rows = tuple(parameter.detach()[shared:].clone() for parameter in parameters)
    _set(model, parameters, [parameter.detach()[:shared].clone() for parameter in parameters])
    config = model.config.get_text_config()
    config.vocab_size = shared
    # No answer holds such an id, and a model with it as padding could not be loaded again.
    if config.pad_token_id is not None and config.pad_token_id >= shared:
        config.pad_token_id = None
        model.get_input_embeddings().padding_idx = None
    return CutRows(outputs, shared, rows)


@contextmanager
def uncut(model: PreTrainedModel, cut: CutRows, role: str) -> Iterator[None]:
    """The model with its rows put back, until the block is left; it must not be trained inside."""
    parameters = _tall(model, cut.shared, role)
    held = [parameter.data for parameter in parameters]
    pairs = zip(held, cut.rows, strict=True)
    _set(model, parameters, [torch.cat([kept, rows.to(kept)]) for kept, rows in pairs])
    try:
        yield
    finally:
        _set(model, parameters, held)


def _tall(model: PreTrainedModel, outputs: int, role: str) -> list[nn.Parameter]:
    """The parameters with a row per output, each once: embedding, head (may be tied), its bias."""
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        raise ModelError(
            f"the {role} has {outputs} outputs, more than the other model, and no linear head that "
            "could be cut to theirs; save both with as many rows (resize_token_embeddings)"
        )
    found = [model.get_input_embeddings().weight, head.weight, head.bias]
    unique = {id(parameter): parameter for parameter in found if parameter is not None}
    return list(unique.values())


def _set(model: PreTrainedModel, parameters: list[nn.Parameter], values: list[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.data = value
    model.get_input_embeddings().num_embeddings = len(values[0])
    model.get_output_embeddings().out_features = len(values[0])
