"""Events of ranks among what other code prints."""

from __future__ import annotations

from opdcliff.processes.rank_events import MARK, decode, encode


def test_events_are_told_from_what_else_is_printed() -> None:
    report = encode("report", update=1, metrics={"a": 0.5}).decode()
    lines = [
        "[INFO] launching\n",
        report,
        f"worker-1: {report}",
        f"a line without end{report}",
        "{}\n",
        f"{MARK}torn {report}",
        report[:-5],
    ]
    other: list[str] = []
    events = list(decode(lines, other.append))
    assert events == [{"event": "report", "update": 1, "metrics": {"a": 0.5}}] * 3
    assert other == [lines[0], "a line without end\n", *lines[4:]]
