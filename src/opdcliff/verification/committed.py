"""Results that are read back: every file is checked against the hash it was written with.

provenance.json, written last, holds the SHA-256 of each file of its folder that numbers are read
from, what runs and code they rest on, and a seal over itself. Pictures and pages are drawn from
these files and are not listed. An edit of any of them is told before a number is used; whoever
seals a folder anew leaves that to be seen in git.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from opdcliff.errors import ConfigError, InadmissibleError, TamperedError
from opdcliff.storage import differs, digest, file_digest, in_words, write_json_atomic
from opdcliff.verification.lock import Lock
from opdcliff.verification.run_views import RunView

PROVENANCE = "provenance.json"
TRAJECTORIES = "trajectories.csv"
_READ_BACK = (".csv", ".json", ".md")
# Drawn from the other tables, for people.
_DERIVED = ("cliff.csv", "comparison.csv")
_RESTORE = "restore the folder from git, or make it anew from its runs"


def about_runs(protocol: str, views: Sequence[RunView], lock: Lock | None) -> dict[str, Any]:
    """What tables rest on; runs_sha256 is that of `verify` where the runs are the same."""
    streams = sorted([view.identity, view.stream_sha256] for view in views)
    return {
        "protocol": protocol,
        "lock_sha256": None if lock is None else lock.sha256,
        "runs": len(views),
        "runs_sha256": digest(streams, "verified-runs"),
        "code_commits": sorted({view.code_commit for view in views}),
        "code_dirty": any(view.code_dirty for view in views),
    }


def seal_tables(folder: Path, about: Mapping[str, Any]) -> None:
    """Write provenance.json over the files that `folder` holds now; to be called last."""
    content = {**about, "files": {path.name: file_digest(path) for path in _files(folder)}}
    write_json_atomic(folder / PROVENANCE, {**content, "sha256": _seal(content)})


def check_tables(folder: Path, *, but: Collection[str] = ()) -> dict[str, Any]:
    """What provenance.json says, once every file in the folder is as it was sealed.

    but: files that the caller makes anew; a run killed before the seal may have left them half way.

    Raises:
        InadmissibleError: there is no provenance.json.
        TamperedError: it was edited, or a file was edited, removed or added.
    """
    path = folder / PROVENANCE
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        sealed, files = content.pop("sha256"), dict(content["files"])
        whole = sealed == _seal(content)
    except FileNotFoundError as error:
        raise InadmissibleError(
            f"{path} is missing, so nothing says which runs the tables come from; {_RESTORE}"
        ) from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ConfigError) as error:
        raise TamperedError(f"{path} {in_words(error)}; {_RESTORE}") from error
    if not whole:
        raise TamperedError(f"{path} is not what was sealed; {_RESTORE}")
    here = {file.name: file for file in _files(folder)}
    for name in sorted({*here, *files} - {*but}):
        if name not in here:
            raise TamperedError(
                f"{folder / name} is missing, and {PROVENANCE} lists it; {_RESTORE}"
            )
        if name not in files:
            raise TamperedError(f"{folder / name} is not listed in {PROVENANCE}; {_RESTORE}")
        how = differs(here[name], files[name], f"was edited after its runs; {_RESTORE}")
        if how is not None:
            raise TamperedError(f"{folder / name} {how}")
    return content


def _files(folder: Path) -> list[Path]:
    return [
        path
        for path in sorted(folder.iterdir())
        if path.suffix in _READ_BACK and path.name not in (PROVENANCE, *_DERIVED)
    ]


def _seal(content: Mapping[str, Any]) -> str:
    return digest(content, "tables-seal")
