"""Locked predictions: their schema, the lock that seals them, and whether it still holds.

prereg/<protocol>/ holds one YAML file per test and lock.json, which keeps the SHA-256 of every
test file and of the code that gives the tests their meaning, the settings of every cell, the
calibration, and a seal over itself. The seeds of the confirmatory runs are derived from that
content, so runs made before the lock cannot pass for runs made after it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from opdcliff.errors import ConfigError, InadmissibleError
from opdcliff.records import cell_identity
from opdcliff.storage import canonical_json, digest, file_digest, in_words

LOCK_FILE = "lock.json"
FORMAT = 1
# The code that says what a metric, a parsed answer, an onset and a verdict are.
SOURCES = ("contract.py", "metrics.py", "ranking.py", "stats.py", "verdicts.py")
_PACKAGE = Path(__file__).parent

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Metric(_Strict):
    """A metric of the records, with the version of its meaning."""

    name: str
    version: int


class Design(_Strict):
    """The cells of a test: one arm, its lambdas, and how many seeds. Null is unknown."""

    arm: Name
    clip: str
    strength: float | None
    lams: list[float] | None
    updates: int | None
    warmup_updates: int | None
    seeds: int


class OnsetEstimator(_Strict):
    """Per seed the crossing of a decreasing isotonic fit with `level`; t-interval over seeds."""

    kind: Literal["onset"]
    level: float | None
    confidence: float


class CellRef(_Strict):
    """The cells of one arm at one lambda, all seeds; a baseline has no lambda."""

    arm: Name
    lam: float | None


class ContrastEstimator(_Strict):
    """Per seed the metric of `of` less that of `minus`; t-interval over seeds.

    least_parse_rate: both sides must parse at least that much on average, or the contrast
    compares different answers and is not admissible.
    """

    kind: Literal["contrast"]
    of: CellRef
    minus: CellRef
    confidence: float
    least_parse_rate: float


class Window(_Strict):
    """Where the estimate has to lie; an open side is null."""

    lo: float | None
    hi: float | None
    derivation: str

    @property
    def bounds(self) -> tuple[float, float]:
        """(lo, hi) with infinities for open sides."""
        return (
            -math.inf if self.lo is None else self.lo,
            math.inf if self.hi is None else self.hi,
        )

    @model_validator(mode="after")
    def _ordered(self) -> Window:
        lo, hi = self.bounds
        if not lo < hi or (math.isinf(lo) and math.isinf(hi)):
            raise ValueError(f"window [{self.lo}, {self.hi}] must have lo < hi and one bound")
        return self


class LockedTest(_Strict):
    """One prediction: what is claimed, how it is measured, and what would refute it."""

    id: Name
    claim: str
    source: str
    hypothesis: str
    metric: Metric
    design: Design
    estimator: OnsetEstimator | ContrastEstimator = Field(discriminator="kind")
    window: Window
    refutes: str
    minimum_seeds: int
    exclusions: str
    stopping: str
    correction: Literal["holm", "none"]
    provenance: dict[str, str]


class LockedArm(_Strict):
    """Cells of one arm: `settings.science` of its runs, its lambdas, and what kind they are."""

    name: Name
    kind: str
    multiples: list[float]
    lams: list[float]
    settings: dict[str, Any]


class Lock(_Strict):
    """Content of lock.json."""

    format: Literal[1]
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


def source_digests() -> dict[str, str]:
    """SHA-256 of the code that a lock seals, as it is installed here."""
    return {name: file_digest(_PACKAGE / name) for name in SOURCES}


def read_test(path: Path) -> LockedTest:
    """One test file.

    Raises:
        InadmissibleError: it cannot be read, is no YAML, or breaks the schema.
    """
    try:
        return LockedTest.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise InadmissibleError(f"{path}: {first_problem(error)}") from error
    # A date that is none or a number too long raises a ValueError of its own.
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise InadmissibleError(f"{path} cannot be read as YAML ({in_words(error)})") from error


def first_problem(error: ValidationError) -> str:
    """The first line a pydantic error has to say: the place, and what is wrong there."""
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"])) or "the whole"
    return f"{place}: {first['msg']} (got {str(first['input'])[:60]!r})"


def write_test(path: Path, test: LockedTest) -> None:
    """Write a test file, its fields in the order of the schema."""
    text = yaml.safe_dump(test.model_dump(), sort_keys=False, width=96, allow_unicode=False)
    path.write_text(text, encoding="utf-8")


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
        if lock_text(content).encode("ascii") != data or seal_of(content) != content["sha256"]:
            return None, broken
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
        elif file_digest(folder / name) != sealed:
            found.append(f"{where}/{name}: changed since the lock")
    own = source_digests()
    for name, sealed in lock.sources.items():
        if own.get(name) != sealed:
            found.append(f"{name}: the code is not that of the lock")
    return found
