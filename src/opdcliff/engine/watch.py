"""Whether the weights move as far as the optimizer's steps say, or lose them in rounding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

# Elements of a tensor that are looked at, evenly spaced.
SAMPLE = 4096


class StepWatch:
    """Compares the first update of an optimizer with the same in float64, on some of its weights.

    It only reads. An optimizer of a ZeRO engine holds the rank's share, in one step or several.
    moved, meant: lengths of the way, summed over the weights looked at.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.moved = self.meant = 0.0
        self._done = False
        self._before: list[tuple[Tensor, Tensor, Tensor]] = []
        optimizer.register_step_pre_hook(self._look)
        optimizer.register_step_post_hook(self._compare)

    def close(self) -> tuple[float, float]:
        """(moved, meant) of the first update that had something to do; both 0 before."""
        self._done = self.meant > 0.0
        return self.moved, self.meant

    @torch.no_grad()
    def _look(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """Make the coming step in float64, beside the real one."""
        self._before = []
        if self._done:
            return
        groups, state = list[dict[str, Any]](), {}
        for group in optimizer.param_groups:
            twins = []
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                place = _places(parameter)
                twin = nn.Parameter(_wide(parameter, place))
                twin.grad = _wide(parameter.grad, place)
                if parameter in optimizer.state:
                    state[twin] = _held(optimizer.state[parameter], parameter.shape, place)
                twins.append(twin)
                self._before.append((parameter, twin.detach().clone(), twin))
            if twins:
                groups.append({**group, "params": twins, "fused": False, "foreach": False})
        if groups:
            make: Any = type(optimizer)
            exact = make(groups)
            exact.state.update(state)
            exact.step()

    @torch.no_grad()
    def _compare(self, *_: Any) -> None:
        for parameter, before, twin in self._before:
            self.moved += float((_wide(parameter, _places(parameter)) - before).abs().sum())
            self.meant += float((twin - before).abs().sum())
        self._before = []


def _places(parameter: Tensor) -> Tensor:
    step = max(1, parameter.numel() // SAMPLE)
    return torch.arange(0, parameter.numel(), step, device=parameter.device)


def _wide(value: Tensor, place: Tensor) -> Tensor:
    return value.detach().flatten()[place].double()


def _held(state: dict[str, Any], shape: torch.Size, place: Tensor) -> dict[str, Tensor]:
    """Copies of what an optimizer holds of a parameter."""
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    return {
        name: _wide(value, place) if value.shape == shape else value.detach().cpu().clone()
        for name, value in tensors.items()
    }
