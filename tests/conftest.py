"""Tests that need the real Amazon rows are deselected, and said to be, when those are not there.

Also the fixtures that several test modules share.
"""

from __future__ import annotations

import os

import pytest

ROWS_VARIABLE = "AMAZON_FASHION_DIR"
_NOT_RUN = pytest.StashKey[int]()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # Last, so that tests which -m or -k left out are not counted as lacking their rows.
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
    monkeypatch.setattr("opdcliff.provenance.git", lambda *_: None)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    count = config.stash.get(_NOT_RUN, 0)
    if count:
        terminalreporter.write_line(
            f"real rows: {count} tests not run ({ROWS_VARIABLE} is not set)", yellow=True
        )
