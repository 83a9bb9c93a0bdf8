"""A made-up lock and its cells, for the tests of verdicts and of the verifier."""

from __future__ import annotations

import copy
import functools
import shutil
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from opdcliff.paths import REPO_ROOT
from opdcliff.records.writer import RunRecord
from opdcliff.settings.checks import load, science_of
from opdcliff.settings.compose import compose_one
from opdcliff.storage.canonical import file_digest
from opdcliff.verification.lock import (
    LOCK_FILE,
    Lock,
    LockedArm,
    lock_text,
    read_lock,
    seal_of,
    seeds_of,
)
from opdcliff.verification.locked_test import LockedTest, write_test
from opdcliff.verification.sealed_code import JUDGE, SEALED, write_copy
from opdcliff.verification.verdicts import CellValue

LAMS = [1.70, 1.75, 1.80, 1.85, 1.90]
SEEDS = [11, 12, 13, 14, 15, 16]


def onset_test(**changes: Any) -> LockedTest:
    """A test of the onset on the grid `LAMS`: window [1.74, 1.84]."""
    plain: dict[str, Any] = {
        "id": "T1",
        "claim": "the student stops parsing at lambda*",
        "source": "here [D]",
        "hypothesis": "the onset lies in the window",
        "metric": {"name": "eval/parse_rate", "version": 1},
        "design": {
            "arm": "fine_grid",
            "clip": "c5",
            "strength": 5.0,
            "lams": LAMS,
            "updates": 200,
            "warmup_updates": 100,
            "seeds": len(SEEDS),
        },
        "estimator": {"kind": "onset", "level": 0.5, "confidence": 0.95},
        "window": {"lo": 1.74, "hi": 1.84, "derivation": "made up"},
        "refutes": "wholly outside",
        "minimum_seeds": 6,
        "exclusions": "none",
        "stopping": "all once",
        "correction": "holm",
        "provenance": {"window": "[D]"},
    }
    return LockedTest.model_validate(plain | changes)


BY_BRACKETS = {"kind": "onset", "level": 0.5, "confidence": 0.95, "by": "brackets"}


def contrast_test(**changes: Any) -> LockedTest:
    """Fine grid at 1.70 less the warm start: parse rate, at least 0.3 more."""
    plain = onset_test().model_dump() | {
        "id": "lift",
        "estimator": {
            "kind": "contrast",
            "of": {"arm": "fine_grid", "lam": 1.70},
            "minus": {"arm": "warm_start", "lam": None},
            "confidence": 0.9,
            "least_parse_rate": 0.0,
        },
        "window": {"lo": 0.3, "hi": None, "derivation": "made up"},
        "correction": "none",
    }
    return LockedTest.model_validate(plain | changes)


def value(parse_rate: float, status: str = "finished", **metrics: float) -> CellValue:
    """A cell that ended with that parse rate."""
    return CellValue(status, {"eval/parse_rate": parse_rate, **metrics})


def cliff_cells(falls_after: list[float]) -> dict[tuple[str, float, int], CellValue]:
    """For each seed 95% up to and with its lambda of `falls_after`, and 5% above it."""
    return {
        ("fine_grid", lam, seed): value(0.95 if lam <= last else 0.05)
        for seed, last in zip(SEEDS, falls_after, strict=True)
        for lam in LAMS
    }


# ---- a small locked protocol with its runs -------------------------------------------------------

PROTOCOL = "tiny"
MODELS, WEIGHTS = "ab" * 32, "cd" * 32


@functools.cache
def _composed() -> dict[str, Any]:
    return asdict(load(compose_one(["protocol=mini", "debug=seconds"])))


def settings_of(arm: str) -> dict[str, Any]:
    """Settings of an arm's runs, as a record keeps them."""
    config = copy.deepcopy(_composed())
    config["optim"]["updates"] = 400 if arm == "extended" else 200
    return config


