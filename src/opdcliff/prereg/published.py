"""Published numbers that a replication is compared with: sealed beside its tests, judged by none.

`prereg/<name>/` without a lock holds published predictions, test by test, each number with its tag.
Of a test of the same name the bounds that are the paper's ([P]) or derived from it ([D]) go into
the provenance of the replication's own test; choices made here ([here]) and unknowns do not.
"""

from __future__ import annotations

from pathlib import Path

from opdcliff.errors import ConfigError
from opdcliff.paths import StudyPaths
from opdcliff.verification import PUBLISHED, LockedTest, read_test

_TAGS = ("[P]", "[D]")


def published_folder(name: str | None, paths: StudyPaths) -> Path | None:
    """Where published predictions lie; None where there are none to compare with.

    Raises:
        ConfigError: there is no such folder.
    """
    if name is None:
        return None
    folder = paths.prereg_dir(name)
    if not folder.is_dir():
        raise ConfigError(
            f"protocol.predictions.published={name}: {folder} does not exist; name a folder of "
            "published predictions below prereg/, or null"
        )
    return folder


def with_published(tests: list[LockedTest], folder: Path | None) -> list[LockedTest]:
    """The tests, with the published bounds of those that have some in that folder.

    Raises:
        InadmissibleError: a file in it is damaged.
    """
    return tests if folder is None else [_beside(t, folder / f"{t.id}.yaml") for t in tests]


def _beside(test: LockedTest, file: Path) -> LockedTest:
    if not file.is_file():
        return test
    theirs = read_test(file)
    found = {
        f"{PUBLISHED}.{end}": f"{value:g} {theirs.provenance[f'window.{end}']}"
        for end, value in (("lo", theirs.window.lo), ("hi", theirs.window.hi))
        if value is not None and theirs.provenance.get(f"window.{end}", "").startswith(_TAGS)
    }
    return test.model_copy(update={"provenance": test.provenance | found})
