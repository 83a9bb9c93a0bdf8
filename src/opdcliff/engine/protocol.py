"""The one seam between plain torch and DeepSpeed ZeRO.

The training loop sees a student it can sample from, a `score` and a `loss` that carry gradients,
`backward`, `step` and sums over ranks. Device, precision and rank logic live in this room and
nowhere else.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from opdcliff.engine.state import State
from opdcliff.rollout import ChunkLoss, Rollout

Item = TypeVar("Item")


class Engine(Protocol):
    """What the training loop needs of a backend."""

    rank: int
    world: int
    device: torch.device
    student: PreTrainedModel

    def score(self, ids_BL: Tensor, attention_BL: Tensor, length: int) -> Tensor:
        """Log-probs of the completion's tokens with gradient, as `rollout.completion_logp`."""
        ...

    def loss(
        self,
        ids_BL: Tensor,
        attention_BL: Tensor,
        length: int,
        loss: ChunkLoss,
        beside: Sequence[Tensor],
    ) -> tuple[Tensor, ...]:
        """A loss over the vocabulary and its values per token, as `rollout.completion_loss`."""
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

    def first_step(self) -> tuple[float, float]:
        """How far this rank's weights moved in its first update, and how far its steps went.

        Sums over some of them (`StepWatch`). Both 0 until an update had something to do.
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

    def sums_over_ranks(self, values: Sequence[float]) -> list[float]:
        """The sums of several numbers over all ranks, in one exchange."""
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
