"""How long a study will take on this machine: a small fixed workload, times what was counted.

The workload is what a run does, decoding and passes forward and backward, on the configured student
with random weights, in as many processes side by side as the study will use. So slower cores, other
kernels and neighbours that share the machine are in the number, and a larger student is, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from opdcliff.models import build, pick_device
from opdcliff.processes import open_channel, worker_pool
from opdcliff.settings import ArchConfig, ProtocolArm, RunConfig

# One unit: a batch of this many answers of this many tokens is sampled, and trained on once.
_ANSWERS, _TOKENS, _VOCABULARY = 16, 48, 343
_REPEATS = 3
# Seconds of a unit on each of two workers, on two idle cores (AMD EPYC, Zen 5) [M].
UNIT_S = 0.0645
# Units per update of a run, per step of fine-tuning, and of compiling the decoding step [M]: on
# two slow cores, where a unit took .1455 s, the 6,200 updates of the quick study took 462 s on two
# workers, the 900 steps of the teacher, with the student's beside them, 110 s. Without a compiler
# updates take about twice as long.
UPDATE_UNITS = 2 * 462 / 6200 / 0.1455
FINE_TUNING_UNITS = 110 / 900 / 0.1455
COMPILING_UNITS = 32 / 0.1455
# Loading libraries in fresh processes, calibration, references and tables.
_REST_S = 20.0
# Below this, by the counts above, nothing is measured: that would take as long as the study.
_WORTH_S = 120.0


class _Vocabulary:
    """What a model needs of a tokenizer."""

    eos_token_id, pad_token_id = 1, 0

    def __len__(self) -> int:
        return _VOCABULARY


def announcement(config: RunConfig, updates: int, *, fine_tuning: bool) -> str | None:
    """How long a study will take here, or None where that cannot be said or is not worth it.

    updates: of all cells that have to run. fine_tuning: whether teacher and warm start have to be
    trained first. Models that are loaded, and devices other than the CPU, are not measured.
    """
    steps = max(config.sft.teacher.steps, config.sft.student.steps) if fine_tuning else 0
    workers = config.protocol.workers
    if config.model.arch is None or pick_device(config.engine).type != "cpu":
        return None
    if seconds(updates, steps, workers, UNIT_S) < _WORTH_S:
        return None
    unit = measured_unit(config.model.arch, config.engine.threads, workers)
    minutes = max(1, round(seconds(updates, steps, workers, unit) / 60))
    plural = "" if minutes == 1 else "s"
    return f"about {minutes} minute{plural} here, by a measurement of this machine just now"


def planned_updates(config: RunConfig) -> int:
    """Updates of all cells of the study's arms, or of as many as bisection asks for at most."""
    return sum(
        _runs(arm, bisect=config.protocol.bisect) * (arm.updates or config.optim.updates)
        for arm in config.protocol.arms
    )


def _runs(arm: ProtocolArm, *, bisect: bool) -> int:
    lambdas = len(arm.multiples)
    # floor(log2 n) + 1 halvings find the cell of n lambdas.
    return len(arm.seeds) * (lambdas.bit_length() if bisect else lambdas)


def seconds(updates: int, steps: int, workers: int, unit: float) -> float:
    """Wall time of `updates` over all cells, after `steps` of fine-tuning two models side by side.

    Models that have to be fine-tuned have no compiled decoding step yet.

    unit: seconds that the workload takes with `workers` of it side by side.
    """
    compiling = COMPILING_UNITS if steps else 0.0
    trained = UPDATE_UNITS * updates / workers + FINE_TUNING_UNITS * steps
    return unit * (trained + compiling) + _REST_S


def measured_unit(arch: ArchConfig, threads: int, workers: int) -> float:
    """Wall seconds of one unit on this machine, with `workers` processes at it side by side."""
    with worker_pool(workers, open_channel()) as pool:
        jobs = [pool.submit(work, arch, threads) for _ in range(workers)]
        return sum(job.result() for job in jobs) / workers


def work(arch: ArchConfig, threads: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of one unit by `clock`, after one to warm up."""
    torch.set_num_threads(threads)
    model: Any = build(arch, _Vocabulary(), seed=0)
    prompt_BP = torch.full((_ANSWERS, 40), 2)
    started = 0.0
    for number in range(_REPEATS + 1):
        if number == 1:
            started = clock()
        with torch.no_grad():
            ids_BL = model.generate(
                prompt_BP,
                attention_mask=torch.ones_like(prompt_BP),
                do_sample=False,
                min_new_tokens=_TOKENS,
                max_new_tokens=_TOKENS,
            )
        model(ids_BL, labels=ids_BL).loss.backward()
        model.zero_grad()
    return (clock() - started) / _REPEATS
