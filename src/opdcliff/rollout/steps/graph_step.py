"""A decoding step captured as a CUDA graph and replayed: the library's operations in one launch.

A step of a large model launches hundreds of kernels, each longer in Python than on the card. A
replay launches all of them at once. A graph reads and writes the memory that it was captured with,
so it serves as long as the caches are the same tensors: it is captured anew when rows are dropped
or the cache has grown, and nothing of it outlives the rollout, whose memory the passes need.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import PreTrainedModel

from opdcliff.rollout.steps.decode_step import (
    StepInputs,
    plain_step,
    run_checked,
    weights_of,
)

# Replays what a call did, into the tensors that the call returned.
Replay = Callable[[], None]
Capture = Callable[[Callable[[], list[Tensor]]], tuple[Replay, list[Tensor]]]

# What changes from step to step while the caches stay.
_MOVING = ("at", "token_R1", "uniform_R1", "ended_R1")
# Replays of a kind of models that were held against their own operations in this process. A second
# one, since the first reads what it was captured with.
_checked: Counter[str] = Counter()
_TO_CHECK = 2


def kind_of(model: PreTrainedModel) -> str:
    """What models have in common whose steps launch the same."""
    attention = model.config._attn_implementation
    return f"{type(model).__name__} {model.num_parameters()} {model.dtype} {attention}"


def cuda_capture(action: Callable[[], list[Tensor]]) -> tuple[Replay, list[Tensor]]:
    """Capture what `action` launches on the current device; it is not run."""
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    try:
        # Only what this thread does is looked at: others ask for the state of their collectives.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            outputs = action()
    finally:
        # A capture that fails leaves the process on its own stream.
        torch.cuda.set_stream(stream)
    return graph.replay, outputs


class GraphStep:
    """The `Step` of a model for one rollout; what it returns lasts until the next call.

    The first step over new caches runs as it is, which warms kernels up; the second is captured.
    The first two replays of a kind of models are held against their own operations (StepError if
    they differ).
    """

    def __init__(self, model: PreTrainedModel, capture: Capture = cuda_capture) -> None:
        self._plain, self._capture = plain_step(model), capture
        self._kind = kind_of(model)
        self._weights = len(weights_of(model))
        self._caches: Tensor | None = None
        self._inputs: StepInputs | None = None
        self._replay: Replay | None = None
        self._outputs: list[Tensor] = []

    def __call__(self, flat: list[Tensor]) -> list[Tensor]:
        """See `StepInputs`, whose keys and values are written in place."""
        given = StepInputs.of(flat, self._weights)
        if given.keys_RHKD[0] is not self._caches:
            # The graph goes first: it holds memory that the next one needs.
            self._replay, self._inputs, self._outputs = None, None, []
            self._caches = given.keys_RHKD[0]
            return self._plain(flat)
        if self._replay is None:
            self._begin(given)
        if _checked[self._kind] < _TO_CHECK:
            found = run_checked(lambda _: self._step(given), self._plain, given)
            _checked[self._kind] += 1
            return found
        return self._step(given)

    def _begin(self, given: StepInputs) -> None:
        """Capture a step that reads from tensors of its own what changes."""
        moving = {name: getattr(given, name).clone() for name in _MOVING}
        self._inputs = given._replace(**moving)
        flat = self._inputs.flat()
        self._replay, self._outputs = self._capture(lambda: self._plain(flat))

    def _step(self, given: StepInputs) -> list[Tensor]:
        assert self._inputs is not None, "a graph has been captured"
        assert self._replay is not None, "a graph has been captured"
        for name in _MOVING:
            getattr(self._inputs, name).copy_(getattr(given, name))
        self._replay()
        return self._outputs
