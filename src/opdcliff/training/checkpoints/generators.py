"""States of a process's random generators as tensors, for checkpoints without pickles.

The loop draws from generators of its own, seeded by run, stream and prompt, and from none of
these. Model code may (dropout), and then a resumed run has to go on as an uninterrupted one.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


def generator_state() -> dict[str, Tensor]:
    """States of Python's, numpy's and torch's generators, and of the GPU's if there is one."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    state = {
        "python": _encoded(random.getstate()),
        "numpy": _encoded([str(kind), [int(key) for key in keys], *rest]),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_generator_state(state: Mapping[str, Tensor]) -> None:
    """Inverse of `generator_state`; what is absent (another machine's GPU) is left as it is."""
    if "python" in state:
        version, words, gauss = _decoded(state["python"])
        random.setstate((version, tuple(words), gauss))
    if "numpy" in state:
        kind, keys, *rest = _decoded(state["numpy"])
        np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    if "torch" in state:
        torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def _encoded(value: Any) -> Tensor:
    return torch.frombuffer(bytearray(json.dumps(value), "ascii"), dtype=torch.uint8)


def _decoded(tensor: Tensor) -> Any:
    return json.loads(bytes(tensor.tolist()))
