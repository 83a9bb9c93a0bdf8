"""The page on a locked study: true to its inputs, whole in a browser, and unable to load anything.

The browser tests need chromium or chrome: see tests/browser.py.
"""

from __future__ import annotations

import dataclasses
import html
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from browser import opened
from opdcliff.cli import command
from opdcliff.errors import InadmissibleError, OpdcliffError, TamperedError
from opdcliff.paths import REPO_ROOT, StudyPaths
from opdcliff.report import page as page_module
from opdcliff.report.drawing.build import NAMES
from opdcliff.report.figure_section import CAPTIONS
from opdcliff.report.inputs import ReportInputs, read_inputs
from opdcliff.verification.committed import seal_tables
from opdcliff.verification.report import BRACKETS

COMMITTED = StudyPaths(REPO_ROOT / "runs", REPO_ROOT / "results", REPO_ROOT / "prereg")
FOLDER = COMMITTED.committed.locked_dir("mini")
STALE = "results and page disagree: run `opdcliff report`, and look at what changed"


@pytest.fixture(scope="module")
def inputs() -> ReportInputs:
    return read_inputs("mini", COMMITTED)


@pytest.fixture(scope="module")
def page(inputs: ReportInputs) -> str:
    return page_module.page(inputs)


@pytest.fixture(scope="module")
def verdicts() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FOLDER / "verdicts.json").read_text())
    return content


def copied(tmp_path: Path) -> StudyPaths:
    """The committed results and lock, free to be changed; the lock is then in no git history."""
    for name in ("results", "prereg"):
        shutil.copytree(REPO_ROOT / name, tmp_path / name)
    return StudyPaths(tmp_path / "runs", tmp_path / "results", tmp_path / "prereg")


# ---- true to its inputs -----------------------------------------------------------------------


def test_the_committed_page_is_what_the_committed_results_give(page: str) -> None:
    assert (FOLDER / page_module.PAGE).read_text(encoding="utf-8") == page, STALE


@pytest.mark.parametrize(
    "protocol",
    sorted(path.name for path in FOLDER.parent.iterdir() if path.name != FOLDER.name),
)
def test_the_pages_of_the_other_locks_are_too(protocol: str) -> None:
    """Those of `preview_orders` rank nothing, so that there is no NDCG to show."""
    committed = COMMITTED.committed.locked_dir(protocol) / page_module.PAGE
    page = page_module.page(read_inputs(protocol, COMMITTED))
    assert committed.read_text(encoding="utf-8") == page, STALE


