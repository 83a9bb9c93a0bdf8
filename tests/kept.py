"""What a run leaves besides its record, for tests: rollouts, final parameters, a refused update.

`python -m kept JOB` is `opdcliff.rank` with these kept in the folder $OPDCLIFF_KEPT, per rank.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from opdcliff import cells, rank, train
from opdcliff.engine import Engine
from opdcliff.rollout import Rollout

FOLDER = "OPDCLIFF_KEPT"


def keeping(set_attribute: Callable[[Any, str, Any], None]) -> None:
    """Make the training loop of this process keep what it does."""
    sample, run = train.sample, cells.train
    answers: list[dict[int, list[int]]] = []

    def sample_and_keep(*arguments: Any, **options: Any) -> Rollout:
        rollout = sample(*arguments, **options)
        answers.append(dict(zip(options["numbers"], rollout.answers(), strict=True)))
        return rollout

    def run_and_keep(*arguments: Any, **options: Any) -> Any:
        outcome = run(*arguments, **options)
        engine: Engine = arguments[5]
        kept = {"answers": answers, "parameters": parameters(engine)}
        kept["norm"] = refused_update(engine)
        kept["after"] = parameters(engine)
        torch.save(kept, Path(os.environ[FOLDER], f"rank{engine.rank}.pt"))
        return outcome

    set_attribute(train, "sample", sample_and_keep)
    set_attribute(cells, "train", run_and_keep)


def parameters(engine: Engine) -> dict[str, torch.Tensor]:
    """Copies of the student's parameters."""
    with engine.whole_student():
        return {name: value.detach().clone() for name, value in engine.student.named_parameters()}


def refused_update(engine: Engine) -> float:
    """The norm of an update whose gradient is not a number, on rank 0 alone."""
    ids = torch.full((1, 8), 5)
    logp = engine.score(ids, torch.ones_like(ids), 4, False)
    engine.backward(logp.sum() * (torch.nan if engine.rank == 0 else 1.0), last=True)
    return engine.step()


if __name__ == "__main__":
    keeping(setattr)
    rank.main(Path(sys.argv[1]))
