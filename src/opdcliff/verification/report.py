"""What a verification says: verdicts.json, report.md, cells.csv, and tables on the terminal."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from opdcliff.errors import InadmissibleError
from opdcliff.storage import digest, encode_floats, in_words, write_json_atomic, write_text_atomic
from opdcliff.terminal import print_table, print_text
from opdcliff.verification.committed import about_runs, seal_tables
from opdcliff.verification.lock import Lock
from opdcliff.verification.locked_test import LockedTest
from opdcliff.verification.run_views import TABLE, table_of, write_table
from opdcliff.verification.tables import (
    bracket_table,
    cell_means,
    deviation_table,
    exploratory_onsets,
    number,
    published_table,
    span,
    verdict_table,
)
from opdcliff.verification.verdicts import JUDGED, Verdict
from opdcliff.verification.verification import Integrity, Verification, counted

VERDICTS, REPORT = "verdicts.json", "report.md"
BRACKETS = "The onset from its grid cells alone"
BRACKETS_SAY = (
    "Not part of the lock, hence no verdicts: the interval of the mean onset if each seed is known "
    "to its grid cell only (docs/theory.md, point 19). It covers where the t interval is too short."
)
_PUBLISHED = "Published numbers beside these"
_PUBLISHED_SAYS = (
    "Compared, not registered again: the bounds are those of the tests' provenance, and decide "
    "nothing here."
)


# What the numbers of the table are, by whether cells alone decide.
_READING = {
    False: "`p` is that of the mean lying outside the window, by t tests, Holm-corrected over T1 "
    "to T3. An onset is read off a grid: where all seeds fall in one grid cell the interval has no "
    "width, and nothing finer than that cell is claimed.",
    True: "Onsets are decided by the grid cells of the seeds alone, found by bisection: the "
    "interval is that of docs/theory.md, point 19, `p` that of the mean lying outside the window, "
    "Holm-corrected over the tests of windows. Nothing finer than a cell is claimed; a seed's "
    "number is the middle of its cell.",
}


def print_verification(found: Verification, console: Console) -> None:
    """Print verdicts, deviations and exploratory onsets."""
    print_text(console, _headline(found))
    if found.verdicts:
        print_table(console, "Verdicts", verdict_table(found))
        read = bracket_table(found)
        if not read.empty:
            print_table(console, f"{BRACKETS} (no verdicts)", read)
        beside = published_table(found)
        if not beside.empty:
            print_table(console, f"{_PUBLISHED} (no verdicts)", beside)
    for line in found.otherwise_today:
        print_text(console, line)
    if found.deviations or found.mismatches:
        print_table(console, "Deviations", deviation_table(found))
    exploratory = exploratory_onsets(found)
    if not exploratory.empty:
        title = "Exploratory: onsets of arms without a test (estimates, no verdicts)"
        print_table(console, title, exploratory)


def write_verification(found: Verification, folder: Path) -> str:
    """Write the results unless that would lose something; returns a line on what was done.

    A tampered lock or record gives no results to write, and results of the same lock that rest on
    more cells are kept.
    """
    if found.integrity is Integrity.TAMPERED:
        return "tampered: nothing was written"
    if found.source == "table":
        return f"recomputed from {folder / TABLE}: nothing was written"
    old = _cells_of(folder / VERDICTS, found)
    if old > len(found.cells):
        return (
            f"{folder} holds verdicts on {old} cells of the same lock and this is on "
            f"{len(found.cells)}: nothing was overwritten"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_table(folder, table_of(found.views, found.arms))
    write_json_atomic(folder / VERDICTS, as_json(found))
    write_text_atomic(folder / REPORT, as_markdown(found))
    seal_tables(folder, about_runs(found.protocol, found.views, found.lock))
    return f"written to {folder}"


def as_json(found: Verification) -> dict[str, Any]:
    """The verification as plain values; the same runs give the same bytes."""
    assert found.lock is not None, "without a lock nothing is written"
    streams = sorted([view.identity, view.stream_sha256] for view in found.views)
    content = {
        "format": 1,
        "protocol": found.protocol,
        "lock_sha256": found.lock.sha256,
        "lock_created": found.lock.created,
        "integrity": found.integrity.value,
        "exit_code": found.exit_code,
        "cells": len(found.cells),
        "cells_locked": found.count,
        "runs_sha256": digest(streams, "verified-runs"),
        "tests": {verdict.id: _verdict(verdict) for verdict in found.verdicts},
        "exploratory": exploratory_onsets(found).to_dict("records"),
        "deviations": [
            {"integrity": integrity.value, "what": what, "runs": runs}
            for (integrity, what), runs in counted(found.deviations).items()
        ],
        "mismatches": found.mismatches,
    }
    plain: dict[str, Any] = encode_floats(content)
    return plain


def as_markdown(found: Verification) -> str:
    """The report for the terminal and for git."""
    assert found.lock is not None, "without a lock nothing is written"
    lock = found.lock
    lines = [
        f"# Verdicts of the protocol `{found.protocol}`",
        "",
        f"{_headline(found)}. Written by `opdcliff verify protocol={found.protocol}`; do not edit.",
        "",
        f"- Lock: made {lock.created} at commit `{lock.code_commit[:12]}`, seal "
        f"`{lock.sha256[:16]}`; {len(found.cells)} of {found.count} locked cells have an "
        f"outcome; metrics from source `{found.source}`.",
        f"- Seeds, derived from the lock: {', '.join(map(str, lock.seeds))}.",
        f"- Calibration: {_binding(lock)}",
        "",
        "## Verdicts",
        "",
        *_markdown_table(verdict_table(found)),
        "",
        _READING[found.by_brackets],
        "",
        *(f"- {line}." for line in found.otherwise_today),
        "## Test by test",
        "",
    ]
    for test, verdict in zip(found.tests, found.verdicts, strict=True):
        lines += _test_section(test, verdict)
    read = bracket_table(found)
    if not read.empty:
        lines += [f"## {BRACKETS}", "", BRACKETS_SAY, "", *_markdown_table(read), ""]
    beside = published_table(found)
    if not beside.empty:
        lines += [f"## {_PUBLISHED}", "", _PUBLISHED_SAYS, "", *_markdown_table(beside), ""]
    exploratory = exploratory_onsets(found)
    lines += ["## Exploratory", "", "Estimates without a locked prediction, hence no verdicts.", ""]
    lines += _markdown_table(exploratory) if not exploratory.empty else ["None."]
    lines += ["", "## Deviations", ""]
    deviations = deviation_table(found)
    lines += _markdown_table(deviations) if not deviations.empty else ["None."]
    lines += ["", "## Cells", "", *_markdown_table(cell_means(found)), ""]
    return "\n".join(lines)


def _test_section(test: LockedTest, verdict: Verdict) -> list[str]:
    lines = [
        f"### {test.id}: {verdict.outcome.value}",
        "",
        f"{test.claim} ({test.source})",
        "",
        f"- Hypothesis: {test.hypothesis}. Refuted if: {test.refutes}.",
        f"- Window {span(*verdict.window)}: {test.window.derivation}.",
        f"- {verdict.reason[:1].upper()}{verdict.reason[1:]}.",
    ]
    if verdict.points:
        points = ", ".join(number(point) for point in verdict.points)
        known = not math.isnan(verdict.bootstrap[0])
        beside = f", seed bootstrap {span(*verdict.bootstrap)}" if known else ""
        lines.append(
            f"- Mean {number(verdict.mean)}, interval {span(verdict.low, verdict.high)}{beside}; "
            "the mean alone is "
            f"{'inside' if verdict.point_inside else 'outside'} the window. Seeds: {points}."
        )
    if verdict.widths:
        widths = ", ".join(number(width) for width in verdict.widths)
        lines.append(
            f"- Crossings in the grid cells {span(*verdict.bracket)}; lambda over which the parse "
            f"rate falls from .75 to .25, per seed: {widths}."
        )
    return [*lines, ""]


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        "outcome": verdict.outcome.value,
        "reason": verdict.reason,
        "window": list(verdict.window),
        "points": list(verdict.points),
        "mean": verdict.mean,
        "interval": [verdict.low, verdict.high],
        "bootstrap": list(verdict.bootstrap),
        "p": verdict.p,
        "p_holm": verdict.p_holm,
        "bracket": list(verdict.bracket),
        "widths": list(verdict.widths),
        "point_inside": verdict.point_inside,
    }


def _headline(found: Verification) -> str:
    counts: dict[str, int] = {}
    for verdict in found.verdicts:
        counts[verdict.outcome.value] = counts.get(verdict.outcome.value, 0) + 1
    said = ", ".join(f"{count} {name}" for name, count in counts.items())
    outcome = said or "no outcome is shown"
    return f"{found.protocol}: integrity {found.integrity.value}; {outcome}"


def _binding(lock: Lock) -> str:
    binding: Mapping[str, Any] = lock.calibration["binding"]
    return (
        f"class {binding['token_class']}, offsets {binding['offsets']}: p = {binding['p']:.4f}, "
        f"b = {binding['b']:.4f}."
    )


def _cells_of(path: Path, found: Verification) -> int:
    """Cells that earlier verdicts of the same lock rest on, 0 if there are none."""
    try:
        old = json.loads(path.read_text(encoding="utf-8"))
        same = found.lock is not None and old["lock_sha256"] == found.lock.sha256
        judged = any(test["outcome"] in JUDGED for test in old["tests"].values())
        return int(old["cells"]) if same and judged else 0
    except FileNotFoundError:
        return 0
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InadmissibleError(
            f"{path} is no verdict file ({in_words(error)}); move it away and run again"
        ) from error


def _markdown_table(frame: pd.DataFrame) -> list[str]:
    if frame.empty:
        return ["None."]
    rows = [[_cell(value) for value in row] for row in frame.itertuples(index=False)]
    head = "| " + " | ".join(map(str, frame.columns)) + " |"
    rule = "|" + "---|" * len(frame.columns)
    return [head, rule, *("| " + " | ".join(row) + " |" for row in rows)]


def _cell(value: Any) -> str:
    return number(value) if isinstance(value, float) else str(value).replace("|", "/")
