"""Teacher, base, prompts and labels, loaded once for the cells that a process runs in turn."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from opdcliff.contract import Labels, classes_problem, contract_of
from opdcliff.data import Splits, read_splits
from opdcliff.models.prepare import Prepared, load_trio
from opdcliff.models.trio import Trio
from opdcliff.settings import RunConfig


@dataclass(frozen=True)
class Loaded:
    """What the cells of a study share; `trio.student` is the base, of which they make their own.

    labels: None for a contract without classes.
    """

    trio: Trio
    splits: Splits
    labels: Labels | None


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
        splits, contract = read_splits(prepared.data), contract_of(config.data)
        problem = classes_problem(contract, splits.forms())
        labels = None if problem else trio.codec.labels(contract)
        _last[key] = Loaded(trio, splits, labels)
    return _last[key]