def make_lock(repo: Path, number: int = 2) -> Lock:
    """Write and commit prereg/tiny: one onset test and one contrast, six derived seeds.

    number: format of the lock; of format 1 the sealed code is that of the lock in prereg/mini, one
        of format 3 is decided by brackets and names the runs that existed.
    """
    folder = repo / "prereg" / PROTOCOL
    folder.mkdir(parents=True)
    arms = [
        LockedArm(
            name=name,
            kind=kind,
            multiples=[],
            lams=lams,
            settings=science_of(settings_of(name)),
        )
        for name, kind, lams in (
            ("fine_grid", "opd", LAMS),
            ("extended", "opd", LAMS[1:4]),
            ("warm_start", "warm_start", [1.0]),
        )
    ]
    for test in (
        onset_test(**({"estimator": BY_BRACKETS} if number == 3 else {})),
        contrast_test(),
    ):
        write_test(folder / f"{test.id}.yaml", test)
    content: dict[str, Any] = {
        "format": number,
        "protocol": PROTOCOL,
        "supersedes": None,
        "code_commit": "0" * 40,
        "package_version": "0",
        "tests": {path.name: file_digest(path) for path in folder.glob("*.yaml")},
        **_sealed(folder, number),
        "arms": [arm.model_dump() for arm in arms],
        "calibration": {
            "binding": {"token_class": "text", "offsets": "0-27", "p": 0.86, "b": 0.46}
        },
        "pilot": {},
        **({"seen": []} if number == 3 else {}),
        "prompts_sha256": "ef" * 32,
        "models_identity": MODELS,
        "models_sha256": WEIGHTS,
        "created": "2026-01-01T00:00:00.000+00:00",
    }
    content["seeds"] = seeds_of(content, len(SEEDS))
    content["sha256"] = seal_of(content)
    (folder / LOCK_FILE).write_text(lock_text(content))
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "lock"]):
        run_git(repo, *words)
    lock, broken = read_lock(folder)
    assert lock is not None
    assert not broken
    return lock


def _sealed(folder: Path, number: int) -> dict[str, Any]:
    """The sealed copy of a lock of that format, and what the lock says of it."""
    if number > 1:
        return {"sources": write_copy(folder), "entry": JUDGE}
    shutil.copytree(REPO_ROOT / "prereg" / "mini" / SEALED, folder / SEALED)
    real, _ = read_lock(REPO_ROOT / "prereg" / "mini")
    assert real is not None
    return {"sources": dict(real.sources)}


def run_git(repo: Path, *words: str) -> str:
    """What a git command prints, under a name and address of its own."""
    who = ["-c", "user.name=T", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", "-C", str(repo), *who, *words], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def write_run(
    repo: Path,
    lock: Lock,
    key: tuple[str, float, int],
    metrics: dict[str, float],
    *,
    status: str | None = "finished",
    folder: str | None = None,
    config: dict[str, Any] | None = None,
    identity: str | None = None,
    seed: int | None = None,
    protocol: str = PROTOCOL,
    weights: str = WEIGHTS,
) -> Path:
    """The record of a locked cell; each keyword makes it something else."""
    arm, lam, own = key
    seed = own if seed is None else seed
    locked = lock.arm(arm)
    plain = settings_of(arm) | {"seed": seed, "resolved_lam": lam, "kind": locked.kind}
    path = repo / "runs" / PROTOCOL / (folder or f"{arm}-{lam}-{own}")
    record = RunRecord.create(
        path,
        identity=identity or lock.identity(locked, lam, seed),
        config=config or plain,
        seed=seed,
        protocol=protocol,
        name=f"{arm}-{lam}-{seed}",
        extras={"models_sha256": weights},
    )
    record.log(0, {"eval/parse_rate": 0.3})
    record.log(200, metrics)
    if status is None:
        record._release()
    else:
        record.close(status)
    return path


def write_runs(repo: Path, lock: Lock) -> None:
    """Runs of every locked cell: the cliff between 1.75 and 1.80, or 1.80 and 1.85."""
    for key in lock.cells().values():
        write_run(repo, lock, key, {"eval/parse_rate": rate_at(lock, key)})


def rate_at(lock: Lock, key: tuple[str, float, int]) -> float:
    """The parse rate of a cell in these studies."""
    arm, lam, seed = key
    last = 1.80 if seed == lock.seeds[0] else 1.75
    return 0.3 if arm == "warm_start" else 0.95 if lam <= last else 0.05


def make_study(repo: Path, number: int = 2) -> Lock:
    """A committed lock with all its runs, which say that they ran at its commit."""
    with pytest.MonkeyPatch.context() as patch:
        lock = make_lock(repo, number)
        commit = run_git(repo, "rev-parse", "HEAD")
        patch.setattr("opdcliff.storage.provenance.git_state", lambda _: (commit, False))
        write_runs(repo, lock)
    return lock
