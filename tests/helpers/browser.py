"""A headless browser for tests: what a page looks like to it, and what it complains about."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
# A machine where this is 1 has to have a browser: there its absence is a failure.
REQUIRED = "OPDCLIFF_REQUIRE_BROWSER"
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--v=0",
    "--dump-dom",
)


def find_browser() -> str:
    """The program; skips the test where there is none, fails where there has to be one."""
    for name in NAMES:
        found = shutil.which(name)
        if found is not None:
            return found
    reason = f"no browser: none of {', '.join(NAMES)} is installed"
    if os.environ.get(REQUIRED) == "1":
        pytest.fail(reason)
    pytest.skip(f"{reason}; {REQUIRED}=1 makes that a failure")


def opened(page: Path, profile: Path) -> tuple[str, list[str]]:
    """The document after loading, and every line of its console."""
    done = subprocess.run(
        [
            find_browser(),
            *_FLAGS,
            f"--user-data-dir={profile}",
            "--window-size=1280,900",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    return done.stdout, [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
