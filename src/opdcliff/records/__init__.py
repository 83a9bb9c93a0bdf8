"""Run records: the checked truth about what was run, and its mirror in W&B."""

from __future__ import annotations

from opdcliff.records.files import (
    MALFORMED,
    METRICS,
    MIXED_CODE,
    RUN_MANIFEST,
    NewerRecordError,
    read_manifest,
)
from opdcliff.records.identity import OPD, cell_identity
from opdcliff.records.metric_stream import Row, read_stream
from opdcliff.records.record import (
    OUTCOMES,
    PREEMPTED,
    Record,
    is_running,
    read_record,
    read_runs,
    record_folders,
    status_of,
    terminal_status,
)
from opdcliff.records.run_lock import acquire as hold_lock
from opdcliff.records.run_lock import release as let_go_of_lock
from opdcliff.records.tracking import open_tracker
from opdcliff.records.tracking_log import read_offline_run
from opdcliff.records.writer import RunRecord

__all__ = [
    "MALFORMED",
    "METRICS",
    "MIXED_CODE",
    "OPD",
    "OUTCOMES",
    "PREEMPTED",
    "RUN_MANIFEST",
    "NewerRecordError",
    "Record",
    "Row",
    "RunRecord",
    "cell_identity",
    "hold_lock",
    "is_running",
    "let_go_of_lock",
    "open_tracker",
    "read_manifest",
    "read_offline_run",
    "read_record",
    "read_runs",
    "read_stream",
    "record_folders",
    "status_of",
    "terminal_status",
]
