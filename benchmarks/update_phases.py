"""The phases of an update through the functions of the loop, each timed alone."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from made_models import make_splits
from update_floors import PHASES, seconds_of, waiting

from opdcliff.engine.single import SingleEngine
from opdcliff.models import Trio, batch_of_update, sample_answers
from opdcliff.rollout import TRAIN_STREAM, Rollout
from opdcliff.settings import RunConfig
from opdcliff.theory import ClipRule
from opdcliff.training.full_objective import Frozen
from opdcliff.training.parts import parts_of, unchanged
from opdcliff.training.update import Batch, accumulate, score_frozen

LAM = 1.5
GIB = 2**30


class Update:
    """The phases of an update, each to be called alone and in their order."""

    def __init__(self, config: RunConfig, trio: Trio, prompts: Sequence[str]) -> None:
        self.config, self.trio = config, trio
        self.engine = SingleEngine(trio.student.requires_grad_(True), config)
        rows = config.rollout.prompts_per_update
        self.numbered = batch_of_update(make_splits(prompts).train, rows, 0, config.seed)

    def decode(self) -> None:
        """Sample the answers."""
        self.rollout: Rollout = sample_answers(
            self.engine.student,
            self.trio.codec,
            self.numbered,
            self.config.rollout,
            seed=self.config.seed,
            stream=TRAIN_STREAM,
        )

        self.parts = parts_of(self.rollout, self.config.engine.micro_batch, ranks=1)

    def _score(self, model: Any) -> torch.Tensor | Frozen:
        with torch.no_grad():
            return score_frozen(
                model,
                rollout=self.rollout,
                parts=self.parts,
                level=unchanged,
                config=self.config,
            )

    def teacher(self) -> None:
        """Log-probs under the teacher."""
        self.of_teacher = self._score(self.trio.teacher)

    def base(self) -> None:
        """Log-probs under the base."""
        self.of_base = self._score(self.trio.base)

    def update(self) -> None:
        """The gradient of the batch."""
        examples = [example for _, example in self.numbered]
        count = int(self.rollout.mask_BT.sum())
        batch = Batch(
            examples, self.rollout, self.parts, self.of_teacher, self.of_base, None, count
        )
        accumulate(self.config, ClipRule.MASK, LAM, batch, self.engine)

    def step(self) -> None:
        """The optimizer's step."""
        self.engine.step()


@dataclass
class Timed:
    """Seconds of each phase in each repeat, those of the first call, and peaks in bytes."""

    seconds: dict[str, list[float]]
    first: dict[str, float]
    peak: dict[str, int]

    def median(self, phase: str) -> float:
        """Median seconds; of the first call where there was no other."""
        return statistics.median(self.seconds[phase] or [self.first[phase]])


def time_phases(update: Update, repeats: int, until: float) -> Timed:
    """Time whole updates phase by phase; after the first, which warms up, none begins that would
    end after `until` on the clock of `time.monotonic`."""
    device = update.engine.device
    wait, cuda = waiting(device), device.type == "cuda"
    timed = Timed({phase: [] for phase in PHASES}, {}, {})
    whole = 0.0
    for number in range(repeats + 1):
        if number and time.monotonic() + whole > until:
            break
        began = time.monotonic()
        for phase in PHASES:
            if cuda:
                torch.cuda.reset_peak_memory_stats()
            seconds = seconds_of(getattr(update, phase), wait)
            if number:
                timed.seconds[phase].append(seconds)
            else:
                timed.first[phase] = seconds
            if cuda:
                peak = torch.cuda.max_memory_allocated()
                timed.peak[phase] = max(peak, timed.peak.get(phase, 0))
        whole = time.monotonic() - began
    return timed


def show_operators(update: Update, most: int = 4) -> None:
    """Print what share of each phase its costliest operators take; one more update, profiled.

    Of time on the device where there is one. What a compiled step does inside is seen by no name.
    """
    device = update.engine.device
    wait, seen = waiting(device), [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        seen.append(torch.profiler.ProfilerActivity.CUDA)
    print("shares of a phase by operator")
    for phase in PHASES:
        with torch.profiler.profile(activities=seen) as profiled:
            seconds = seconds_of(getattr(update, phase), wait)
        own = {
            each.key: each.self_device_time_total
            if device.type == "cuda"
            else each.self_cpu_time_total
            for each in profiled.key_averages()
        }
        costliest = sorted(own, key=lambda name: -own[name])[:most]
        shares = [f"{name} {own[name] / 1e6 / seconds:.0%}" for name in costliest]
        print(f"{phase:<9}{', '.join(shares)}", flush=True)


def show(title: str, timed: Timed, floor: dict[str, float], answer_tokens: int) -> None:
    """The table of one cell."""
    print(f"\n{title}")
    print(
        f"{'':<9}{'seconds':>10}{'floor':>10}{'over floor':>12}{'first call':>12}{'peak GiB':>10}"
    )
    for phase in PHASES:
        peak = f"{timed.peak[phase] / GIB:10.2f}" if phase in timed.peak else f"{'-':>10}"
        now = timed.median(phase)
        print(
            f"{phase:<9}{now:10.4f}{floor[phase]:10.4f}{now / floor[phase]:12.2f}"
            f"{timed.first[phase]:12.4f}{peak}"
        )
    whole, least = sum(map(timed.median, PHASES)), sum(floor.values())
    print(
        f"{'all':<9}{whole:10.4f}{least:10.4f}{whole / least:12.2f}"
        f"   {whole / answer_tokens * 1e6:.1f} us per answer token",
        flush=True,
    )
