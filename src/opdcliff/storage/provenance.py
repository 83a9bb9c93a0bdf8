"""Where a result comes from: commit, package versions and the kind of machine, never its name."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from opdcliff.paths import PACKAGE, REPO_ROOT, SHIPPED
from opdcliff.storage.canonical import digest, file_digest

# What a study itself leaves in the checkout is no change of the code that made it.
_WRITTEN_BY_RUNS = (":(exclude)results", ":(exclude)runs")
_PACKAGES = ("torch", "transformers", "deepspeed", "hydra-core", "wandb", "numpy", "opd-cliff")


def run_provenance() -> dict[str, Any]:
    """Return what a manifest says about code, versions and machine at the start of a run."""
    commit, dirty = code_state()
    return {
        "format": 1,
        "code_commit": commit,
        "code_dirty": dirty,
        "versions": {package: _version(package) for package in _PACKAGES},
        "python": platform.python_version(),
        "host_class": host_class(),
        "start": now(),
    }


def code_state() -> tuple[str, bool]:
    """(commit, dirty) of the code that runs: of its checkout, or what its wheel was built from."""
    try:
        origin = json.loads((SHIPPED / "origin.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return git_state(REPO_ROOT)
    return str(origin["commit"]), bool(origin["dirty"] or origin["files"] != source_files())


def unknown_code() -> str | None:
    """Why records made now would not say which commit made them; None if they will."""
    if code_state()[0] != "unknown":
        return None
    return git_refusal(REPO_ROOT) or f"{PACKAGE} lies in no git checkout of its own"


def git_refusal(repo: Path) -> str | None:
    """Why git reads nothing in `repo`, where the reason is whose folder it is."""
    environment = {**os.environ, "LC_ALL": "C"}
    asked = ["git", "-C", str(repo), "rev-parse", "--show-toplevel"]
    try:
        said = subprocess.run(
            asked, capture_output=True, text=True, check=False, env=environment
        ).stderr
    except OSError:
        return "git is not installed"
    if "safe.directory" not in said:
        return None
    return (
        f"git refuses {repo}, which another user owns; allow it with "
        f"`git config --global --add safe.directory {repo}`"
    )


def git_state(repo: Path) -> tuple[str, bool]:
    """Return (commit, dirty) of the checkout at `repo`; ("unknown", True) where git cannot say.

    Untracked files count as dirty, but for those in results/ and runs/, which runs write. A `repo`
    that only lies inside another repository is unknown: that commit says nothing about this code.
    """
    top = git(repo, "rev-parse", "--show-toplevel")
    commit = git(repo, "rev-parse", "HEAD")
    status = git(repo, "status", "--porcelain", "--", ".", *_WRITTEN_BY_RUNS)
    if top is None or commit is None or status is None or Path(top) != repo.resolve():
        return "unknown", True
    return commit, bool(status)


def source_files(*places: str) -> dict[str, str]:
    """Return the digest of each source file in `places` (rooms or files of the package), or all.

    Raises:
        FileNotFoundError: a place that is neither.
    """
    files: list[Path] = []
    for place in places or (".",):
        path = PACKAGE / place
        found = [path] if path.suffix == ".py" else sorted(path.rglob("*.py"))
        if not found or not all(file.is_file() for file in found):
            raise FileNotFoundError(path)
        files += [file for file in found if SHIPPED not in file.parents]
    return {file.relative_to(PACKAGE).as_posix(): file_digest(file) for file in sorted(files)}


@functools.cache
def source_digest() -> str:
    """Return the digest of the package's source files, committed or not."""
    return digest(source_files(), "source")


def host_class() -> str:
    """Return the kind of machine without its name, e.g. `linux-x86_64-2cpu`."""
    return f"{platform.system().lower()}-{platform.machine()}-{os.cpu_count()}cpu"


def package_version() -> str:
    """Return the version of this package."""
    return _version("opd-cliff")


def now() -> str:
    """Return the time as ISO 8601 in UTC with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def git(repo: Path, *arguments: str) -> str | None:
    """Return what a git command prints in `repo`; None where it fails or there is no git."""
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(repo), *arguments],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
