"""The house: rooms in one order, imports that run one way, doors that are used, short files."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import opdcliff
from opdcliff.paths import PACKAGE, REPO_ROOT

# From the ground up: a room may import those before it. Those of one line do not know each other.
FLOORS = (
    ("storage", "theory", "contract", "terminal", "rollout"),
    ("data", "processes", "records", "settings"),
    ("models", "verification"),
    ("calibration", "engine", "grading"),
    ("training",),
    ("planning", "study"),
    ("preview",),
    ("prereg",),
    ("report", "road"),
    ("cli",),
)
# Used by every room, and know none.
GROUND = ("errors", "paths")
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS, start=1) for room in rooms}
MOST_LINES, MOST_FILES = 300, 13
WITHOUT_TORCH = (
    "theory",
    "contract",
    "settings",
    "records",
    "verification",
    "report",
    "grading",
    "cli",
)


@cache
def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    return {
        ".".join(("opdcliff", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(
            ".__init__"
        ): path
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def room_of(module: str) -> str:
    """The first part behind the package; empty for the package itself."""
    return module.split(".")[1] if "." in module else ""


@cache
def imports(path: Path) -> tuple[tuple[str, str, int], ...]:
    """(module, name, line) of each import of this package, at any depth of a file."""
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[tuple[str, str, int]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            if (node.module or "").split(".")[0] == "opdcliff":
                for alias in node.names:
                    yield str(node.module), alias.name, node.lineno
        elif isinstance(node, ast.Import):
            for alias in node.names:
                assert alias.name.split(".")[0] != "opdcliff", f"{path}:{node.lineno}: use from"


def between_rooms() -> Iterator[tuple[str, str, str, str]]:
    """(importing module, room, module, name) of each import that crosses from room to room."""
    known = modules()
    for module, path in known.items():
        if module == "opdcliff":
            continue
        for target, name, _ in imports(path):
            full = f"{target}.{name}" if f"{target}.{name}" in known else target
            if room_of(full) not in (room_of(module), *GROUND, ""):
                yield module, room_of(full), target, name


def test_every_room_has_its_floor() -> None:
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert rooms == set(FLOOR_OF)
    assert len(FLOORS) <= 10
    top = {path.stem for path in PACKAGE.glob("*.py")}
    assert top == {"__init__", "__main__", *GROUND}


def test_imports_run_one_way() -> None:
    up = [
        f"{module} imports {name} of {room}"
        for module, room, _, name in between_rooms()
        if room_of(module) in GROUND or FLOOR_OF.get(room_of(module), 99) <= FLOOR_OF[room]
    ]
    assert not up, "an arrow runs up, or between rooms of one floor"


def test_no_module_imports_itself_round_a_circle() -> None:
    graph: dict[str, set[str]] = defaultdict(set)
    for module, path in modules().items():
        for target, name, _ in imports(path):
            full = f"{target}.{name}" if f"{target}.{name}" in modules() else target
            # A room's door imports the whole room; that is how doors are made.
            if not module.endswith(room_of(module)) and full in modules() and full != module:
                graph[module].add(full)

    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"circle: {' -> '.join((*path, module))}"
        if module not in done:
            for target in sorted(graph[module]):
                visit(target, (*path, module))
            done.add(module)

    for module in modules():
        visit(module, ())


def test_other_rooms_are_entered_by_their_door() -> None:
    inside = [
        f"{module}: from {target} import {name}"
        for module, room, target, name in between_rooms()
        if target != f"opdcliff.{room}"
    ]
    assert not inside, "import what another room offers in its __init__"


@pytest.mark.parametrize("room", sorted(FLOOR_OF))
def test_a_door_says_what_the_room_is_for_and_offers_what_is_used(room: str) -> None:
    tree = ast.parse((PACKAGE / room / "__init__.py").read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), "what is the room for?"
    offered: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            offered = set(ast.literal_eval(node.value))
    used = {
        name for _, to, target, name in between_rooms() if to == room and target.count(".") == 1
    }
    public = {
        name for target, name, _ in imports(PACKAGE / "__init__.py") if room_of(target) == room
    }
    assert used - offered == set()
    assert offered - used - public == set(), "nobody uses it: keep it private"


def test_files_and_folders_are_short() -> None:
    long = {
        module: lines
        for module, path in modules().items()
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > MOST_LINES
    }
    assert not long
    full = {
        str(folder.relative_to(PACKAGE)): count
        for folder in (PACKAGE, *PACKAGE.rglob("*"))
        if folder.is_dir() and (count := len(list(folder.glob("*.py")))) > MOST_FILES
    }
    assert not full


def test_tests_mirror_the_rooms() -> None:
    tests = Path(__file__).parent
    beside = {"benchmarks", "docs", "e2e", "helpers", "__pycache__"}
    folders = {path.name for path in tests.iterdir() if path.is_dir()} - beside
    assert folders == set(FLOOR_OF)


TORCH = {"torch", "transformers", "deepspeed"}
HEAVY = {*TORCH, "numpy", "scipy", "pandas", "hydra", "omegaconf", "rich"}
LOOKS = f"""
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
    print(name, *{HEAVY!r} & sys.modules.keys())
"""


def heavy_after(*names: str) -> dict[str, set[str]]:
    """The heavy libraries in a fresh interpreter after each of the imports, one after the other."""
    words = [sys.executable, "-c", LOOKS, *names]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return {line.split()[0]: set(line.split()[1:]) for line in done.stdout.splitlines()}


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert heavy_after("opdcliff") == {"opdcliff": set()}


def test_rooms_that_only_read_and_reckon_load_no_torch() -> None:
    found = heavy_after(*(f"opdcliff.{room}" for room in WITHOUT_TORCH))
    assert len(found) == len(WITHOUT_TORCH)
    # The first that is left is at fault; those after it may only have met what it loaded.
    assert [name for name, heavy in found.items() if heavy & TORCH] == []


def test_the_public_names_are_there_and_typed() -> None:
    assert {*opdcliff.__all__} == {
        *("RankingContract", "calibrate", "critical_lambda", "lambda_star", "preview_pair"),
        *("read_runs", "verify"),
    }
    for name in opdcliff.__all__:
        assert getattr(opdcliff, name).__doc__
        assert name in dir(opdcliff)
    with pytest.raises(AttributeError, match="nothing_such"):
        getattr(opdcliff, "nothing_such")  # noqa: B009


def test_no_two_test_modules_share_a_name() -> None:
    """pytest imports them by name alone, and would take one for the other."""
    names = Counter(path.name for path in (REPO_ROOT / "tests").rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []
