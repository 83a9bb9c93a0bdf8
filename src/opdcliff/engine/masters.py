"""Float32 copies of narrow weights, for the engine that is plain torch; ZeRO has its own.

A bfloat16 weight has eight bits of digits: a step of less than about 1/400 of it is rounded away,
and at the step sizes of large models nearly all are. So the optimizer works on float32 copies, the
masters, and the forward pass on what they are in the model's dtype. float32 and wider weights are
their own masters, and nothing is copied.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from opdcliff.engine.state import PARAMETER, Named


class Masters:
    """The masters of trained parameters.

    named: what the optimizer works on, under the names of the parameters. Gradients are handed over
    to it, and summed over the parts of an update, in float32.
    """

    def __init__(self, named: Named) -> None:
        self.named: Named = []
        self._narrow: list[tuple[str, nn.Parameter, nn.Parameter]] = []
        for name, parameter in named:
            wide = torch.promote_types(parameter.dtype, torch.float32)
            master = parameter
            if parameter.dtype != wide:
                master = nn.Parameter(parameter.detach().to(wide))
                self._narrow.append((name, parameter, master))
                # At once, so that no more than one gradient is there twice.
                hook = partial(_hand_over, master)
                parameter.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]
            self.named.append((name, master))

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What the optimizer works on."""
        return [master for _, master in self.named]

    @torch.no_grad()
    def spread(self) -> None:
        """Write the masters into the model."""
        for _, parameter, master in self._narrow:
            parameter.copy_(master)

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Set the masters to the parameters of a saved state: the model cannot hold its digits."""
        for name, _, master in self._narrow:
            master.copy_(state[f"{PARAMETER}/{name}"])
        self.spread()


def _hand_over(master: nn.Parameter, parameter: Tensor) -> None:
    assert parameter.grad is not None
    gradient = parameter.grad.to(master.dtype)
    master.grad = gradient if master.grad is None else master.grad.add_(gradient)
    parameter.grad = None
