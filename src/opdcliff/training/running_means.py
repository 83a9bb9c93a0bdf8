"""Means and wall times of a training loop between two evaluations."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from opdcliff.storage import decode_float


def _zeros() -> dict[str, float]:
    return defaultdict(float)


@dataclass
class RunningMeans:
    """Means and times since the last evaluation."""

    sums: dict[str, float] = field(default_factory=_zeros)
    weights: dict[str, float] = field(default_factory=_zeros)
    seconds: dict[str, float] = field(default_factory=_zeros)

    @classmethod
    def of(cls, plain: Mapping[str, Mapping[str, float]]) -> RunningMeans:
        """The meter whose `vars` were `plain`, as written by `encode_floats`."""
        meter = cls()
        for name, values in plain.items():
            getattr(meter, name).update({k: decode_float(v) for k, v in values.items()})
        return meter

    def add(self, name: str, total: float, weight: float) -> None:
        """Add `total` over `weight` items."""
        self.sums[name] += total
        self.weights[name] += weight

    def flush(self) -> dict[str, float]:
        """The means, and the seconds per phase; then start over."""
        metrics = {k: self.sums[k] / self.weights[k] for k in self.sums if self.weights[k]}
        metrics |= {f"time/{k}_s": v for k, v in self.seconds.items()}
        self.sums.clear()
        self.weights.clear()
        self.seconds.clear()
        return metrics


class Timed:
    """Adds the wall time of a block to a phase."""

    def __init__(self, meter: RunningMeans, phase: str) -> None:
        self._meter, self._phase = meter, phase

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._meter.seconds[self._phase] += time.perf_counter() - self._start
