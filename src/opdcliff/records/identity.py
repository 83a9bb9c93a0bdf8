"""The identity of a cell: the hash of what decides its outcome, and of nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opdcliff.records.record import run_identity

# Kinds of cells: a distillation run, or else a model that is only measured.
OPD = "opd"


def cell_identity(
    settings: Mapping[str, Any], *, lam: float, seed: int, kind: str, models: str
) -> str:
    """Identity of a run from its settings (`settings.science`) and what varies over a grid.

    models: identity of the prepared models. A baseline (`kind` other than OPD) has lam 1.
    """
    own = {**settings, "lam": {**settings["lam"], "value": lam}, "seed": seed}
    named = {} if kind == OPD else {"kind": kind}
    return run_identity({"settings": own, "models": models, **named})
