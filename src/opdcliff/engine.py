"""The one seam between plain torch and DeepSpeed ZeRO.

The training loop sees a student it can sample from, a `score` that carries gradients, `backward`,
`step` and sums over ranks. Device, precision and rank logic live here and nowhere else.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
from collections.abc import Iterator, Mapping
from typing import Protocol, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from opdcliff.config import EngineConfig, OptimConfig, RunConfig
from opdcliff.engine_state import State, read_plain, write_plain
from opdcliff.errors import ConfigError
from opdcliff.rollout import Rollout
from opdcliff.scoring import ScoringModule

Item = TypeVar("Item")


class Engine(Protocol):
    """What the training loop needs of a backend."""

    rank: int
    world: int
    device: torch.device
    student: PreTrainedModel

    def score(self, ids_BL: Tensor, attention_BL: Tensor, length: int, full: bool) -> Tensor:
        """Completion log-probs of the student with gradient, as `ScoringModule.forward`."""
        ...

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Accumulate the gradient of `loss`; `last` marks the last part of an update.

        Parts and ranks are summed: the loss divides by the global token count.
        """
        ...

    def step(self) -> float:
        """One optimizer update; returns the gradient norm before clipping.

        A norm that is not finite is returned without updating anything.
        """
        ...

    def state(self) -> State:
        """Student and optimizer as whole tensors on rank 0, nothing on the others."""
        ...

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of `state`, given to every rank of an engine around `load_parameters`' student.

        Ranks and ZeRO stage may be others than when it was saved.
        """
        ...

    def sum_over_ranks(self, value: float) -> float:
        """The sum of a number over all ranks."""
        ...

    def gather(self, items: list[Item]) -> list[Item]:
        """The items of all ranks, in rank order, on every rank."""
        ...

    def whole_student(self) -> contextlib.AbstractContextManager[None]:
        """Within it the student's parameters are whole, for sampling and saving."""
        ...

    def adopt(self, teacher: PreTrainedModel) -> None:
        """Split the frozen teacher over the ranks if so configured; once, before it is used.

        From then on scoring under it is collective: all ranks at once, on rollouts of one `level`
        and the same number of answers.
        """
        ...

    def level(self, rollout: Rollout) -> Rollout:
        """The rollout as scoring under the teacher takes it: padded to the longest of all ranks."""
        ...


class SingleEngine:
    """Plain torch in one process."""

    rank = 0
    world = 1

    def __init__(self, student: PreTrainedModel, config: RunConfig) -> None:
        self.device = pick_device(config.engine)
        self.student = student.to(self.device)
        self._scoring = scoring_module(student, config)
        self._optimizer = build_optimizer(student, config.optim)
        self._grad_clip = config.optim.grad_clip

    def score(self, ids_BL: Tensor, attention_BL: Tensor, length: int, full: bool) -> Tensor:
        logp: Tensor = self._scoring(ids_BL, attention_BL, length, full)
        return logp

    def backward(self, loss: Tensor, *, last: bool) -> None:
        loss.backward()  # type: ignore[no-untyped-call]

    def step(self) -> float:
        norm = float(torch.nn.utils.clip_grad_norm_(self._scoring.parameters(), self._grad_clip))
        if math.isfinite(norm):
            self._optimizer.step()
        self._optimizer.zero_grad()
        return norm

    def state(self) -> State:
        return read_plain(list(self.student.named_parameters()), self._optimizer)

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        write_plain(list(self.student.named_parameters()), self._optimizer, state)

    def sum_over_ranks(self, value: float) -> float:
        return value

    def gather(self, items: list[Item]) -> list[Item]:
        return items

    @contextlib.contextmanager
    def whole_student(self) -> Iterator[None]:
        yield

    def adopt(self, teacher: PreTrainedModel) -> None:
        pass

    def level(self, rollout: Rollout) -> Rollout:
        return rollout


def pick_device(config: EngineConfig) -> torch.device:
    """The device of this process: `auto` is the GPU of its local rank if there is one.

    Raises:
        ConfigError: cuda is asked for and there is none, or there are more ranks than GPUs.
    """
    available = torch.cuda.is_available()
    if config.device == "cuda" and not available:
        raise ConfigError("engine.device=cuda and torch sees no GPU; set engine.device=cpu or auto")
    if config.device == "cpu" or not available:
        return torch.device("cpu")
    # On several hosts DeepSpeed's launcher says how many ranks are on this one.
    here = int(os.environ.get("LOCAL_SIZE", config.ranks))
    if here > torch.cuda.device_count():
        raise ConfigError(
            f"engine.ranks={here} and torch sees {torch.cuda.device_count()} GPUs; lower "
            "the ranks to that, or set engine.device=cpu"
        )
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def free_device() -> None:
    """Give back GPU memory that this process cached but no longer uses, before ranks need it."""
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()


def scoring_module(student: PreTrainedModel, config: RunConfig) -> ScoringModule:
    """The student wrapped for scoring at the rollouts' temperature."""
    kind = ScoringModule
    if config.engine.gradient_checkpointing:
        kind = _Recomputing
        student.activation_checkpointing_enable({"use_reentrant": False})
        # Only frozen embeddings need that.
        student.disable_input_require_grads()
    return kind(student, config.rollout.temperature, config.engine.score_chunk_tokens)


class _Recomputing(ScoringModule):
    """Scoring that runs the student's layers again in the backward pass, for less memory."""

    def forward(
        self, ids_BL: Tensor, attention_BL: Tensor, completion_length: int, full: bool = False
    ) -> Tensor:
        layers = [m for m in self.model.modules() if isinstance(m, GradientCheckpointingLayer)]
        modes = [layer.training for layer in layers]
        # Only a layer in training mode recomputes, and such a layer drops the cache that sampling
        # needs. What it contains, dropout above all, stays in the mode it is in.
        for layer in layers:
            layer.training = True
        try:
            return super().forward(ids_BL, attention_BL, completion_length, full)
        finally:
            for layer, mode in zip(layers, modes, strict=True):
                layer.training = mode


def build_optimizer(student: PreTrainedModel, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW as configured; ZeRO engines wrap the same one."""
    return torch.optim.AdamW(
        student.parameters(),
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        weight_decay=config.weight_decay,
    )


def open_engine(student: PreTrainedModel, config: RunConfig) -> Engine:
    """The engine of `config.engine.name` around `student`; a ZeRO engine only inside a rank."""
    if config.engine.name == "single":
        return SingleEngine(student, config)
    from opdcliff.engine_deepspeed import DeepSpeedEngine

    return DeepSpeedEngine(student, config)
