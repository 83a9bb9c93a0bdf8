"""A stand-in for CUDA graphs: what was captured is replayed as it was, on the same memory."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from opdcliff.rollout.steps.graph_step import Replay


def traced(action: Callable[[], list[Tensor]]) -> tuple[Replay, list[Tensor]]:
    """As `graph_step.cuda_capture`: operations by their memory, with Python's part of them fixed.

    Tracing runs what it traces, which a capture does not; a step that runs twice writes the same.
    """
    graph = make_fx(action)()
    outputs = [each.clone() for each in graph()]

    def replay() -> None:
        for kept, new in zip(outputs, graph(), strict=True):
            kept.copy_(new)

    return replay, outputs
