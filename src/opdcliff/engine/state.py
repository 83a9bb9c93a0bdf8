"""The state of student and optimizer as whole tensors by name, whatever holds them.

A ZeRO engine splits both over its ranks. Saved whole, a run may go on with another number of ranks
or another ZeRO stage. Keys: `parameter/NAME`, `exp_avg/NAME`, `exp_avg_sq/NAME` and `step`.
Parameters are those the optimizer works on: the float32 copies of bfloat16 ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from opdcliff.errors import EngineError

PARAMETER, STEP = "parameter", "step"
MOMENTS = ("exp_avg", "exp_avg_sq")

State = dict[str, Tensor]
# Names and parameters of the student, in a fixed order.
Named = list[tuple[str, nn.Parameter]]


def trained(student: nn.Module) -> Named:
    """What is trained of a student, and hence its state: all of it, or the adapter on it."""
    return [(name, p) for name, p in student.named_parameters() if p.requires_grad]


def read_plain(named: Named, optimizer: torch.optim.Optimizer) -> State:
    """State of parameters that the optimizer holds whole."""
    state: State = {}
    for name, parameter in named:
        state[f"{PARAMETER}/{name}"] = _copied(parameter)
        moments = optimizer.state.get(parameter, {})
        for moment in MOMENTS:
            if moment in moments:
                state[f"{moment}/{name}"] = _copied(moments[moment])
    return state | _step_of(optimizer)


@torch.no_grad()
def load_parameters(named: Named, state: Mapping[str, Tensor]) -> None:
    """Set what is trained of a student, before an engine takes it over."""
    for name, parameter in named:
        parameter.copy_(state[f"{PARAMETER}/{name}"])


def write_plain(
    named: Named, optimizer: torch.optim.Optimizer, state: Mapping[str, Tensor]
) -> None:
    """Inverse of `read_plain` but for the parameters, see `load_parameters`."""
    if STEP not in state:
        return
    for name, parameter in named:
        moments = {m: state[f"{m}/{name}"].to(parameter, copy=True) for m in MOMENTS}
        optimizer.state[parameter] = {STEP: state[STEP].clone(), **moments}


def read_zero(named: Named, zero: Any, *, keep: bool) -> State:
    """State of parameters that DeepSpeed's optimizer `zero` splits; whole where `keep` is set.

    Collective: every rank takes part, parameter by parameter, so that no more than one is whole
    beside what is kept.
    """
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    state: State = {}
    step = _step_of(zero.optimizer)
    for name, parameter in named:
        parts = {PARAMETER: safe_get_full_fp32_param(parameter)}
        if step:
            parts |= {m: safe_get_full_optimizer_state(parameter, m) for m in MOMENTS}
        if keep:
            shape = parameter.ds_shape if hasattr(parameter, "ds_shape") else parameter.shape
            state |= {f"{kind}/{name}": _copied(part).view(shape) for kind, part in parts.items()}
    return state | step if keep else {}


@torch.no_grad()
def write_zero(named: Named, zero: Any, state: Mapping[str, Tensor]) -> None:
    """Inverse of `read_zero`, after `load_parameters`: sets the float32 copies and the moments.

    Every rank passes the whole state and takes its part of it.
    """
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

    if STEP in state:
        _make_moments(zero, state[STEP])
    for name, parameter in named:
        safe_set_full_fp32_param(parameter, _onto(state[f"{PARAMETER}/{name}"], zero))
        if STEP in state:
            for moment in MOMENTS:
                value = _onto(state[f"{moment}/{name}"], zero)
                safe_set_full_optimizer_state(parameter, value, moment)


def splits(named: Named) -> bool:
    """Whether DeepSpeed's optimizer holds the parameters in parts."""
    return any(
        hasattr(parameter, "_hp_mapping") or hasattr(parameter, "ds_id") for _, parameter in named
    )


def _make_moments(zero: Any, step: Tensor) -> None:
    """Zeros where the first update would make them, so that there is something to write to."""
    for flat in _flat_parts(zero):
        zero.optimizer.state[flat] = {
            STEP: step.clone(),
            **{moment: torch.zeros_like(flat) for moment in MOMENTS},
        }
    link: Callable[[], None] | None = getattr(zero, "_lazy_init_hp_params_optimizer_state", None)
    if link is not None:
        link()


def _flat_parts(zero: Any) -> list[Tensor]:
    """What this rank's optimizer works on, under the name that each of DeepSpeed's has for it."""
    names = ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups")
    for name in (*names, "fp32_groups_flat_partition"):
        if hasattr(zero, name):
            parts: list[Tensor] = getattr(zero, name)
            return parts
    raise EngineError(
        "checkpoints do not know this optimizer of DeepSpeed; set checkpoint.every=0, or install "
        "the version in constraints.txt"
    )


def _step_of(optimizer: torch.optim.Optimizer) -> State:
    steps: Iterator[Tensor] = (held[STEP] for held in optimizer.state.values() if STEP in held)
    first = next(steps, None)
    return {} if first is None else {STEP: _copied(first)}


def _copied(value: Tensor) -> Tensor:
    return value.detach().to("cpu", copy=True).contiguous()


def _onto(value: Tensor, zero: Any) -> Tensor:
    return value.to(getattr(zero, "device", "cpu"))
