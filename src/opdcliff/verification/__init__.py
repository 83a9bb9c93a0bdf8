"""Whether locked predictions held: the lock, the runs, integrity, verdicts."""

from __future__ import annotations

from opdcliff.verification import report
from opdcliff.verification.anchor import find_anchor
from opdcliff.verification.committed import (
    PROVENANCE,
    TRAJECTORIES,
    about_runs,
    check_tables,
    seal_tables,
)
from opdcliff.verification.judging import wanted
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
    PUBLISHED,
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
from opdcliff.verification.report import BRACKETS, BRACKETS_SAY, VERDICTS, as_json
from opdcliff.verification.run_sources import runs_of
from opdcliff.verification.run_views import (
    TABLE,
    final_of,
    read_columns,
    table_of,
    view_of_record,
    write_table,
)
from opdcliff.verification.sealed_code import JUDGE, write_copy
from opdcliff.verification.tables import bracket_table, number, span
from opdcliff.verification.verdicts import METRIC_VERSIONS, PARSE_RATE, CellValue, Outcome
from opdcliff.verification.verification import Integrity, verify, verify_runs

__all__ = [
    "BRACKETS",
    "BRACKETS_SAY",
    "FORMAT",
    "JUDGE",
    "LOCK_FILE",
    "METRIC_VERSIONS",
    "PARSE_RATE",
    "PROVENANCE",
    "PUBLISHED",
    "TABLE",
    "TRAJECTORIES",
    "VERDICTS",
    "CellRef",
    "CellValue",
    "ContrastEstimator",
    "Design",
    "Integrity",
    "Lock",
    "LockedArm",
    "LockedTest",
    "Metric",
    "OnsetEstimator",
    "Outcome",
    "Window",
    "about_runs",
    "as_json",
    "bracket_table",
    "check_tables",
    "final_of",
    "find_anchor",
    "lock_text",
    "number",
    "read_columns",
    "read_lock",
    "read_test",
    "report",
    "runs_of",
    "seal_of",
    "seal_tables",
    "seeds_of",
    "span",
    "table_of",
    "verify",
    "verify_runs",
    "view_of_record",
    "wanted",
    "write_copy",
    "write_table",
    "write_test",
]
