"""Whether locked predictions held: the lock, the runs, integrity, verdicts."""

from __future__ import annotations

from opdcliff.verification import report
from opdcliff.verification.anchor import find_anchor
from opdcliff.verification.lock import (
    FORMAT,
    LOCK_FILE,
    Lock,
    LockedArm,
    lock_text,
    read_lock,
    seal_of,
    seeds_of,
)
from opdcliff.verification.locked_test import (
    CellRef,
    ContrastEstimator,
    Design,
    LockedTest,
    Metric,
    OnsetEstimator,
    Window,
    read_test,
    write_test,
)
from opdcliff.verification.report import VERDICTS, as_json
from opdcliff.verification.run_sources import read_runs
from opdcliff.verification.run_views import TABLE, RunView, table_of, view_of_record, write_table
from opdcliff.verification.sealed_code import JUDGE, write_copy
from opdcliff.verification.tables import number, span
from opdcliff.verification.verdicts import METRIC_VERSIONS, Outcome
from opdcliff.verification.verification import Integrity, verify

__all__ = [
    "FORMAT",
    "JUDGE",
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
    "find_anchor",
    "lock_text",
    "number",
    "read_lock",
    "read_runs",
    "read_test",
    "report",
    "seal_of",
    "seeds_of",
    "span",
    "table_of",
    "verify",
    "view_of_record",
    "write_copy",
    "write_table",
    "write_test",
]
