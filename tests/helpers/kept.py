"""What a run leaves besides its record, for tests: rollouts, final parameters, a refused update.

Also what the frozen models and the optimizer hold. `python -m kept JOB` is a rank with these kept
in the folder $OPDCLIFF_KEPT, per rank, $OPDCLIFF_CHUNK_LOGITS as the bound of a chunk, and
$OPDCLIFF_CLASS_ANSWERS as the number of answers whose masses are measured.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from opdcliff.engine.protocol import Engine
from opdcliff.models import answering
from opdcliff.processes import rank
from opdcliff.rollout import scoring
from opdcliff.rollout.draws import TRAIN_STREAM, Rollout
from opdcliff.training import run as run_module
from opdcliff.training.evaluation import run_evaluation as measuring

FOLDER = "OPDCLIFF_KEPT"
CHUNK_LOGITS = "OPDCLIFF_CHUNK_LOGITS"
CLASS_ANSWERS = "OPDCLIFF_CLASS_ANSWERS"


def keeping(set_attribute: Callable[[Any, str, Any], None]) -> None:
    """Make the training loop of this process keep what it does."""
    sample, run = answering.sample, run_module.train
    answers: list[dict[int, list[int]]] = []
    optimizers: list[torch.optim.Optimizer] = []
    optimized: set[int] = set()

    def sample_and_keep(*arguments: Any, **options: Any) -> Rollout:
        rollout = sample(*arguments, **options)
        if options["stream"] == TRAIN_STREAM:
            answers.append(dict(zip(options["numbers"], rollout.answers(), strict=True)))
        return rollout

    def making(make: Callable[..., None]) -> Callable[..., None]:
        def make_and_keep(optimizer: Any, parameters: Any, **options: Any) -> None:
            given = list(parameters)
            optimized.update(map(id, given))
            optimizers.append(optimizer)
            make(optimizer, given, **options)

        return make_and_keep

    def run_and_keep(*arguments: Any, **options: Any) -> Any:
        outcome = run(*arguments, **options)
        trio, engine = arguments[2], arguments[5]
        kept = {"answers": answers, "parameters": parameters(engine)}
        kept["frozen"] = {
            name: _frozen(model, optimized)
            for name, model in (("teacher", trio.teacher), ("base", trio.base))
        }
        # The engine's; another one is made to watch its first step.
        optimizer = optimizers[0]
        kept["optimizer"] = [p.dtype for group in optimizer.param_groups for p in group["params"]]
        kept["first step"] = engine.first_step()
        kept["norm"] = refused_update(engine)
        kept["after"] = parameters(engine)
        torch.save(kept, Path(os.environ[FOLDER], f"rank{engine.rank}.pt"))
        return outcome

    set_attribute(answering, "sample", sample_and_keep)
    set_attribute(run_module, "train", run_and_keep)
    for kind in (torch.optim.AdamW, torch.optim.SGD):
        set_attribute(kind, "__init__", making(kind.__init__))


def parameters(engine: Engine) -> dict[str, torch.Tensor]:
    """Copies of the student's parameters."""
    with engine.whole_student():
        return {name: value.detach().clone() for name, value in engine.student.named_parameters()}


def refused_update(engine: Engine) -> float:
    """The norm of an update whose gradient is not a number, on rank 0 alone."""
    ids = torch.full((1, 8), 5)
    logp = engine.score(ids, torch.ones_like(ids), 4)
    engine.backward(logp.sum() * (torch.nan if engine.rank == 0 else 1.0), last=True)
    return engine.step()


def _frozen(model: nn.Module, optimized: set[int]) -> dict[str, Any]:
    """What a model that must not be trained holds; elements: those of this rank."""
    every = list(model.parameters())
    return {
        "dtypes": {p.dtype for p in every},
        "trainable": sum(p.requires_grad or p.grad is not None for p in every),
        "optimized": sum(id(p) in optimized for p in every),
        # A parameter that ZeRO-3 splits is empty while not in use; its part lies beside it.
        "elements": sum(p.numel() + getattr(p, "ds_tensor", p.new_empty(0)).numel() for p in every),
    }


if __name__ == "__main__":
    keeping(setattr)
    scoring.CPU_CHUNK_LOGITS = int(os.environ.get(CHUNK_LOGITS, scoring.CPU_CHUNK_LOGITS))
    measuring.CLASS_ANSWERS = int(os.environ.get(CLASS_ANSWERS, measuring.CLASS_ANSWERS))
    rank.main(Path(sys.argv[1]))
