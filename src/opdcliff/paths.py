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

PACKAGE = Path(__file__).resolve().parent
REPO_ROOT = PACKAGE.parents[1]

# What an installed wheel carries; a checkout has it beside src/ instead.
SHIPPED = PACKAGE / "shipped"

# Leaves room under the usual 255-byte limit for the digests appended below.
MAX_NAME_LENGTH = 120
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._=-]*")
_DIGEST = re.compile(r"[0-9a-f]{12,64}")
_ASSETS, _RESULTS, _ROADS = "assets", "results", "roads"


def conf_dir() -> Path:
    """Folder of the Hydra config groups: the wheel's, or that of the checkout.

    Raises:
        ConfigError: it was removed.
    """
    for folder in (SHIPPED / "conf", REPO_ROOT / "conf"):
        if folder.is_dir():
            return folder
    raise ConfigError(f"{REPO_ROOT / 'conf'} is missing; install opd-cliff anew, or restore it")


def shipped_locks() -> Path | None:
    """Folder of the locks that an installed wheel carries; None in a checkout."""
    folder = SHIPPED / "prereg"
    return folder if folder.is_dir() else None


def other_checkout(folder: Path) -> Path | None:
    """The checkout of this project around `folder`, where the code that runs is not of it."""
    for parent in (folder, *folder.parents):
        if (parent / "src" / "opdcliff" / "paths.py").is_file():
            return None if parent.resolve() == REPO_ROOT else parent
    return None


def runs_root() -> Path:
    """Folder of run records and assets: $OPDCLIFF_RUNS, or `runs` in the current folder."""
    return Path(os.environ.get("OPDCLIFF_RUNS") or "runs").absolute()


def results_root() -> Path:
    """Folder of the committed tables, verdicts and figures: `results` in the current folder."""
    return Path(_RESULTS).absolute()


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
class ResultFolders:
    """The folders of tables, verdicts and figures below one root, a folder for each kind.

    other: where a folder is looked for that `root` does not have, None to look nowhere else.
    """

    root: Path
    other: Path | None = None

    def locked_dir(self, protocol: str) -> Path:
        """`locked/<protocol>`: verdicts, report and cells of one locked protocol."""
        return self._folder("locked", safe_name(protocol))

    def study_dir(self, data: str, protocol: str) -> Path:
        """`studies/<data>/<protocol>`: tables and figure of one study on one data set."""
        return self._folder("studies", safe_name(data), safe_name(protocol))

    def prediction_dir(self, digest: str) -> Path:
        """`predictions/<digest12>`: the predicted onset of the settings with that digest."""
        return self._folder("predictions", _digest12(digest))

    def preview_dir(self, name: str) -> Path:
        """`previews/<name>`: settled students at the points of a protocol, or of given settings."""
        return self._folder("previews", safe_name(name))

    def grid_dir(self, protocol: str) -> Path:
        """`grids/<protocol>`: collected tables of a grid of `train -m`."""
        return self._folder("grids", safe_name(protocol))

    def figures_dir(self) -> Path:
        """`figures`: the figures over all studies, with their numbers."""
        return self._folder("figures")

    def _folder(self, *parts: str) -> Path:
        folder = _under(self.root, *parts)
        if self.other is None or folder.is_dir():
            return folder
        there = _under(self.other, *parts)
        return there if there.is_dir() else folder


@dataclass(frozen=True)
class StudyPaths:
    """Where one study reads and writes; the roots default to the environment's.

    runs: all that a command writes. results: the committed results, which are only read unless
    `renew` says that they are to be written anew. locks: those that the wheel carries, read where
    `prereg` has none of that name.
    """

    runs: Path = field(default_factory=runs_root)
    results: Path = field(default_factory=results_root)
    prereg: Path = field(default_factory=prereg_root)
    renew: bool = False
    locks: Path | None = field(default_factory=shipped_locks)

    @property
    def committed(self) -> ResultFolders:
        """The results that are in git."""
        return ResultFolders(self.results)

    @property
    def own(self) -> ResultFolders:
        """The results that commands given here have written, `runs/results`."""
        return ResultFolders(_under(self.runs, _RESULTS))

    @property
    def output(self) -> ResultFolders:
        """Where a command writes its results."""
        return self.committed if self.renew else self.own

    @property
    def readable(self) -> ResultFolders:
        """What figures, report and `source=table` read: the committed, else one's own."""
        return ResultFolders(self.results, self.own.root)

    def assets_dir(self, kind: str, digest: str) -> Path:
        """`runs/assets/<kind>-<digest12>`: a tokenizer, prompt set or model shared by cells."""
        return _under(self.runs, _ASSETS, f"{safe_name(kind)}-{_digest12(digest)}")

    def cell_dir(self, protocol: str, cell_name: str, identity: str) -> Path:
        """`runs/<protocol>/<cell_name>-<identity12>`: the record of one run.

        Raises:
            ConfigError: an unsafe name, or a protocol called `assets`, `results` or `roads`, whose
                folders are taken.
        """
        if protocol in (_ASSETS, _RESULTS, _ROADS):
            raise ConfigError(
                f"protocol {protocol!r} is reserved: runs/{protocol} holds other things; rename it"
            )
        return _under(
            self.runs, safe_name(protocol), f"{safe_name(cell_name)}-{_digest12(identity)}"
        )

    def protocol_runs(self, protocol: str) -> Path:
        """`runs/<protocol>`: the records of one protocol."""
        return _under(self.runs, safe_name(protocol))

    def road_file(self, protocol: str) -> Path:
        """`runs/roads/<protocol>.json`: the settings that the steps of a protocol were given."""
        return _under(self.runs, _ROADS, f"{safe_name(protocol)}.json")

    def prereg_dir(self, protocol: str) -> Path:
        """`prereg/<protocol>`: the locked tests of one protocol."""
        own = _under(self.prereg, safe_name(protocol))
        if self.locks is None or own.is_dir():
            return own
        shipped = _under(self.locks, safe_name(protocol))
        return shipped if shipped.is_dir() else own


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
