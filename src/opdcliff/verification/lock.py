"""The lock that seals predictions, and whether it still holds.

prereg/<protocol>/ holds one YAML file per test, lock.json, and in `sealed/` a copy of the code that
gives the tests their meaning. lock.json keeps the SHA-256 of every test file and of that code, the
settings of every cell, the calibration, and a seal over itself. The seeds of the confirmatory runs
are derived from that content, so runs made before the lock cannot pass for runs made after it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from opdcliff.errors import ConfigError, InadmissibleError
from opdcliff.records import cell_identity
from opdcliff.storage import FOREIGN_ENDS, MEND_ENDS, canonical_json, differs, digest
from opdcliff.verification.locked_test import Name, Sha256, Strict, first_problem
from opdcliff.verification.sealed_code import sealed_copy

LOCK_FILE = "lock.json"
FORMAT = 3


class LockedArm(Strict):
    """Cells of one arm: `settings.science` of its runs, its lambdas, and what kind they are."""

    name: Name
    kind: str
    multiples: list[float]
    lams: list[float]
    settings: dict[str, Any]


class Lock(Strict):
    """Content of lock.json.

    entry: what judges in the sealed copy; format 1 has none. seen: every run of the locked models
    that existed, with its lambda as a share of lambda*; not known before format 3. raw_files:
    sha256 of the raw files that the prompts were made from, where they were. previews: rates of
    settled students, sampled before any run, where a test rests on them.
    """

    format: Literal[1, 2, 3]
    entry: str | None = None
    protocol: str
    supersedes: dict[str, str] | None
    created: str
    code_commit: str
    package_version: str
    tests: dict[str, Sha256]
    sources: dict[str, Sha256]
    arms: list[LockedArm]
    calibration: dict[str, Any]
    pilot: dict[str, Any]
    seen: list[dict[str, Any]] | None = None
    raw_files: dict[str, Sha256] | None = None
    previews: list[dict[str, Any]] | None = None
    prompts_sha256: Sha256
    models_identity: Sha256
    models_sha256: Sha256
    seeds: list[int]
    sha256: Sha256

    def arm(self, name: str) -> LockedArm:
        """The arm of that name.

        Raises:
            InadmissibleError: there is none.
        """
        for arm in self.arms:
            if arm.name == name:
                return arm
        raise InadmissibleError(f"the lock of {self.protocol} has no arm {name}")

    def identity(self, arm: LockedArm, lam: float, seed: int) -> str:
        """Identity of the run record that a cell of the lock must have."""
        return cell_identity(
            arm.settings, lam=lam, seed=seed, kind=arm.kind, models=self.models_identity
        )

    def cells(self) -> dict[str, tuple[str, float, int]]:
        """Every locked cell: its identity, and (arm, lam, seed)."""
        return {
            self.identity(arm, lam, seed): (arm.name, lam, seed)
            for arm in self.arms
            for lam in arm.lams
            for seed in self.seeds
        }


# What a lock adds after its content is settled; the seeds depend on the rest.
_NOT_CONTENT = ("created", "seeds", "sha256")


def seeds_of(content: Mapping[str, Any], count: int) -> list[int]:
    """Seeds of the confirmatory runs, derived from the hash of everything that is locked."""
    root = digest({k: v for k, v in content.items() if k not in _NOT_CONTENT}, "lock-content")
    return [int(digest([root, number], "lock-seed")[:7], 16) for number in range(count)]


def seal_of(content: Mapping[str, Any]) -> str:
    """The seal over a lock's content, its own field left out."""
    return digest({k: v for k, v in content.items() if k != "sha256"}, "lock-seal")


def lock_text(content: Mapping[str, Any]) -> str:
    """The one text of lock.json for its content."""
    plain = json.loads(canonical_json(content))
    return json.dumps(plain, sort_keys=True, indent=1, allow_nan=False) + "\n"


def read_lock(folder: Path) -> tuple[Lock | None, list[str]]:
    """The lock of a protocol, and every way in which its files are not as they were sealed.

    A lock whose own bytes do not agree with its seal cannot be trusted for anything: it is None.

    Raises:
        InadmissibleError: there is no lock, or one from a newer version of this program.
    """
    path = folder / LOCK_FILE
    if not path.is_file():
        raise InadmissibleError(
            f"{path} does not exist: nothing is locked there; `opdcliff lock` makes it"
        )
    broken = [f"{folder.name}/{LOCK_FILE}: its bytes are not those that were sealed"]
    try:
        data = path.read_bytes()
        content = json.loads(data)
        # Comparing bytes, not values: no edit at all passes, harmless ones included.
        text = lock_text(content).encode("ascii")
        if seal_of(content) != content["sha256"]:
            return None, broken
        if text != data:
            ends = f"{folder.name}/{LOCK_FILE}: {FOREIGN_ENDS} than were sealed; {MEND_ENDS}"
            return None, [ends] if text == data.replace(b"\r\n", b"\n") else broken
    except OSError as error:
        raise InadmissibleError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError, ConfigError):
        return None, broken
    number = content.get("format")
    if isinstance(number, int) and number > FORMAT:
        raise InadmissibleError(
            f"{path} has format {number} and this version reads up to {FORMAT}; update opd-cliff"
        )
    try:
        lock = Lock.model_validate(content)
    except ValidationError as error:
        raise InadmissibleError(f"{path}: {first_problem(error)}") from error
    return lock, _differences(lock, content, folder)


def _differences(lock: Lock, content: Mapping[str, Any], folder: Path) -> list[str]:
    found, where = [], folder.name
    if seeds_of(content, len(lock.seeds)) != lock.seeds:
        found.append(f"{where}/{LOCK_FILE}: the seeds are not those derived from its content")
    here = {path.name for path in folder.glob("*.yaml")}
    found += [f"{where}/{name}: not in the lock" for name in sorted(here - set(lock.tests))]
    for name, sealed in lock.tests.items():
        if not (folder / name).is_file():
            found.append(f"{where}/{name}: locked and not there")
        elif how := differs(folder / name, sealed, "changed since the lock"):
            found.append(f"{where}/{name}: {how}")
    return found + sealed_copy(folder, lock.sources, lock.entry).differences()
