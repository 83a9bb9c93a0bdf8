"""DeepSpeed ZeRO behind the engine protocol: several ranks, one student.

ZeRO-1 splits the optimizer states over the ranks, ZeRO-2 the gradients too, ZeRO-3 the student's
parameters too. Teacher and base are whole on every rank. Precision is that of the model; in
bfloat16 the optimizer works on a float32 copy, which plain torch does not keep.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any, TypeVar

import deepspeed
import torch
from torch import Tensor
from torch import distributed as dist
from torch.nn import functional as F
from transformers import PreTrainedModel

from opdcliff.config import RunConfig
from opdcliff.engine import build_optimizer, pick_device, scoring_module

Item = TypeVar("Item")

_STAGES = {"zero1": 1, "zero2": 2, "zero3": 3}

# Elements per collective; its buffer is allocated in full. DeepSpeed's default holds 2 GB.
_BUCKET = 50_000_000
# ZeRO-3 keeps parameters of fewer elements whole on every rank: norms, which are not worth a
# collective each.
_PERSISTENT = 10_000


class DeepSpeedEngine:
    """The engine of one rank; all ranks must make the same calls in the same order.

    Only within `whole_student` may a rank go at its own pace.
    """

    def __init__(self, student: PreTrainedModel, config: RunConfig) -> None:
        stage = _STAGES[config.engine.name]
        self.device = pick_device(config.engine)
        _use_no_compiled_operator()
        student.to(self.device)
        self._splits_parameters = stage == 3
        self._parameters = list(student.parameters())
        # ZeRO-3 hangs collectives on the modules it wraps, so ranks that sample answers of
        # different length would wait for each other for ever. A twin without them does not.
        self.student = _empty_twin(student) if self._splits_parameters else student
        self._engine, *_ = deepspeed.initialize(
            model=scoring_module(student, config),
            optimizer=build_optimizer(student, config.optim),
            config=_settings(config, stage),
        )
        self.rank = dist.get_rank()
        self.world = dist.get_world_size()

    def score(self, ids_BL: Tensor, attention_BL: Tensor, length: int, full: bool) -> Tensor:
        # Under ZeRO-3 every chunk of the head is a collective, so all ranks need the same number.
        extra = self._longest(length) - length if self._splits_parameters else 0
        logp: Tensor = self._engine(
            F.pad(ids_BL, (0, extra)), F.pad(attention_BL, (0, extra)), length + extra, full
        )
        return logp[:, :length]

    def backward(self, loss: Tensor, *, last: bool) -> None:
        self._engine.set_gradient_accumulation_boundary(last)
        # DeepSpeed averages gradients over ranks; ours have to be summed.
        self._engine.backward(loss * self.world, scale_wrt_gas=False)

    def step(self) -> float:
        self._engine.step()
        # After a norm that is not finite DeepSpeed updates nothing and reports infinity.
        return float(self._engine.get_global_grad_norm())

    def sum_over_ranks(self, value: float) -> float:
        return self._reduced(value, dist.ReduceOp.SUM)

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

    def _longest(self, length: int) -> int:
        return int(self._reduced(length, dist.ReduceOp.MAX))

    def _reduced(self, value: float, operation: Any) -> float:
        total = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(total, op=operation)
        return float(total)


def _settings(config: RunConfig, stage: int) -> dict[str, Any]:
    """DeepSpeed's own configuration."""
    zero: dict[str, Any] = {
        "stage": stage,
        "reduce_bucket_size": _BUCKET,
        "allgather_bucket_size": _BUCKET,
        "stage3_param_persistence_threshold": _PERSISTENT,
    }
    if config.engine.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu"}
    return {
        # Parts are counted by `backward`; this field is required and decides nothing.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_clipping": config.optim.grad_clip,
        "bf16": {"enabled": config.model.dtype == "bfloat16"},
        "zero_optimization": zero,
        # Both allow torch's AdamW, the one the other engine uses.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


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