def test_the_verb_writes_the_same_bytes_elsewhere_and_leaves_verdicts_and_report_alone(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = copied(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPDCLIFF_RUNS", raising=False)
    (paths.committed.locked_dir("mini") / page_module.PAGE).unlink()
    before = {path: path.read_bytes() for path in paths.results.rglob("*") if path.is_file()}
    assert command.main(["report"]) == 0
    said = capsys.readouterr().out
    assert "this checkout's git: UNANCHORED, the records: CLEAN" in " ".join(said.split())
    made = paths.own.locked_dir("mini") / page_module.PAGE
    assert made.read_text(encoding="utf-8") == page
    assert (paths.own.root / page_module.BESIDE).is_file()
    assert {
        path: path.read_bytes() for path in paths.results.rglob("*") if path.is_file()
    } == before
    assert not (tmp_path / "docs").exists()


def test_renewing_writes_the_same_page_over_the_committed_one(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = copied(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPDCLIFF_RUNS", raising=False)
    made = paths.committed.locked_dir("mini") / page_module.PAGE
    made.unlink()
    (tmp_path / "docs").mkdir()
    assert command.main(["report", "renew_committed=true"]) == 0
    assert made.read_text(encoding="utf-8") == page
    assert (tmp_path / "docs" / page_module.BESIDE).is_file()
    assert not (tmp_path / "runs").exists()


_ROW_OF_A_TEST = r'<tr><td data-label="test">(\w+)</td>(.*?)</tr>'


def test_every_verdict_stands_in_the_page_with_its_window_and_interval(
    page: str, verdicts: dict[str, Any]
) -> None:
    rows = dict(re.findall(_ROW_OF_A_TEST, page[: page.index(BRACKETS)]))
    assert list(rows) == list(verdicts["tests"])
    for name, test in verdicts["tests"].items():
        text = re.sub(r"<[^>]+>", " ", rows[name])
        assert test["outcome"] in text
        bounds = [b for b in (*test["window"], *test["interval"]) if not isinstance(b, str)]
        for value in (test["mean"], *bounds):
            assert f"{value:.4f}".rstrip("0").rstrip(".") in text, (name, value)


def test_the_cells_alone_stand_beside_the_verdicts(page: str) -> None:
    section = page[page.index(BRACKETS) : page.index("<h3>Exploratory")]
    assert "hence no verdicts" in section
    rows = dict(re.findall(_ROW_OF_A_TEST, section))
    assert list(rows) == ["T1", "T1_exact", "T2", "T3", "T3_exact"]
    assert "below the window" in rows["T1_exact"]
    assert "CONFIRMED" not in section


def test_every_cell_stands_in_the_page_with_the_rate_of_each_seed(page: str) -> None:
    cells = pd.read_csv(FOLDER / "cells.csv")
    section = page[page.index('id="cells"') : page.index('id="paper"')]
    for (_, _), runs in cells.groupby(["arm", "lam"]):
        rates = ", ".join(f"{rate:.3f}" for rate in runs.sort_values("seed")["eval/parse_rate"])
        assert f">{rates}</span></td>" in section
    assert section.count("<tr>") == 1 + len(cells.groupby(["arm", "lam"]))


def edit_json(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def nudge_a_rate(folder: Path) -> None:
    cells = pd.read_csv(folder / "cells.csv", dtype=str)
    row = cells.index[(cells.arm == "fine_grid") & (cells.lam == "1.8168")][0]
    cells.loc[row, "eval/parse_rate"] = "0.5"
    cells.to_csv(folder / "cells.csv", index=False)


def nudge_an_unjudged_number(folder: Path) -> None:
    text = (folder / "cells.csv").read_text()
    (folder / "cells.csv").write_text(text.replace("36.8671875", "36.8671876", 1))


# What is edited, and what is said where the folder was sealed anew over it; None: only git and
# records can tell then.
BROKEN: dict[str, tuple[Callable[[Path], None], str | None]] = {
    "a run of the table": (nudge_a_rate, r"tests\.T1\.\w+"),
    "a number that no test reads": (nudge_an_unjudged_number, None),
    "a mean by a hundred-millionth": (
        lambda f: edit_json(
            f / "verdicts.json", lambda v: v["tests"]["T1"].update(mean=1.81753487)
        ),
        r"tests\.T1\.mean is 1\.81753487",
    ),
    "an outcome": (
        lambda f: edit_json(
            f / "verdicts.json", lambda v: v["tests"]["T1_exact"].update(outcome="CONFIRMED")
        ),
        r"tests\.T1_exact\.outcome is 'CONFIRMED' and the table gives 'REFUTED'",
    ),
    "a test left out": (
        lambda f: edit_json(f / "verdicts.json", lambda v: v["tests"].pop("T3_exact")),
        r"tests\.T3_exact is None",
    ),
    "an integrity that its deviations do not bear out": (
        lambda f: edit_json(f / "verdicts.json", lambda v: v.update(integrity="DEVIATED")),
        "integrity is DEVIATED and its deviations say CLEAN",
    ),
    "runs with uncommitted changes, untold": (
        lambda f: (
            (f / "cells.csv").write_text(
                (f / "cells.csv").read_text().replace(",False,369a", ",True,369a")
            )
            and None
        ),
        "uncommitted changes' is not among its deviations",
    ),
    "no verdicts": (lambda f: (f / "verdicts.json").unlink(), "opdcliff verify"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_verdicts_that_do_not_fit_the_table_give_no_page(what: str, tmp_path: Path) -> None:
    paths = copied(tmp_path)
    change, said = BROKEN[what]
    folder = paths.committed.locked_dir("mini")
    change(folder)
    if (folder / "verdicts.json").exists():
        with pytest.raises(TamperedError, match="was edited after its runs"):
            page_module.make_report("mini", paths)
    if said is None:
        return
    # As a forger would: with a fresh seal.
    noted = json.loads((folder / "provenance.json").read_text())
    seal_tables(folder, {name: noted[name] for name in noted.keys() - {"files", "sha256"}})
    with pytest.raises(InadmissibleError, match=said):
        page_module.make_report("mini", paths)


def test_a_changed_lock_gives_no_page(tmp_path: Path) -> None:
    paths = copied(tmp_path)
    window = paths.prereg_dir("mini") / "T1_exact.yaml"
    window.write_text(window.read_text().replace("lo: 1.864", "lo: 1.764"))
    with pytest.raises(TamperedError, match=r"T1_exact\.yaml: changed since the lock"):
        page_module.make_report("mini", paths)


def test_an_unknown_protocol_and_setting_end_in_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command.main(["report", "protocol=minii"]) == InadmissibleError.exit_code
    assert command.main(["report", "lam.value=2"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 2
    assert issubclass(InadmissibleError, OpdcliffError)


def test_a_missing_figure_and_one_of_other_records_are_told_not_shown(
    inputs: ReportInputs, tmp_path: Path
) -> None:
    shutil.copytree(COMMITTED.committed.figures_dir(), tmp_path / "results" / "figures")
    paths = StudyPaths(tmp_path / "runs", tmp_path / "results", COMMITTED.prereg)
    (paths.committed.figures_dir() / "geometry.svg").unlink()
    grid = paths.committed.figures_dir() / "fine_grid.svg"
    grid.write_text(grid.read_text().replace("records 5977f427d4e2", "records 5977f427d4e3"))
    moved = dataclasses.replace(inputs, paths=paths)
    assert "is missing" in moved.drawing("geometry").missing
    assert "which are not those of this report" in moved.drawing("fine_grid").missing
    assert moved.drawing("budget").svg == inputs.drawing("budget").svg != b""
    section = page_module.figure_section(moved)
    assert "geometry</b>: results/figures/geometry.svg is missing" in section
    assert 'alt="budget' in section
    assert 'alt="fine_grid' not in section


def test_every_figure_has_a_caption() -> None:
    assert set(CAPTIONS) == set(NAMES)


# ---- loads nothing, runs nothing --------------------------------------------------------------


def test_text_of_the_inputs_is_never_markup(inputs: ReportInputs) -> None:
    hostile = '<script>alert("x")</script>'
    test = inputs.tests[0].model_copy(update={"claim": hostile})
    verdicts = inputs.verdicts | {"mismatches": [hostile]}
    made = page_module.page(dataclasses.replace(inputs, tests=[test], verdicts=verdicts))
    assert "<script" not in made
    assert made.count(html.escape(hostile)) == 3


def test_nothing_in_the_page_leads_out_of_it_but_the_link_to_the_paper(page: str) -> None:
    targets = re.findall(r'(?:src|href|action|data|srcset)="([^"]*)"', page)
    outside = [t for t in targets if not t.startswith(("#", "data:image/svg+xml;base64,"))]
    assert outside == ["https://arxiv.org/abs/2605.08737"]
    assert "default-src &#x27;none&#x27;" in page
    assert not re.search(r"<script|<link|<iframe|<object|@import|url\(|\son\w+=", page)
    assert page.isascii()


# ---- in a browser -----------------------------------------------------------------------------


PROBE = """<script>addEventListener("load", () => {
  document.querySelectorAll("details").forEach(one => one.open = true);
  const sizes = one => { const box = one.getBoundingClientRect(); return [box.width, box.height] };
  const found = {
    window: innerWidth, page: document.documentElement.scrollWidth,
    pictures: [...document.images].map(one => [one.naturalWidth, one.naturalHeight, one.width]),
    drawings: [...document.querySelectorAll("svg")].map(sizes),
    tables: [...document.querySelectorAll("table")].map(sizes),
    hidden: [...document.querySelectorAll("td, dd, figcaption")].filter(
      one => one.textContent && !sizes(one)[1]).length,
  };
  document.body.append(Object.assign(document.createElement("pre"),
    {id: "probe", textContent: JSON.stringify(found)}));
});</script>"""

READ = """<script>addEventListener("load", () => {
  const frames = [...document.querySelectorAll("iframe")];
  document.body.replaceChildren(...frames.map(one => one.contentDocument.getElementById("probe")));
});</script>"""
WIDTHS = (400, 1280)


@pytest.fixture(scope="module")
def probed(page: str, tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    """What copies of the page measure of themselves, by width; only copies may run a script."""
    folder = tmp_path_factory.mktemp("probed")
    allowed = page.replace("style-src", "script-src 'unsafe-inline'; style-src", 1)
    inner = html.escape(allowed.replace("</body>", f"{PROBE}</body>"))
    # In frames: a window is never narrower than 500 pixels.
    style = "border: 0; height: 900px; width:"
    frames = [f'<iframe style="{style} {width}px" srcdoc="{inner}"></iframe>' for width in WIDTHS]
    copy = folder / "frames.html"
    copy.write_text(f"<!doctype html><body>{''.join(frames)}{READ}</body>")
    document, _ = opened(copy, folder / "profile")
    found = re.findall(r'<pre id="probe">(.*?)</pre>', document)
    return {w: json.loads(html.unescape(text)) for w, text in zip(WIDTHS, found, strict=True)}


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_fits_the_window_and_every_picture_and_table_is_there(
    page: str, probed: dict[int, dict[str, Any]], width: int
) -> None:
    found = probed[width]
    assert found["window"] == width
    assert found["page"] <= width
    assert len(found["pictures"]) == page.count("<img")
    assert all(min(sizes) > 0 for sizes in found["pictures"])
    assert len(found["drawings"]) == page.count("<svg")
    for kind in ("drawings", "tables"):
        assert all(min(sizes) > 0 for sizes in found[kind])
    assert found["hidden"] == 0


def test_the_page_shows_its_verdicts_and_the_console_stays_empty(
    page: str, verdicts: dict[str, Any], tmp_path: Path
) -> None:
    document, console = opened(FOLDER / page_module.PAGE, tmp_path / "profile")
    assert console == []
    shown = re.findall(r'class="badge \w+">(\w+)</span></td>', document)
    assert shown == [test["outcome"] for test in verdicts["tests"].values()]


def test_the_policy_of_the_page_stops_a_script_and_a_picture_from_outside(
    page: str, tmp_path: Path
) -> None:
    """And so an empty console means that nothing was tried."""
    copy = tmp_path / "page.html"
    tried = '<img src="https://example.invalid/x.png"><script>document.title = "ran"</script>'
    copy.write_text(page.replace("</body>", f"{tried}</body>"))
    document, console = opened(copy, tmp_path / "profile")
    assert "<title>ran" not in document
    assert len([line for line in console if "Content Security Policy" in line]) == 2
