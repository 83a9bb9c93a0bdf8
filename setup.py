"""What pyproject.toml cannot say: a wheel carries conf/, the locks and the origin of its code."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent
# Folders beside src/ that an installed package reads; see `opdcliff.paths`.
SHIPPED = ("conf", "prereg")


class BuildWithShipped(build_py):
    """Copies them into the built package; an editable installation reads the checkout's."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        package = Path(self.build_lib, "opdcliff")
        files = {
            path.relative_to(package).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(package.rglob("*.py"))
            if "shipped" not in path.parts
        }
        shipped = package / "shipped"
        shutil.rmtree(shipped, ignore_errors=True)
        for name in SHIPPED:
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(HERE / name, shipped / name, ignore=ignored)
        origin = {"commit": git("rev-parse", "HEAD") or "unknown", "files": files}
        origin["dirty"] = git("status", "--porcelain", "--", "src", *SHIPPED) != ""
        (shipped / "origin.json").write_text(json.dumps(origin, indent=1, sort_keys=True) + "\n")


def git(*words: str) -> str | None:
    """What git prints in the checkout; None without one."""
    try:
        done = subprocess.run(
            ["git", "-C", str(HERE), *words], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


setup(cmdclass={"build_py": BuildWithShipped})
