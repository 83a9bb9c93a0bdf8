"""Whether locked predictions held: the lock, the runs, integrity, verdicts."""

from __future__ import annotations

from opdcliff.verification import report
from opdcliff.verification.lock import (
    FORMAT,
    LOCK_FILE,
    CellRef,
    ContrastEstimator,
    Design,
    Lock,
    LockedArm,
    LockedTest,
    Metric,
    OnsetEstimator,
    Window,
    lock_text,
    read_lock,
    read_test,
    seal_of,
    seeds_of,
    source_digests,
    write_test,
)
from opdcliff.verification.report import VERDICTS, as_json
from opdcliff.verification.run_sources import read_runs
from opdcliff.verification.run_views import TABLE, RunView, table_of, view_of_record, write_table
from opdcliff.verification.tables import number, span
from opdcliff.verification.verdicts import METRIC_VERSIONS, Outcome
from opdcliff.verification.verify import Integrity, verify

__all__ = [
    "FORMAT",
    "LOCK_FILE",
    "METRIC_VERSIONS",
    "TABLE",
    "VERDICTS",
    "CellRef",
    "ContrastEstimator",
    "Design",
    "Integrity",
    "Lock",
    "LockedArm",
    "LockedTest",
    "Metric",
    "OnsetEstimator",
    "Outcome",
    "RunView",
    "Window",
    "as_json",
    "lock_text",
    "number",
    "read_lock",
    "read_runs",
    "read_test",
    "report",
    "seal_of",
    "seeds_of",
    "source_digests",
    "span",
    "table_of",
    "verify",
    "view_of_record",
    "write_table",
    "write_test",
]
