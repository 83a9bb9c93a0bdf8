"""Processes beside this one: workers, ranks, and a wish to stop that is answered by saving."""

from __future__ import annotations

from opdcliff.processes import preemption
from opdcliff.processes.collector import spare_imports
from opdcliff.processes.forked_ranks import ForkedRanks
from opdcliff.processes.preemption import ADVICE, deferred, listening, requested, stop_if_requested
from opdcliff.processes.rank_events import decode
from opdcliff.processes.workers import (
    Channel,
    begin_loading,
    open_channel,
    process_ids,
    tell,
    worker_pool,
)

__all__ = [
    "ADVICE",
    "Channel",
    "ForkedRanks",
    "begin_loading",
    "decode",
    "deferred",
    "listening",
    "open_channel",
    "preemption",
    "process_ids",
    "requested",
    "spare_imports",
    "stop_if_requested",
    "tell",
    "worker_pool",
]
