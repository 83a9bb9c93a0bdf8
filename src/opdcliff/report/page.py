"""One self-contained page on a locked protocol, from committed results alone.

Same inputs, same bytes: no clock, no machine, no order of a folder enters it. A content security
policy forbids the page to load anything, and it has no script.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from opdcliff.paths import StudyPaths
from opdcliff.report import paper_comparison
from opdcliff.report.figure_section import figure_section
from opdcliff.report.html_tags import Html, join, prose, table, tag
from opdcliff.report.inputs import ReportInputs, read_inputs
from opdcliff.report.style import CSS
from opdcliff.report.tables import (
    calibration_section,
    cell_section,
    check_section,
    deviation_section,
    provenance_section,
)
from opdcliff.report.verdict_section import summary, verdict_section
from opdcliff.storage import write_text_atomic

PAGE, BESIDE = "report.html", "paper_beside_ours.md"
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_PAPER = "https://arxiv.org/abs/2605.08737"


@dataclass(frozen=True)
class Report:
    """Where the page lies, and what differs between its integrity and what git says here."""

    path: Path
    note: str


def make_report(protocol: str, paths: StudyPaths) -> Report:
    """Write report.html beside the protocol's other results.

    Raises:
        InadmissibleError: no verdicts, or not those that the committed table gives.
        TamperedError: lock, sealed code or table do not hold.
    """
    inputs = read_inputs(protocol, paths)
    path = paths.output.locked_dir(protocol) / PAGE
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomic(path, page(inputs))
    told, here = inputs.verdicts["integrity"], inputs.here
    note = f"; from the table and this checkout's git: {here}, the records: {told}"
    return Report(path, note if here is not told else "")


def write_beside(paths: StudyPaths) -> Path | None:
    """Write the table beside one's own results or, to renew it, docs/paper_beside_ours.md.

    Returns None where there is nothing to renew: no folder `docs` beside the results.
    """
    folder = paths.results.parent / "docs" if paths.renew else paths.own.root
    if paths.renew and not folder.is_dir():
        return None
    folder.mkdir(parents=True, exist_ok=True)
    paper_comparison.write_page(paths, folder / BESIDE)
    return folder / BESIDE


def page(inputs: ReportInputs) -> str:
    """The whole page as HTML."""
    name = inputs.protocol
    sections = (
        ("verdicts", "Verdicts", verdict_section(inputs)),
        ("figures", "Figures", figure_section(inputs)),
        ("calibration", "Calibration", calibration_section(inputs)),
        ("deviations", "Deviations", deviation_section(inputs)),
        ("cells", "Cells", cell_section(inputs)),
        ("paper", "Paper beside ours", _beside(inputs)),
        ("provenance", "Provenance", provenance_section(inputs)),
        ("check", "How to check it yourself", check_section(inputs)),
    )
    links = [tag("a", title, href=f"#{key}") for key, title, _ in sections]
    body = [
        tag("h1", f"Verdicts of the locked study {name}"),
        tag(
            "p",
            "Does a student distilled past its teacher stop producing parseable JSON where the "
            "closed form says? Predictions made here about claims of ",
            tag("a", "arXiv 2605.08737", href=_PAPER),
            ", locked before the runs, on data and models of this repository, not of the paper.",
            class_="lead",
        ),
        summary(inputs),
        tag("nav", join(links, " ")),
        *(tag("section", tag("h2", title, id=key), content) for key, title, content in sections),
        tag(
            "footer",
            prose(
                f"Written by `opdcliff report protocol={name}` from `results/locked/{name}/`, "
                f"`prereg/{name}/`, `results/figures/` and the files that the table beside the "
                "paper names; do not edit."
            ),
        ),
    ]
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"Verdicts of {name}"),
        tag("style", Html(CSS)),
    ]
    whole = tag("html", tag("head", *head), "\n", tag("body", join(body, "\n")), lang="en")
    return f"<!doctype html>\n{whole}\n"


def _beside(inputs: ReportInputs) -> Html:
    rows = [[prose(cell) for cell in row] for row in paper_comparison.rendered(inputs.paths)]
    return join(
        [
            tag(
                "p",
                "Every published number that was readable. Tags: [P] the paper or its project "
                "page, [S] a secondary source, [D] derived, [M] measured here. The settings "
                "differ, so no row confirms or refutes a published number; unknown: it could not "
                "be read.",
            ),
            table(paper_comparison.HEAD, rows, kind="stack even"),
        ]
    )
