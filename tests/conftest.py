"""Tests that need the real Amazon rows are deselected, and said to be, when those are not there.

Also the fixtures that several test modules share.
"""

from __future__ import annotations

import gc
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from opdcliff.processes import spare_imports
from whole_suite import marked

if TYPE_CHECKING:
    from workshop import Reply, Run

ROWS_VARIABLE = "AMAZON_FASHION_DIR"
# Objects made between two searches for garbage: configs make thousands each.
_GC_THRESHOLD = 20_000
_NOT_RUN = pytest.StashKey[int]()


def pytest_configure() -> None:
    # Read when torch is imported, here and in the processes that tests start. Two workers with two
    # threads each would wait for each other on two cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Test modules import everything; see opdcliff.processes.collector.
    spare_imports()


def pytest_collection_finish() -> None:
    _forget()
    gc.set_threshold(_GC_THRESHOLD, *gc.get_threshold()[1:])


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    if nextitem is None or nextitem.path != item.path:
        _forget()


def _forget() -> None:
    """What lives by now, mostly imported modules, is not searched for garbage again.

    A search takes half a second by the end, and statsmodels asks for one in every verdict.
    """
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> Iterator[None]:
    # Before -m leaves any out.
    marked(items, Path(__file__).parent)
    yield
    # Modules with most slow tests first: processes that share them out end at about one time.
    slow = Counter(
        item.path for item in items if any(map(item.get_closest_marker, ("slow", "multirank")))
    )
    items.sort(key=lambda item: -slow[item.path])
    # After the others, so that tests which -m or -k left out are not counted as lacking their rows.
    if os.environ.get(ROWS_VARIABLE):
        return
    missing = [item for item in items if item.get_closest_marker("real_rows")]
    if not missing:
        return
    items[:] = [item for item in items if item not in missing]
    config.hook.pytest_deselected(items=missing)
    config.stash[_NOT_RUN] = len(missing)
    if hasattr(config, "workeroutput"):
        config.workeroutput["real_rows_not_run"] = len(missing)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object) -> None:
    """With pytest-xdist only the workers collect; every worker collects all tests."""
    count = getattr(node, "workeroutput", {}).get("real_rows_not_run")
    if count:
        node.config.stash[_NOT_RUN] = count  # type: ignore[attr-defined]


@pytest.fixture
def no_git(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records of unknown commit: git takes most of the time that writing one takes."""
    monkeypatch.setattr("opdcliff.storage.provenance.git", lambda *_: None)


@pytest.fixture(scope="session")
def seconds_assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prompts and models of `debug=seconds` as commands leave them, made once for all modules."""
    from workshop import prepared_pair

    folder = tmp_path_factory.mktemp("seconds")
    prepared_pair(folder)
    return folder / "runs" / "assets"


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory, seconds_assets: Path) -> Path:
    """A folder with models, so that the tests of a module build each of the others once."""
    folder = tmp_path_factory.mktemp("workshop")
    shutil.copytree(seconds_assets, folder / "runs" / seconds_assets.name)
    return folder


@pytest.fixture
def run(
    workshop: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    no_git: None,
) -> Run:
    """Calls the command line in this process, in the workshop."""
    # Heavy imports are left to the tests that need them.
    from opdcliff.cli import command
    from workshop import Reply

    monkeypatch.chdir(workshop)
    monkeypatch.delenv("OPDCLIFF_RUNS", raising=False)
    # There is a commit; `no_git` hides it.
    monkeypatch.setattr("opdcliff.cli.words.unknown_code", lambda: None)

    def call(*words: str) -> Reply:
        capsys.readouterr()
        code = command.main(words)
        return Reply(code, *capsys.readouterr())

    return call


@pytest.fixture(scope="module")
def fashion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made-up rows in the files of Amazon_Fashion."""
    from amazon_world import world, write

    return write(tmp_path_factory.mktemp("fashion"), *world(users=260))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    count = config.stash.get(_NOT_RUN, 0)
    if count:
        terminalreporter.write_line(
            f"real rows: {count} tests not run ({ROWS_VARIABLE} is not set)", yellow=True
        )


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    """A copy of the committed tables of the quick study, to be made another run."""
    from opdcliff.report.comparison.tables import FILES
    from quick_tables import QUICK

    for name in FILES:
        shutil.copy(QUICK / name, tmp_path / name)
    return tmp_path
