"""What a call found, on the terminal and beside the rubric file: counts, agreement, NDCG."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from opdcliff.contract import Gain
from opdcliff.data import read_grades
from opdcliff.grading.agreement import (
    Resampling,
    Statistic,
    against_stars,
    between,
    named_by,
    ndcg_beside,
)
from opdcliff.grading.rubric import GRADES
from opdcliff.grading.rubric_file import add_to_manifest, read_manifest
from opdcliff.grading.run import Grading
from opdcliff.settings import RunConfig
from opdcliff.storage import write_text_atomic
from opdcliff.terminal import print_table, print_text

_OWN, _OTHER = "this judge", "the other"


def print_grading(found: Grading, config: RunConfig, out: Console, *, write: bool) -> None:
    """Print the tables. write: those of numbers also into the manifest, and beside it as .csv.

    Raises:
        DataError: the file `grade.other` cannot be used.
    """
    known = named_by(found.lists, found.grades)
    counts = Counter(found.grades[one.user, item] for one in known for item in one.items)
    total = max(1, sum(counts.values()))
    frame = pd.DataFrame(
        {
            "grade": GRADES,
            "candidates": [counts[grade] for grade in GRADES],
            "share": [counts[grade] / total for grade in GRADES],
        }
    )
    print_table(out, f"Grades of {len(known)} lists", frame)
    _print_requests(read_manifest(found.file), out)
    agreement, ndcg = _statistics(found, config)
    print_table(
        out, "Agreement; 95% intervals over whole lists, drawn again", _with_intervals(agreement)
    )
    k, view = config.evaluation.ndcg_k, _with_intervals(ndcg).drop(columns="statistic")
    print_table(out, f"NDCG@{k} of rankings under {_judges(ndcg)}", view)
    if write:
        tables = {"agreement": agreement, "ndcg": ndcg}
        add_to_manifest(found.file, {n: t.to_dict("records") for n, t in tables.items()})
        for name, table in tables.items():
            path = found.file.with_name(f"{found.file.stem}.{name}.csv")
            write_text_atomic(path, table.to_csv(index=False))


def print_plan(found: Grading, out: Console) -> None:
    """Print what the first request would say, to the judge and of its answer."""
    first = found.questions[0]
    print_text(out, "The first request:")
    lines = [
        line for message in first.body["messages"] for line in (*message["content"].split("\n"), "")
    ]
    for line in lines:
        plain = "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)
        out.print(f"  | {plain}", markup=False, highlight=False, soft_wrap=True)


def _print_requests(manifest: dict[str, Any], out: Console) -> None:
    try:
        reasons, tokens = manifest["requests"]["by_reason"], manifest["tokens"]
        cost = "not known" if manifest["cost"] is None else f"{manifest['cost']:.4g}"
        rows = [(reason, str(count)) for reason, count in sorted(reasons.items())]
        rows += [
            ("tokens sent", f"{tokens['sent']:,}"),
            ("tokens answered", f"{tokens['answered']:,}"),
        ]
        rows.append(("cost", cost))
    except (LookupError, TypeError):
        # A file of other hands.
        return
    print_table(
        out, "Requests of this rubric, in all calls", pd.DataFrame(rows, columns=["what", "number"])
    )


def _statistics(found: Grading, config: RunConfig) -> tuple[pd.DataFrame, pd.DataFrame]:
    settings = config.grade
    how = Resampling(settings.bootstrap, settings.seed)
    itself = between(found.lists, found.grades, found.again, how)
    parts = [("itself", s) for s in itself]
    parts += [("stars", s) for s in against_stars(found.lists, found.grades, how)]
    judges = {_OWN: found.grades}
    if settings.other is not None:
        judges[_OTHER] = read_grades(Path(settings.other).expanduser())
        both = between(found.lists, found.grades, judges[_OTHER], how)
        parts += [("other judge", s) for s in both]
    gain: Gain = "exp" if config.evaluation.gain == "exp" else "linear"
    k = config.evaluation.ndcg_k
    scores = ndcg_beside(found.lists, judges, how, k=k, gain=gain)
    rows = [
        {"ranking": ranking, "graded by": judge, **_row(s)}
        for ranking, of_judges in scores.items()
        for judge, s in of_judges.items()
    ]
    return pd.DataFrame([{"with": of, **_row(s)} for of, s in parts]), pd.DataFrame(rows)


def _row(statistic: Statistic) -> dict[str, Any]:
    return {
        "statistic": statistic.name,
        "value": statistic.value,
        "low": statistic.low,
        "high": statistic.high,
        "lists": statistic.lists,
    }


def _with_intervals(frame: pd.DataFrame) -> pd.DataFrame:
    view = frame.drop(columns=["low", "high"])
    bounds = zip(frame["value"], frame["low"], frame["high"], strict=True)
    view["value"] = ["-" if pd.isna(v) else f"{v:.4f} [{lo:.4f}, {hi:.4f}]" for v, lo, hi in bounds]
    return view


def _judges(ndcg: pd.DataFrame) -> str:
    count = ndcg["graded by"].nunique()
    return "the grades of two judges" if count > 1 else "the grades of this judge"
