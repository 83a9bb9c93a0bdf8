"""The later parts of a report: calibration, deviations, cells, provenance, how to check."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from opdcliff.records import OPD
from opdcliff.report.drawing.inputs import Inputs, MissingInputError
from opdcliff.report.html_tags import Html, join, prose, table, tag
from opdcliff.report.inputs import ReportInputs
from opdcliff.report.marks import strip
from opdcliff.storage import decode_float, file_digest
from opdcliff.theory import lambda_star
from opdcliff.verification import TABLE, VERDICTS, LockedArm, number, span

_CELLS = (
    "arm",
    "clip",
    "lambda",
    "of lambda*",
    "parse rate, from 0 to 1",
    "mean",
    "NDCG@1, parsed",
    "collapsed",
    "diverged",
    "parse rate of each seed",
)
_NDCG = "eval/ndcg1_parsed"


def calibration_section(inputs: ReportInputs) -> Html:
    """p, b and lambda* per class and offset as sealed in the lock, with their intervals."""
    rows: list[dict[str, Any]] = inputs.lock.calibration["table"]
    names = [name for name in rows[0] if f"{name}_lo" in rows[0]]
    order = [*("p", "b"), *sorted(set(names) - {"p", "b"}, reverse=True)]
    head = ("class", "offsets", "positions", *(_title(name) for name in order))
    body = [
        [
            f"{row['class']} (binds)" if row["binding"] else row["class"],
            row["offsets"],
            str(row["positions"]),
            *(_with_interval(row, name) for name in order),
        ]
        for row in rows
    ]
    marked = [n for n, row in enumerate(rows) if row["binding"]]
    binding = inputs.lock.calibration["binding"]
    return join(
        [
            tag(
                "p",
                f"Measured on held-out prompts before the lock, and sealed in it. The class that "
                f"binds: {binding['token_class']}, offsets {binding['offsets']}, p = "
                f"{number(binding['p'])}, b = {number(binding['b'])}. Brackets: 95% over prompts.",
            ),
            table(head, body, kind="plain", marked=marked),
            tag("p", _against_quick(inputs), class_="soft"),
        ]
    )


def _title(name: str) -> str:
    return f"lambda*, c = {name.removeprefix('lambda_star_c')}" if "lambda" in name else name


def _with_interval(row: dict[str, Any], name: str) -> str:
    value, low, high = (decode_float(row[f"{name}{end}"]) for end in ("", "_lo", "_hi"))
    return f"{number(value)} {span(low, high)}"


def _against_quick(inputs: ReportInputs) -> Html:
    """Whether the exploratory study of the same data measured the same."""
    data = str(inputs.lock.arms[0].settings["data"]["name"])
    name = f"results/studies/{data}/quick/calibration.csv"
    try:
        bound = Inputs(inputs.paths).study(data, "quick", "opdcliff study protocol=quick").binding()
    except MissingInputError:
        return prose(f"`{name}` is missing, so nothing is set beside it.")
    binding = inputs.lock.calibration["binding"]
    same = all(math.isclose(bound[key], binding[key], rel_tol=1e-5) for key in ("p", "b"))
    where = f"{bound['class']}, offsets {bound['offsets']}"
    return prose(
        f"The quick study (`{name}`, exploratory) has p = {number(bound['p'])}, b = "
        f"{number(bound['b'])} where it binds ({where}): {'' if same else 'not '}as sealed."
    )


def deviation_section(inputs: ReportInputs) -> Html:
    """Every way in which runs are not as locked, and mirrors not as their records."""
    rows = [
        [item["integrity"], item["what"], ", ".join(filter(None, item["runs"])) or "-"]
        for item in inputs.verdicts["deviations"]
    ]
    rows += [["MISMATCH", what, "-"] for what in inputs.verdicts["mismatches"]]
    if not rows:
        return tag("p", "None.")
    return table(("integrity", "what", "runs"), rows, kind="stack")


def cell_section(inputs: ReportInputs) -> Html:
    """Every arm and lambda with the final parse rate of each seed."""
    rows = []
    for arm in sorted(inputs.lock.arms, key=lambda arm: arm.name):
        runs = inputs.cells[inputs.cells.arm == arm.name]
        for lam in sorted(runs.lam.unique()):
            rows.append(_cell_row(inputs, arm, float(lam), runs[runs.lam == lam]))
    return join(
        [
            tag(
                "p",
                prose(
                    "Last evaluation of every run, one row an arm and lambda; all numbers of each "
                    f"run are in `results/locked/{inputs.protocol}/{TABLE}`."
                ),
            ),
            tag(
                "details",
                tag("summary", f"{len(rows)} cells, {len(inputs.cells)} runs"),
                table(_CELLS, rows, kind="plain"),
            ),
        ]
    )


def _cell_row(inputs: ReportInputs, arm: LockedArm, lam: float, runs: pd.DataFrame) -> list[str]:
    rates = [float(rate) for rate in runs.sort_values("seed")["eval/parse_rate"]]
    clip, distilled = arm.settings["clip"], arm.kind == OPD
    binding, strength = inputs.lock.calibration["binding"], clip["strength"]
    star = lambda_star(binding["p"], binding["b"], strength) if strength and distilled else math.nan
    said = ", ".join(f"{rate:.3f}" for rate in rates)
    return [
        arm.name,
        str(clip["name"]) if distilled else "-",
        number(lam) if distilled else "-",
        "-" if math.isnan(star) else f"{lam / star:.4f}",
        strip(rates, f"parse rates {said}"),
        f"{sum(rates) / len(rates):.4f}",
        # A contract that does not rank has none.
        number(float(runs[_NDCG].mean())) if _NDCG in runs else "-",
        str((runs.status == "collapsed").sum()),
        str((runs.status == "diverged").sum()),
        tag("span", said, class_="long"),
    ]


def provenance_section(inputs: ReportInputs) -> Html:
    """What was sealed when, which records and which code; what is not recorded is said."""
    lock, cells, verdicts = inputs.lock, inputs.cells, inputs.verdicts
    folder = inputs.paths.readable.locked_dir(inputs.protocol)
    dirty = "some with" if cells.code_dirty.any() else "none with"
    facts: dict[str, str] = {
        "lock made": f"{lock.created}, at commit {lock.code_commit}, opd-cliff "
        f"{lock.package_version}",
        "seal of the lock": lock.sha256,
        "supersedes": str(lock.supersedes or "nothing"),
        "records": f"{verdicts['runs_sha256']} (hash over identity and checksum of every run)",
        "runs": f"{len(cells)}, begun {cells.start.min()} to {cells.start.max()}",
        "code of the runs": f"commit {', '.join(sorted(set(cells.code_commit)))}; {dirty} "
        "uncommitted changes",
        "models": f"weights {', '.join(sorted(set(cells.models_sha256)))}; the lock has "
        f"{lock.models_sha256}",
        "prompts": lock.prompts_sha256,
        "seeds": f"{', '.join(map(str, lock.seeds))}, derived from the lock",
        TABLE: f"sha256 {file_digest(folder / TABLE)}; as sealed with its runs",
        VERDICTS: f"sha256 {file_digest(folder / VERDICTS)}",
        "sealed code": ", ".join(
            f"{name} {sha[:16]}" for name, sha in sorted(lock.sources.items())
        ),
        "versions, machine": "in the manifest of each run record, which is not committed; the "
        "installation is pinned by constraints.txt",
    }
    pairs = [
        part for key, text in facts.items() for part in (tag("dt", key), tag("dd", prose(text)))
    ]
    return tag("dl", *pairs)


def check_section(inputs: ReportInputs) -> Html:
    """Commands that repeat this from a clone."""
    name = inputs.protocol
    commands = f"""# verdicts again from the committed table (seconds)
opdcliff verify protocol={name} source=table
# this page again: the same bytes from the same files
opdcliff report protocol={name}
cmp runs/results/locked/{name}/report.html results/locked/{name}/report.html
# the lock: one commit, never changed
git log --format='%h %cI %s' -- prereg/{name}
# hashes to compare with "tests" and "sources" in prereg/{name}/lock.json
sha256sum prereg/{name}/*.yaml
(cd prereg/{name}/sealed/opdcliff && sha256sum {" ".join(sorted(inputs.lock.sources))})
# the runs themselves (hours), and their verdicts
opdcliff confirm protocol={name} && opdcliff verify protocol={name}"""
    return join(
        [
            tag(
                "p",
                "This page was written only after its verdicts had been computed again from the "
                "committed table and had come out the same. Hashes find edits; whoever can rewrite "
                "the git history can forge lock, times and runs.",
            ),
            tag("pre", tag("code", commands), tabindex="0"),
        ]
    )
