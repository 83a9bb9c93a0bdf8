"""The documents: links lead somewhere, commands run, generated pages are up to date."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

import doc_commands
from doc_commands import NOT_RUN, PAGES, SMALLER, all_commands, smaller, words_of
from opdcliff.cli.command import VERBS
from opdcliff.cli.words import NO_EVALUATION
from opdcliff.paths import REPO_ROOT
from opdcliff.settings.checks import load
from opdcliff.settings.compose import compose_one
from opdcliff.settings.grid import compose_grid
from opdcliff.study.study import check_protocol
from workshop import (
    OWN_SIZES,
    SECONDS,
    Run,
    prepared_pair,
    write_own_answers,
    write_own_prompts,
    write_own_schema,
)

COMMANDS = all_commands("opdcliff")
STALE = "{} is stale; run `make renew-docs` and commit it"
# Their words are no settings of a run.
PLAIN_VERBS = tuple(name for name, verb in VERBS.items() if not verb.settings)
# The hub needs a commit to be named.
HUB = ["model.student_revision=" + "0" * 40, "model.teacher_revision=" + "0" * 40]


def named(path: Path) -> str:
    return str(path.relative_to(REPO_ROOT))


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, REPO_ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---- text -------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_pages_are_plain_and_name_no_machine(page: Path) -> None:
    text = page.read_text()
    odd = sorted(set(re.findall(r"[^\x00-\x7f]", text)))
    assert not odd, f"characters that are not ASCII: {odd}"
    machine = re.findall(
        r"(?<![\w.])/(?:home|root|work|tmp|opt|mnt|Users|workspace)/\S*|file://\S*|localhost\S*"
        r"|\b\d+\.\d+\.\d+\.\d+\b",
        text,
    )
    assert not machine


def without_code(text: str) -> str:
    """Fenced blocks and code spans hold no links."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.M))


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    found: set[str] = set()
    for title in re.findall(r"^#+ +(.*?) *$", page.read_text(), re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title).lower()
        base = name = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        number = 0
        while name in found:
            number += 1
            name = f"{base}-{number}"
        found.add(name)
    return found


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text()))
    for link in links:
        if link.startswith(("https://", "http://", "mailto:")):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"{link}: no such file"
        assert target.is_relative_to(REPO_ROOT), f"{link}: outside of the repository"
        if anchor:
            assert anchor in anchors(target), f"{link}: no such heading"


# ---- commands ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def places(workshop: Path, fashion: Path) -> dict[str, str]:
    """What the placeholders of a command stand for."""
    student, teacher = prepared_pair(workshop)
    hosts = workshop / "hostfile"
    hosts.write_text("node-1 slots=8\nnode-2 slots=8\n")
    return {
        "engine.hostfile": str(hosts),
        "model.student": student.partition("=")[2],
        "model.teacher": teacher.partition("=")[2],
        "data.path": str(fashion),
        "data.path.jsonl": str(write_own_prompts(workshop / "own.jsonl")),
        "data.rubric.jsonl": str(write_rubric(workshop / "rubric.jsonl", first=1)),
        "grade.other.jsonl": str(write_rubric(workshop / "other.jsonl", first=0)),
        "grade.base_url": "https://judge.example/v1",
        "grade.model": "judge",
        "data.form": str(write_own_schema(workshop / "schema.json")),
        "data.form.json": str(workshop / "schema.json"),
        "out": str(workshop / "made"),
        "data.path=ANSWERS.jsonl": str(write_own_answers(workshop / "answers.jsonl")),
        "out=TEACHER": str(workshop / "teacher"),
        "out=WARM_START": str(workshop / "warm_start"),
        "out=FOLDER": str(workshop / "tuned"),
    }


