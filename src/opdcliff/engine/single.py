"""Plain torch behind the engine protocol: one process, and nothing to share."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from opdcliff.engine.masters import Masters
from opdcliff.engine.parts import build_optimizer, scoring_module
from opdcliff.engine.state import State, read_plain, trained, write_plain
from opdcliff.engine.watch import StepWatch
from opdcliff.models import pick_device
from opdcliff.rollout import ChunkLoss, Rollout
from opdcliff.settings import RunConfig

Item = TypeVar("Item")


class SingleEngine:
    """Plain torch in one process."""

    rank = 0
    world = 1

    def __init__(self, student: PreTrainedModel, config: RunConfig) -> None:
        self.device = pick_device(config.engine)
        self.student = student.to(self.device)
        self._scoring = scoring_module(student, config)
        self._masters = Masters(trained(student))
        self._optimizer = build_optimizer(self._masters.parameters, config.optim, fused=True)
        self._watch = StepWatch(self._optimizer)
        self._grad_clip = config.optim.grad_clip

    def score(self, ids_BL: Tensor, attention_BL: Tensor, length: int) -> Tensor:
        logp: Tensor = self._scoring(ids_BL, attention_BL, length)
        return logp

    def loss(
        self,
        ids_BL: Tensor,
        attention_BL: Tensor,
        length: int,
        loss: ChunkLoss,
        beside: Sequence[Tensor],
    ) -> tuple[Tensor, ...]:
        found: tuple[Tensor, ...] = self._scoring(ids_BL, attention_BL, length, loss, beside)
        return found

    def backward(self, loss: Tensor, *, last: bool) -> None:
        loss.backward()  # type: ignore[no-untyped-call]

    def step(self) -> float:
        norm = float(torch.nn.utils.clip_grad_norm_(self._masters.parameters, self._grad_clip))
        if math.isfinite(norm):
            self._optimizer.step()
            self._masters.spread()
        self._optimizer.zero_grad()
        return norm

    def first_step(self) -> tuple[float, float]:
        return self._watch.close()

    def state(self) -> State:
        return read_plain(self._masters.named, self._optimizer)

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self._masters.restore(state)
        write_plain(self._masters.named, self._optimizer, state)

    def sum_over_ranks(self, value: float) -> float:
        return value

    def sums_over_ranks(self, values: Sequence[float]) -> list[float]:
        return list(values)

    def gather(self, items: list[Item]) -> list[Item]:
        return items

    @contextlib.contextmanager
    def whole_student(self) -> Iterator[None]:
        yield

    def adopt(self, teacher: PreTrainedModel) -> None:
        pass

    def level(self, rollout: Rollout) -> Rollout:
        return rollout
