"""The only place that builds a path; every name in one is checked first.

A name may come from a config, a command line or a record, so it is treated as hostile: it must
be plain, and the path it gives must stay inside its root after symbolic links are followed.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from opdcliff.errors import ConfigError

REPO_ROOT = Path(__file__).resolve().parents[2]

# Leaves room under the usual 255-byte limit for the digests appended below.
MAX_NAME_LENGTH = 120
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._=-]*")
_DIGEST = re.compile(r"[0-9a-f]{12,64}")
_ASSETS = "assets"


def conf_dir() -> Path:
    """Folder of the Hydra config groups in the checkout.

    Raises:
        ConfigError: the package runs from somewhere without its checkout.
    """
    folder = REPO_ROOT / "conf"
    if not folder.is_dir():
        raise ConfigError(f"{folder} is missing; install from a checkout with `pip install -e .`")
    return folder


def runs_root() -> Path:
    """Folder of run records and assets: $OPDCLIFF_RUNS, or `runs` in the current folder."""
    return Path(os.environ.get("OPDCLIFF_RUNS") or "runs").absolute()


def results_root() -> Path:
    """Folder of tables, verdicts and figures: `results` in the current folder."""
    return Path("results").absolute()


def safe_name(name: str) -> str:
    """Return `name` if it is safe as one path component.

    Letters, digits and `._=-`, starting with a letter, digit or `_` (a leading dot hides, a
    leading dash reads as an option), no `..`, at most 120 characters. Separators and hence
    absolute paths are out.

    Raises:
        ConfigError: anything else.
    """
    if len(name) > MAX_NAME_LENGTH or ".." in name or not _NAME.fullmatch(name):
        raise ConfigError(
            f"name {_short(name)} is not usable in a path; use letters, digits and ._=- "
            f"(not first: . = -), no '..', at most {MAX_NAME_LENGTH} characters"
        )
    return name


def prereg_root() -> Path:
    """Folder of locked predictions: `prereg` in the current folder."""
    return Path("prereg").absolute()


@dataclass(frozen=True)
class StudyPaths:
    """Where one study reads and writes; the roots default to the environment's."""

    runs: Path = field(default_factory=runs_root)
    results: Path = field(default_factory=results_root)
    prereg: Path = field(default_factory=prereg_root)

    def assets_dir(self, kind: str, digest: str) -> Path:
        """`runs/assets/<kind>-<digest12>`: a tokenizer, prompt set or model shared by cells."""
        return _under(self.runs, _ASSETS, f"{safe_name(kind)}-{_digest12(digest)}")

    def cell_dir(self, protocol: str, cell_name: str, identity: str) -> Path:
        """`runs/<protocol>/<cell_name>-<identity12>`: the record of one run.

        Raises:
            ConfigError: an unsafe name, or a protocol called `assets`, whose folder is taken.
        """
        if protocol == _ASSETS:
            raise ConfigError(f"protocol {protocol!r} is reserved for shared assets; rename it")
        return _under(
            self.runs, safe_name(protocol), f"{safe_name(cell_name)}-{_digest12(identity)}"
        )

    def protocol_runs(self, protocol: str) -> Path:
        """`runs/<protocol>`: the records of one protocol."""
        return _under(self.runs, safe_name(protocol))

    def prereg_dir(self, protocol: str) -> Path:
        """`prereg/<protocol>`: the locked tests of one protocol."""
        return _under(self.prereg, safe_name(protocol))

    def verdicts_dir(self, protocol: str) -> Path:
        """`results/<protocol>`: verdicts, report and cells of one locked protocol."""
        return _under(self.results, safe_name(protocol))

    def figures_dir(self) -> Path:
        """`results/figures`: the figures over all studies, with their numbers."""
        return _under(self.results, "figures")

    def results_dir(self, data: str, protocol: str) -> Path:
        """`results/<data>/<protocol>`: tables, verdicts, report and figures of one study."""
        return _under(self.results, safe_name(data), safe_name(protocol))


def refuse_links(folder: Path) -> None:
    """Raise ConfigError for a symbolic link in `folder`: a write to it would land elsewhere."""
    for path in folder.iterdir():
        if path.is_symlink():
            raise ConfigError(f"{path} is a symbolic link, which leads elsewhere; remove the link")


def _under(root: Path, *parts: str) -> Path:
    path = root.joinpath(*parts)
    if not path.resolve().is_relative_to(root.resolve()):
        raise ConfigError(f"{path} leads outside {root} through a symbolic link; remove the link")
    return path


def _digest12(digest: str) -> str:
    if not _DIGEST.fullmatch(digest):
        raise ConfigError(f"digest {_short(digest)} must be 12 to 64 lower-case hex digits")
    return digest[:12]


def _short(name: str) -> str:
    return repr(name if len(name) <= 60 else name[:60] + "...")
