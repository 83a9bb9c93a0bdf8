"""prereg/published: predictions to replicate, and where each of their numbers comes from."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from opdcliff.paths import REPO_ROOT
from opdcliff.theory import threshold
from opdcliff.verification.locked_test import LockedTest, read_test
from opdcliff.verification.verdicts import METRIC_VERSIONS, Outcome, judge

PREREG = REPO_ROOT / "prereg"
FOLDER = PREREG / "published"
TESTS = sorted(FOLDER.glob("*.yaml"))

# Every number that the paper or its project page gives and a file here takes as it stands.
PUBLISHED = {
    ("T1", "design.strength"): 5.0,
    ("T1", "design.seeds"): 5,
    ("T1", "window.lo"): 1.204,
    ("T1", "window.hi"): 1.228,
}
PUBLISHED_STAR, PUBLISHED_RATES = 1.22, (0.335, 0.948)
# Nulls that are no gap in what could be read: an open side, and a baseline.
NO_VALUE = {("lift", "window.hi"), ("lift", "estimator.minus.lam")}

Leaf = float | str | None


def leaves(nested: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Leaf]]:
    for name, value in nested.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            yield from leaves({str(i): v for i, v in enumerate(value)}, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def leaves_of(path: Path) -> dict[str, Leaf]:
    content = yaml.safe_load(path.read_text("ascii"))
    return dict(leaves({name: value for name, value in content.items() if name != "provenance"}))


def numbers_of(path: Path) -> dict[str, float]:
    return {n: v for n, v in leaves_of(path).items() if isinstance(v, int | float)}


def locked(name: str) -> LockedTest:
    return read_test(FOLDER / f"{name}.yaml")


def grid() -> tuple[list[float], list[int]]:
    """Multiples of lambda* and seeds of the experiment that would run this."""
    text = (REPO_ROOT / "conf/experiment/paper_fine_grid.yaml").read_text("ascii")
    swept = yaml.safe_load(text)["hydra"]["sweeper"]["params"]
    return (
        [float(word) for word in swept["lam.of_threshold"].split(",")],
        [int(word) for word in swept["seed"].split(",")],
    )


def grid_step() -> float:
    multiples, _ = grid()
    steps = {round(b - a, 9) for a, b in itertools.pairwise(multiples)}
    assert len(steps) == 1
    return steps.pop()


def small_clip_star(star: float) -> float:
    """lambda* at c = 2 of the p that gives `star` at c = 5, both at b = 1/2."""
    return threshold.lambda_star_neutral(threshold.modal_mass_for(star, 0.5, 5.0), 2.0)


def derived() -> dict[tuple[str, str], float]:
    """Every number of the files that follows from others, computed again."""
    star, step = small_clip_star(PUBLISHED_STAR), grid_step()
    last_below = max(multiple for multiple in grid()[0] if multiple < 1.0)
    return {
        ("T2", "window.hi"): PUBLISHED["T1", "window.hi"],
        ("T3", "window.lo"): round(star - step * star, 4),
        ("T3", "window.hi"): round(star + step * star, 4),
        ("lift", "estimator.of.lam"): round(last_below * PUBLISHED_STAR, 4),
    }


# ---- each file ------------------------------------------------------------------------------


def test_the_three_tests_are_there_and_nothing_is_locked() -> None:
    assert [path.name for path in TESTS] == ["T1.yaml", "T2.yaml", "T3.yaml", "lift.yaml"]
    assert {path.name for path in FOLDER.iterdir()} == {path.name for path in TESTS}


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_a_file_loads_and_is_called_a_replication(path: Path) -> None:
    test = read_test(path)
    assert test.id == path.stem
    assert METRIC_VERSIONS[test.metric.name] == test.metric.version
    assert test.claim.startswith("Replication of a published ")
    assert "replication of a published " in test.source


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_every_number_says_where_it_comes_from(path: Path) -> None:
    provenance = read_test(path).provenance
    for name in numbers_of(path):
        assert re.match(r"\[(P|S|D|here)\] \S", provenance.get(name, "")), name


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_every_source_is_that_of_a_number_or_of_a_null_that_is_called_so(path: Path) -> None:
    found = leaves_of(path)
    for name, said in read_test(path).provenance.items():
        assert name in found, f"{name}: no such field"
        if found[name] is None:
            tag = "none: " if (path.stem, name) in NO_VALUE else "unknown: "
            assert said.startswith(tag), name
        else:
            assert isinstance(found[name], int | float), f"{name}: no number"


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_every_null_says_why(path: Path) -> None:
    nulls = {name for name, value in leaves_of(path).items() if value is None}
    assert nulls <= set(read_test(path).provenance)


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_what_the_authors_locked_and_ran_is_unknown_not_guessed(path: Path) -> None:
    found = leaves_of(path)
    names = ["design.lams", "design.updates", "design.warmup_updates"]
    if read_test(path).estimator.kind == "onset":
        names.append("estimator.level")
    assert [found[name] for name in names] == [None] * len(names)


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_a_number_is_called_published_or_derived_only_where_it_is(path: Path) -> None:
    provenance = read_test(path).provenance
    for name, value in numbers_of(path).items():
        key = (path.stem, name)
        if provenance[name].startswith("[P]"):
            assert PUBLISHED.get(key) == value, name
        if provenance[name].startswith("[D]"):
            assert key in derived(), name


@pytest.mark.parametrize("name", ["T1", "T2", "T3"])
def test_no_onset_can_be_judged_while_its_level_and_grid_are_unknown(name: str) -> None:
    verdict = judge(locked(name), {}, grid()[1])
    assert verdict.outcome is Outcome.INADMISSIBLE
    assert "unknown" in verdict.reason


# ---- the numbers ----------------------------------------------------------------------------


def test_published_numbers_are_in_the_files_as_published() -> None:
    for (name, field), value in PUBLISHED.items():
        assert leaves_of(FOLDER / f"{name}.yaml")[field] == value
        assert locked(name).provenance[field].startswith("[P]")


def test_derived_numbers_follow_from_the_published_ones() -> None:
    for (name, field), value in derived().items():
        assert leaves_of(FOLDER / f"{name}.yaml")[field] == value, (name, field)


def test_derived_numbers_in_words_follow_too() -> None:
    modal = threshold.modal_mass_for(PUBLISHED_STAR, 0.5, 5.0)
    star = small_clip_star(PUBLISHED_STAR)
    lowest, highest = (small_clip_star(PUBLISHED_STAR + error) for error in (-0.005, 0.005))
    said = locked("T3").window.derivation
    assert f"p = {modal:.6f} [D]" in said
    assert re.search(rf"lambda\* =\s{star:.4f} at c = 2 and b = 1/2 \[D\]", said)
    assert f"from {lowest:.4f} to {highest:.4f} [D]" in said
    assert f"{grid_step():g} of lambda* = {grid_step() * star:.4f} [here]" in said
    for side in ("window.lo", "window.hi"):
        assert f"{star:.4f} [D]" in locked("T3").provenance[side]
    before, after = PUBLISHED_RATES
    assert f"{100 * before:g}% after fine-tuning and {100 * after:g}%" in locked("lift").source
    assert f"a lift of {after - before:.3f} [D]" in locked("lift").window.derivation


def test_lambda_star_is_a_point_of_our_grid_so_two_cells_touch_it() -> None:
    assert 1.0 in grid()[0]


def test_our_grid_has_to_be_finer_before_the_first_test_can_be_locked() -> None:
    lo, hi = locked("T1").window.bounds
    step = grid_step() * PUBLISHED_STAR
    assert hi - lo < step
    said = locked("T1").window.derivation
    assert f"{hi - lo:.3f} wide" in said
    assert f"({step:.4f})" in said


def test_the_safe_lambda_lies_below_everything_published_about_the_cliff() -> None:
    of = derived()["lift", "estimator.of.lam"]
    assert of < PUBLISHED["T1", "window.lo"] < PUBLISHED_STAR < PUBLISHED["T1", "window.hi"]
    assert f"at {of:g} is over" in locked("lift").hypothesis


def test_the_seeds_are_those_of_the_experiment() -> None:
    assert {locked(path.stem).design.seeds for path in TESTS} == {len(grid()[1])}


# ---- the words ------------------------------------------------------------------------------


def test_nothing_claims_a_registration_of_the_papers_predictions_here() -> None:
    for path in (PREREG / "README.md", *TESTS):
        words = " ".join(path.read_text("ascii").lower().split())
        assert "pre-registered by us" not in words, path


def test_the_readme_tells_the_windows_of_the_locks_and_of_the_paper() -> None:
    _, *parts = re.split(r"^## (\w+): .*$", (PREREG / "README.md").read_text("ascii"), flags=re.M)
    sections = dict(zip(parts[::2], parts[1::2], strict=True))
    locked = {path.parent.name for path in PREREG.glob("*/lock.json")}
    assert sections.keys() == locked | {"published"}
    for name in locked:
        lines = sections[name].splitlines()
        rows = {line.split(" ")[1]: line for line in lines if line.startswith("| ")}
        for path in (PREREG / name).glob("*.yaml"):
            assert told(rows[path.stem], read_test(path)), path
    for path in TESTS:
        assert told(sections["published"], read_test(path)), path


def told(text: str, test: LockedTest) -> bool:
    lo, hi = test.window.lo, test.window.hi
    if lo is None:
        return f"at most {hi:g}" in text
    return (f"at least {lo:g}" if hi is None else f"[{lo:g}, {hi:g}]") in text
