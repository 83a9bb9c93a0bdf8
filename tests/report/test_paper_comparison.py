"""Paper beside ours: the committed table is checked against the committed results, cell by cell."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from opdcliff.paths import REPO_ROOT, StudyPaths
from opdcliff.report import paper_comparison, paper_numbers, paper_rows

COMMITTED = StudyPaths(REPO_ROOT / "runs", REPO_ROOT / "results", REPO_ROOT / "prereg")
PAGE = (REPO_ROOT / "docs" / "paper_beside_ours.md").read_text()
LINES = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if line.startswith("|")]
ROWS = {line[0]: dict(zip(LINES[0], line, strict=True)) for line in LINES[2:]}
VERDICTS: dict[str, Any] = json.loads((REPO_ROOT / "results/locked/mini/verdicts.json").read_text())
CELLS = pd.read_csv(REPO_ROOT / "results/locked/mini/cells.csv")


def numbers(text: str) -> list[float]:
    """Every number of a cell, thousands joined; what names a clip or a ratio is none."""
    plain = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)
    return [float(found) for found in re.findall(r"(?<![\w.])[-+]?\d+(?:\.\d+)?", plain)]


def rounded(*values: float) -> list[float]:
    return [round(value, 4) for value in values]


def test_the_committed_table_is_what_the_committed_results_give() -> None:
    assert paper_comparison.page(COMMITTED) == PAGE, (
        "run `opdcliff report`, and look at what changed"
    )


@pytest.mark.parametrize(
    ("quantity", "test", "column"),
    [
        ("onset on the fine grid, c = 5", "T1", "lambda_star_c5"),
        ("onset at a smaller clip", "T3", "lambda_star_c2"),
        ("longer budget, c = 5", "T2", "lambda_star_c5"),
    ],
)
def test_a_locked_onset_is_that_of_the_verdicts_and_its_percents_follow(
    quantity: str, test: str, column: str
) -> None:
    found, said = VERDICTS["tests"][test], numbers(ROWS[quantity]["ours"])
    calibration = pd.read_csv(REPO_ROOT / "results/studies/mini/quick/calibration.csv")
    star = float(calibration[calibration.binding].iloc[0][column])
    values = (found["mean"], *found["interval"])
    assert said[:3] == rounded(*values)
    assert said[3] == len(found["points"])
    assert said[6:9] == [round(100 * (value / star - 1), 1) for value in values]
    assert said[9] == pytest.approx(star, abs=6e-5)


@pytest.mark.parametrize(
    ("quantity", "test"),
    [
        ("lift of the strict parse rate", "lift"),
        ("NDCG@1 of answers that parse, over lambda", "flatness"),
        ("small student against a larger fine-tuned model", "parity"),
    ],
)
def test_a_locked_difference_is_that_of_the_verdicts(quantity: str, test: str) -> None:
    found = VERDICTS["tests"][test]
    text = ROWS[quantity]["ours"].removeprefix("NDCG@1 of all answers: ")
    assert numbers(text)[:3] == rounded(found["mean"], *found["interval"])


def test_parse_rates_are_those_of_the_runs() -> None:
    fine = CELLS[(CELLS.arm == "fine_grid") & (CELLS.lam == 1.6752)]
    for quantity, runs in (
        ("strict parse rate after fine-tuning", CELLS[CELLS.arm == "warm_start"]),
        ("strict parse rate below lambda*", fine),
    ):
        rates = 100 * runs["eval/parse_rate"]
        assert len(rates) == 8
        wanted = [round(value, 1) for value in (rates.mean(), rates.min(), rates.max())]
        assert numbers(ROWS[quantity]["ours"])[:3] == wanted


def test_onsets_of_other_studies_are_those_of_their_tables() -> None:
    checked = []
    for row in ROWS.values():
        path = REPO_ROOT / row["file of ours"].split(", ")[0]
        if path.name != "onsets.csv":
            continue
        assert path.exists() != row["ours"].startswith("nothing: "), row["quantity"]
        if path.exists():
            said = numbers(row["ours"])
            table = pd.read_csv(path)
            wanted = table if "ASPO" not in row["quantity"] else table[table["clip"] != "ppo"]
            assert all(round(onset, 4) in said for onset in wanted.onset.dropna())
            checked.append(row["quantity"])
    assert {"scope: Amazon Fashion rows", "ASPO beside the mask"} <= set(checked)


@pytest.mark.parametrize(
    ("quantity", "test", "strength"),
    [("onset near p = 1", "T1", 3.0), ("onset near p = 1 at a smaller clip", "T3", 2.0)],
)
def test_a_row_of_the_same_regime_says_how_near_and_what_came_of_both_tests(
    quantity: str, test: str, strength: float
) -> None:
    row = ROWS[quantity]
    assert row["setting"] == paper_numbers.SAME_REGIME
    tests = json.loads((REPO_ROOT / "results/locked/near/verdicts.json").read_text())["tests"]
    lock = json.loads((REPO_ROOT / "prereg/near/lock.json").read_text())
    p, b = (lock["calibration"]["binding"][name] for name in ("p", "b"))
    z_c, logit_p, logit_b = (
        math.log(odds) for odds in ((strength - 1 + p) / (1 - p), p / (1 - p), b / (1 - b))
    )
    star = (z_c - logit_b) / (logit_p - logit_b)
    values = (tests[test]["mean"], *tests[test]["interval"])
    said = numbers(row["ours"])
    assert said[:4] == rounded(p, *values)
    assert [round(100 * (value / star - 1), 1) for value in values] == said[7:10]
    for name in (test, f"{test}_exact"):
        assert f"{name} {tests[name]['outcome']}" in row["ours"]


def test_what_another_row_says_of_its_runs_is_so() -> None:
    scope = pd.read_csv(REPO_ROOT / "results/grids/scope_ranking_only/cells.csv")["eval/parse_rate"]
    said = numbers(ROWS["scope: answers without free text"]["ours"])
    assert said[:3] == [round(100 * scope.min(), 1), round(100 * scope.max(), 1), len(scope)]
    rules = pd.read_csv(REPO_ROOT / "results/studies/mini/policy_ratio_rules/cells.csv")
    for clip, name in (("aspo", "ASPO"), ("c5", "mask on")):
        runs = rules[rules["clip"] == clip]
        count = f"{sum(runs.status == 'collapsed')} of {len(runs)} runs collapsed"
        (part,) = (p for p in ROWS["ASPO beside the mask"]["ours"].split("; ") if p[:4] == name[:4])
        assert count in part


def test_published_numbers_are_those_of_the_preregistered_replication_and_of_theory() -> None:
    t1 = yaml.safe_load((REPO_ROOT / "prereg/published/T1.yaml").read_text())
    assert (t1["window"]["lo"], t1["window"]["hi"]) == paper_rows.ONSET
    assert str(t1["design"]["strength"]) == str(paper_rows.CLIP)
    lift = (REPO_ROOT / "prereg/published/lift.yaml").read_text()
    assert "33.5% after fine-tuning and 94.8% just below lambda* [P]" in lift
    assert (paper_rows.BEFORE_RATE, paper_rows.BELOW_RATE) == (0.335, 0.948)
    theory = (REPO_ROOT / "docs/theory.md").read_text()
    assert f"lambda* = {paper_rows.MARKER} at c = 5" in theory
    for value in ("0.999337", "1.0948", "1.1502"):
        assert value in theory
        assert value in PAGE


def test_every_number_has_a_tag_and_every_row_a_reason_and_a_file() -> None:
    for row in ROWS.values():
        assert not numbers(row["paper"]) or re.search(r"\[[PSD]\]", row["paper"]), row
        assert row["ours"].startswith("nothing: ") or "[M]" in row["ours"], row
        allowed = (paper_numbers.SAME, paper_numbers.SAME_REGIME, paper_numbers.DIFFERENT)
        assert row["setting"] in allowed
        assert len(row["why they differ, or may"]) > 20
        for name in row["file of ours"].split(", "):
            assert (REPO_ROOT / name).exists() or row["ours"].startswith(f"nothing: {name}")


def test_a_table_that_is_not_there_is_told_with_its_command(tmp_path: Path) -> None:
    rows = paper_comparison.rendered(
        StudyPaths(tmp_path, tmp_path / "results", REPO_ROOT / "prereg")
    )
    assert all(row[2].startswith("nothing: ") and "` makes it" in row[2] for row in rows)
