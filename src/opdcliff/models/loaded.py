"""Teacher, base, prompts and modal sets, loaded once for the cells that a process runs in turn."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from opdcliff.contract import ModalSets, contract_of
from opdcliff.data import Splits, read_splits
from opdcliff.models.prepare import Prepared, load_trio
from opdcliff.models.trio import Trio
from opdcliff.settings import RunConfig


@dataclass(frozen=True)
class Loaded:
    """What the cells of a study share; `trio.student` is the base, of which they make their own.

    modal_sets: None for a contract without classes.
    """

    trio: Trio
    splits: Splits
    modal_sets: ModalSets | None


# What the last cell of this process used: the next one mostly needs the same. Holding one entry
# bounds the memory.
_last: dict[tuple[Any, ...], Loaded] = {}


def load_kept(config: RunConfig, prepared: Prepared) -> Loaded:
    """The shared inputs of a cell; the same objects as for the cell before, where they fit."""
    engine, model = config.engine.device, config.model
    key = (prepared, engine, model.dtype, model.teacher, model.teacher_revision)
    if key not in _last:
        _last.clear()
        trio = load_trio(config, prepared)
        # A third copy of the warm start would lie idle.
        trio = replace(trio, student=trio.base)
        modal_sets = trio.codec.modal_sets(contract_of(config.data))
        _last[key] = Loaded(trio, read_splits(prepared.data), modal_sets)
    return _last[key]
