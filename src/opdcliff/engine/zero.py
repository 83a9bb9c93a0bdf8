"""DeepSpeed ZeRO behind the engine protocol: several ranks, one student.

ZeRO-0 splits nothing, ZeRO-1 the optimizer states over the ranks, ZeRO-2 the gradients too, ZeRO-3
the student's parameters too. The base is whole on every rank, and so is the teacher unless
`engine.shard_teacher` splits it as ZeRO-3 does. Precision is that of the model; in bfloat16 the
optimizer works on a float32 copy.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import deepspeed
import torch
from torch import Tensor
from torch import distributed as dist
from torch.nn import functional as F
from transformers import PreTrainedModel

from opdcliff.engine.parts import build_optimizer, scoring_module
from opdcliff.engine.state import (
    State,
    read_plain,
    read_zero,
    splits,
    trained,
    write_plain,
    write_zero,
)
from opdcliff.engine.watch import StepWatch
from opdcliff.engine.zero_settings import deepspeed_settings, teacher_settings
from opdcliff.models import pick_device
from opdcliff.rollout import ChunkLoss, Rollout
from opdcliff.settings import STAGES, RunConfig

Item = TypeVar("Item")


class DeepSpeedEngine:
    """The engine of one rank; all ranks must make the same calls in the same order.

    Only within `whole_student` may a rank go at its own pace, and there only until it scores under
    a teacher that is split.
    """

    def __init__(self, student: PreTrainedModel, config: RunConfig) -> None:
        self._config, self._stage = config, STAGES[config.engine.name]
        self.device = pick_device(config.engine)
        _use_no_compiled_operator()
        student.to(self.device)
        self._splits_parameters = self._stage == 3
        self._named = trained(student)
        self._parameters = list(student.parameters())
        # ZeRO-3 hangs collectives on the modules it wraps, so ranks that sample answers of
        # different length would wait for each other for ever. A twin without them does not.
        self.student = _empty_twin(student) if self._splits_parameters else student
        optimizer = build_optimizer([p for _, p in self._named], config.optim)
        self._watch = StepWatch(optimizer)
        self._engine, *_ = deepspeed.initialize(
            model=scoring_module(student, config),
            optimizer=optimizer,
            config=deepspeed_settings(config),
        )
        self.rank = dist.get_rank()
        self.world = dist.get_world_size()

    def score(self, ids_BL: Tensor, attention_BL: Tensor, length: int) -> Tensor:
        # Under ZeRO-3 every chunk of the head is a collective, so all ranks need the same number.
        extra = self._longest(length) - length if self._splits_parameters else 0
        logp: Tensor = self._engine(
            F.pad(ids_BL, (0, extra)), F.pad(attention_BL, (0, extra)), length + extra
        )
        return logp[:, :length]

    def loss(
        self,
        ids_BL: Tensor,
        attention_BL: Tensor,
        length: int,
        loss: ChunkLoss,
        beside: Sequence[Tensor],
    ) -> tuple[Tensor, ...]:
        # The loss may call the head of a teacher that is split, which is a collective as well.
        split = self._splits_parameters or self._config.engine.shard_teacher
        extra = self._longest(length) - length if split else 0
        total, *per_token = self._engine(
            F.pad(ids_BL, (0, extra)),
            F.pad(attention_BL, (0, extra)),
            length + extra,
            loss,
            # Masks are false there, so these tokens add nothing.
            [F.pad(x, (0, 0) * (x.dim() - 2) + (0, extra)) if extra else x for x in beside],
        )
        return total, *(value[:, :length] for value in per_token)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        self._engine.set_gradient_accumulation_boundary(last)
        # DeepSpeed averages gradients over ranks; ours have to be summed.
        self._engine.backward(loss * self.world, scale_wrt_gas=False)

    def step(self) -> float:
        if self._stage == 0:
            return self._plain_step()
        self._engine.step()
        # After a norm that is not finite DeepSpeed updates nothing and reports infinity.
        return float(self._engine.get_global_grad_norm())

    def first_step(self) -> tuple[float, float]:
        return self._watch.close()

    def state(self) -> State:
        optimizer = self._engine.optimizer
        if splits(self._named):
            return read_zero(self._named, optimizer, keep=self.rank == 0)
        return read_plain(self._named, optimizer) if self.rank == 0 else {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        write = write_zero if splits(self._named) else write_plain
        write(self._named, self._engine.optimizer, state)

    def sum_over_ranks(self, value: float) -> float:
        return self.sums_over_ranks([value])[0]

    def sums_over_ranks(self, values: Sequence[float]) -> list[float]:
        return self._reduced(values, dist.ReduceOp.SUM)

    def gather(self, items: list[Item]) -> list[Item]:
        shares: list[Any] = [None] * self.world
        dist.all_gather_object(shares, items)
        return [item for share in shares for item in share]

    @contextlib.contextmanager
    def whole_student(self) -> Iterator[None]:
        if not self._splits_parameters:
            yield
            return
        twins = list(self.student.parameters())
        with deepspeed.zero.GatheredParameters(self._parameters):
            for twin, parameter in zip(twins, self._parameters, strict=True):
                twin.data = parameter.data
            try:
                yield
            finally:
                # The gathered tensors are freed only once nothing points at them.
                _empty(twins)

    def adopt(self, teacher: PreTrainedModel) -> None:
        if self._config.engine.shard_teacher:
            # Scoring calls its backbone once and its head chunk by chunk, so DeepSpeed never sees
            # the whole run and fetches each layer when it is needed. Foresight would go wrong
            # with a number of chunks that varies.
            deepspeed.initialize(model=teacher, config=teacher_settings(self._config))

    def level(self, rollout: Rollout) -> Rollout:
        if not self._config.engine.shard_teacher:
            return rollout
        length = rollout.mask_BT.shape[1]
        extra = (0, self._longest(length) - length)
        return Rollout(
            F.pad(rollout.ids_BL, extra),
            F.pad(rollout.attention_BL, extra),
            F.pad(rollout.mask_BT, extra),
            rollout.ended_B,
        )

    def _plain_step(self) -> float:
        # Without ZeRO, DeepSpeed keeps no norm and updates even if that is not finite. The
        # gradients are those of all ranks by now, so all ranks decide alike.
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients))
        if math.isfinite(norm):
            self._engine.step()
        else:
            self._engine.zero_grad()
        return norm

    def _longest(self, length: int) -> int:
        return int(self._reduced([length], dist.ReduceOp.MAX)[0])

    def _reduced(self, values: Sequence[float], operation: Any) -> list[float]:
        reduced = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(reduced, op=operation)
        numbers: list[float] = reduced.tolist()
        return numbers


def _use_no_compiled_operator() -> None:
    # On CPU DeepSpeed would compile a shared-memory reduction for inference with g++ and ninja,
    # which training never calls.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def _empty_twin(model: PreTrainedModel) -> PreTrainedModel:
    twin: PreTrainedModel = copy.deepcopy(model).requires_grad_(False)
    _empty(list(twin.parameters()))
    return twin


def _empty(parameters: list[torch.nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.data = parameter.data.new_empty(0)
