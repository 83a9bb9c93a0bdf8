"""The least time that the phases of an update take here: operations and bytes over measured rates.

What is counted, and why, is in the text of `roofline.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from made_models import Shape

PHASES = ("decode", "teacher", "base", "update", "step")
# A rate is the best of so many tries: what else runs here can only make it lower.
TRIES = 7
# Tries that are over sooner than this many operations or bytes are made many at a time.
LEAST_OPERATIONS, LEAST_BYTES = 2e8, 2e7
# Smaller copies measure the call and not the memory.
LEAST_COPY = 2**16


@dataclass(frozen=True)
class Load:
    """B, P and T, as `roofline.py` calls them."""

    rows: int
    prompt: int
    answer: int

    @property
    def read(self) -> int:
        """Tokens of a row that a model reads: all but the last."""
        return self.prompt + self.answer - 1


@dataclass(frozen=True)
class Machine:
    """A device at the threads that are set, and what numbers are held in.

    products: operations of a matrix product per second, the best of several sizes.
    copy: bytes that a copy reads and writes per second, where no cache holds them.
    """

    device: torch.device
    dtype: torch.dtype
    products: float
    copy: float

    @property
    def item(self) -> int:
        """Bytes of a number."""
        return self.dtype.itemsize

    def held_rate(self, size: float) -> float:
        """Bytes per second of a copy that touches `size` bytes, again and again.

        What a cache holds is read faster than `copy` says; never slower, whatever disturbs this.
        """
        largest = 2**28
        count = int(min(max(size, LEAST_COPY), largest))
        return max(self.copy, copy_rate(self.device, count // 2))


def waiting(device: torch.device) -> Callable[[], None]:
    """What to call before a clock is read: kernels of a GPU run on when a call returns."""
    return torch.cuda.synchronize if device.type == "cuda" else lambda: None


def seconds_of(action: Callable[[], object], wait: Callable[[], None]) -> float:
    """Wall time of an action."""
    wait()
    start = time.perf_counter()
    action()
    wait()
    return time.perf_counter() - start


def product_rate(
    rows: int, inner: int, columns: int, device: torch.device, dtype: torch.dtype
) -> float:
    """Operations per second of a matrix product, two per weight and row."""
    # Not constants: a GPU is faster on numbers whose bits do not change.
    left = torch.randn(rows, inner, device=device).to(dtype)
    right = torch.randn(inner, columns, device=device).to(dtype)
    operations = 2.0 * rows * inner * columns
    times = max(1, int(LEAST_OPERATIONS / operations))

    def multiply() -> None:
        for _ in range(times):
            left @ right

    multiply()
    wait = waiting(device)
    return times * operations / min(seconds_of(multiply, wait) for _ in range(TRIES))


def copy_rate(device: torch.device, size: int) -> float:
    """Bytes read and written per second when `size` bytes are copied."""
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    times = max(1, int(LEAST_BYTES / size))

    def copy() -> None:
        for _ in range(times):
            target.copy_(source)

    copy()
    wait = waiting(device)
    return times * 2.0 * size / min(seconds_of(copy, wait) for _ in range(TRIES))


def measure(device: torch.device, dtype: torch.dtype, *, tiny: bool = False) -> Machine:
    """The rates of this machine; tiny: for a test, which has no use for true ones."""
    if tiny:
        sides, size = [64], 2**20
    elif device.type == "cuda":
        sides, size = [4096, 8192], 2**30
    else:
        sides, size = [512, 1024, 1536], 2**28
    products = max(product_rate(side, side, side, device, dtype) for side in sides)
    return Machine(device, dtype, products, copy_rate(device, size))


def score_operations(shape: Shape, load: Load) -> float:
    """s: operations of one forward pass over prompts and answers."""
    attention = 4 * shape.layers * shape.heads * shape.head_dim
    per_row = (
        2 * shape.layer_weights * load.read
        + attention * load.read * (load.read + 1) / 2
        + 2 * shape.head_weights * load.answer
    )
    return float(load.rows * per_row)


def cache_bytes(shape: Shape, positions: int, item: int) -> int:
    """Keys and values of so many positions of a row."""
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * item * positions


def decode_bytes(shape: Shape, load: Load, item: int) -> float:
    """Bytes that decoding reads: all weights in every pass, and the cache as far as it goes."""
    weights = load.answer * (shape.layer_weights + shape.head_weights) * item
    # The pass that reads the prompts computes what it attends to.
    cached = sum(load.prompt + t for t in range(1, load.answer))
    return float(weights + load.rows * cache_bytes(shape, cached, item))


def floors(
    student: Shape, teacher: Shape, load: Load, parameters: int, machine: Machine
) -> dict[str, float]:
    """The least seconds of each phase, for a student of so many parameters."""
    own = score_operations(student, load) / machine.products
    weights = (student.layer_weights + student.head_weights) * machine.item
    cache = load.rows * cache_bytes(student, load.prompt + load.answer, machine.item)
    decode = decode_bytes(student, load, machine.item) / machine.held_rate(weights + cache)
    # Weights, gradients and two moments are what a step touches.
    step = machine.held_rate(4.0 * machine.item * parameters)
    return {
        "decode": max(own, decode),
        "teacher": score_operations(teacher, load) / machine.products,
        "base": own,
        "update": 3 * own,
        "step": 7.0 * machine.item * parameters / step,
    }