def write_rubric(file: Path, *, first: int) -> Path:
    """Grades of every user and item of `fashion`."""
    pairs = [(f"U{u:03d}", f"I{i:03d}", (first + u + i) % 5) for u in range(260) for i in range(60)]
    rows = [{"user_id": u, "parent_asin": i, "grade": grade} for u, i, grade in pairs]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_make_commands_are_targets_of_the_makefile() -> None:
    makefile = (REPO_ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    found = all_commands("make")
    assert found
    for command in found:
        words = command.split()[1:]
        assert {word for word in words if "=" not in word} <= targets, command
    # And the Makefile itself: help names every target, and each is there for all names.
    helped = set(re.findall(r'@echo "make ([a-z-]+) ', makefile))
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert targets == set(phony.split())
    assert helped == targets - {"help", "install"}


def small_words(command: str, places: dict[str, str]) -> list[str]:
    """Verb and words of a command at the size of seconds."""
    verb, *words = words_of(command, places)
    if verb not in PLAIN_VERBS:
        words += SECONDS
        # What a command sets itself is not made smaller by `debug=seconds`.
        for split in ("train", "calibration", "test"):
            if any(word.startswith(f"data.{split}=") for word in words):
                words.append(f"data.{split}={getattr(OWN_SIZES, split)}")
    small = smaller(command)
    keys = {word.partition("=")[0] for word in small}
    # Values of a grid that are said twice are refused.
    return [verb, *(word for word in words if word.partition("=")[0] not in keys), *small]


@pytest.mark.slow
@pytest.mark.parametrize("command", [c for c in COMMANDS if c not in NOT_RUN])
def test_a_documented_command_runs(command: str, run: Run, places: dict[str, str]) -> None:
    """Where one cannot, tests/doc_commands.py is the place to say why."""
    for needed in [*doc_commands.before(command), command]:
        reply = run(*small_words(needed, places))
        assert reply.code == 0, f"{needed}: {reply.err}"
        assert reply.out


@pytest.mark.parametrize("command", NOT_RUN)
def test_a_command_that_is_not_run_is_still_there_and_its_settings_load(
    command: str, places: dict[str, str]
) -> None:
    assert command in COMMANDS, f"{command} is in no document; drop it from NOT_RUN"
    assert len(NOT_RUN[command]) > 15, "the reason is missing"
    verb, *words = words_of(command, places)
    assert verb in VERBS
    if verb in PLAIN_VERBS:
        return
    if "qwen3" in command or "paper" in command:
        words += HUB
    if "experiment=smollm2" in command:
        words.append(f"model.student={places['model.student']}")
    own = (
        "supersedes=",
        "renew_committed=",
        "dry_run=",
        "memory_gb=",
        "prompt_tokens=",
        "out=",
        "merge=",
    )
    settings = [word for word in words if word not in ("-m", "...") and not word.startswith(own)]
    if verb in ("sft", "calibrate", "preview"):
        # As the verbs do themselves, which evaluate no run.
        settings += NO_EVALUATION
    if verb == "sft":
        settings.append("model.teacher=${model.student}")
    if verb == "study" or verb in ("lock", "confirm"):
        config = load(compose_one(settings))
        check_protocol(config)
        assert verb == "study" or config.protocol.predictions is not None
    else:
        # One seed stands for all: composing takes half a second a cell.
        assert compose_grid(["protocol=grid", *settings, "seed=0"]).cells


def test_every_rule_for_a_command_has_its_command() -> None:
    for end in SMALLER:
        assert any(c.endswith(end) and c not in NOT_RUN for c in COMMANDS), f"unused: {end}"


def test_commands_in_running_text_name_a_verb() -> None:
    for page in PAGES:
        for span in re.findall(r"`opdcliff +([a-z]\w*)[^`]*`", page.read_text()):
            assert span in VERBS, f"{page.name}: opdcliff {span}"


def test_commands_are_found_across_lines_and_without_comments(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```\nopdcliff train \\\n  a=1   # why\n$ make x\n```\nopdcliff not this\n")
    assert list(doc_commands.commands(page, "opdcliff")) == ["opdcliff train a=1"]
    assert list(doc_commands.commands(page, "make")) == ["make x"]


# ---- generated pages --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def make_config() -> ModuleType:
    return script("make_config")


def test_the_page_of_settings_is_up_to_date(make_config: ModuleType) -> None:
    # Compared without pytest's diff of a thousand lines.
    same = (REPO_ROOT / "docs/config.md").read_text() == make_config.page()
    assert same, STALE.format("docs/config.md")


def test_the_resolved_default_is_up_to_date(make_config: ModuleType) -> None:
    same = (REPO_ROOT / "docs/default_config.yaml").read_text() == make_config.default_config()
    assert same, STALE.format("docs/default_config.yaml")


def test_the_page_of_settings_explains_every_field(make_config: ModuleType) -> None:
    rows = [line for line in make_config.page().splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]
    assert all(len(row) == 4 for row in cells)
    names = {row[0].strip("`") for row in cells}
    plain: dict[str, Any] = yaml.safe_load(make_config.default_config())
    for group, fields in plain.items():
        for field in fields if isinstance(fields, dict) else [""]:
            start = f"{group}.{field}".rstrip(".")
            assert any(name == start or name.startswith(f"{start}.") for name in names), start
    page = make_config.page()
    # One plain field, one whose comment stands behind it, one whose comment takes two lines.
    assert "| `optim.updates` | `200` | a whole number >= 1 | Budget of a run in" in page
    assert "| `model.arch.layers` | `2` | a whole number >= 1 | transformer layers |" in page
    assert "a matter of the data. |" in page


@pytest.mark.slow
def test_the_site_builds_with_pages_and_reference(tmp_path: Path) -> None:
    """In a process of its own: the reference imports every module."""
    modules = sorted((REPO_ROOT / "src/opdcliff").rglob("[a-z]*.py"))
    done = subprocess.run(
        [sys.executable, str(REPO_ROOT / "docs/make_site.py"), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr, done.stderr
    for module in modules:
        name = module.relative_to(REPO_ROOT / "src").with_suffix(".html")
        assert (tmp_path / "api" / name).is_file(), f"no reference of {name}"
    theory = (tmp_path / "api/opdcliff/theory.html").read_text()
    assert 'id="lambda_star"' in theory
    masses = (tmp_path / "api/opdcliff/training/evaluation/masses.html").read_text()
    assert "train/tail_ratio/&lt;class>" in masses, "a placeholder was taken for a tag"
    for page in PAGES:
        built = tmp_path / page.relative_to(REPO_ROOT).with_suffix(".html")
        assert "<h1" in built.read_text(), page
    readme = (tmp_path / "README.html").read_text()
    for link in re.findall(r'(?:href|src)="([^":#]+)', readme):
        assert (tmp_path / link).exists() or (REPO_ROOT / link).is_dir(), link


# ---- CITATION.cff -----------------------------------------------------------------------------


def test_the_citation_has_the_keys_of_its_format_and_the_facts_of_the_project() -> None:
    cff = yaml.safe_load((REPO_ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((REPO_ROOT / "pyproject.toml").read_text())["project"]
    assert {"cff-version", "message", "title", "authors"} <= cff.keys()
    assert cff["cff-version"] == "1.2.0"
    assert cff["type"] == "software"
    assert (cff["title"], cff["version"]) == (project["name"], project["version"])
    assert cff["license"] == project["license"]
    (paper,) = cff["references"]
    assert {"type", "title", "authors", "year", "url"} <= paper.keys()
    assert all("family-names" in author for author in paper["authors"])
    (identifier,) = paper["identifiers"]
    number = identifier["value"].removeprefix("arXiv:")
    assert paper["url"].endswith(number)
    readme = " ".join((REPO_ROOT / "README.md").read_text().split())
    assert paper["title"] in readme
    assert f"arXiv {number}" in readme
