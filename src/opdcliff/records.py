"""Run records: the checked truth about what was run and measured.

A record is a folder:

    config.yaml     the resolved config, secrets replaced by ***
    manifest.json   identity, code, versions, seed, host class, start, end, status; sealed
    metrics.jsonl   one line per evaluation, fsynced, each checksum covering the one before it
    run.lock        held by the process that writes; released by the kernel however it dies

The checksum chain starts from the run's identity, so an edited, removed, swapped or foreign line
is noticed; the manifest of a closed run holds the chain's end, so a shortened file is, too.
These checks find accidents and careless edits. The lock's git anchor guards against forgery.
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import logging
import operator
import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, SupportsFloat

import pandas as pd
import yaml

from opdcliff.canonical import (
    canonical_json,
    decode_float,
    digest,
    encode_floats,
    fsync_folder,
    write_bytes_atomic,
    write_json_atomic,
    write_text_atomic,
    writing,
)
from opdcliff.errors import ConfigError, RecordError
from opdcliff.paths import REPO_ROOT

CONFIG = "config.yaml"
MANIFEST = "manifest.json"
METRICS = "metrics.jsonl"
LOCK = "run.lock"

# An outcome: data, never overwritten. The other terminal statuses are interruptions.
OUTCOMES = frozenset({"finished", "collapsed", "diverged"})
TERMINAL = OUTCOMES | {"preempted", "failed"}

_PACKAGES = ("torch", "transformers", "deepspeed", "hydra-core", "wandb", "numpy", "opd-cliff")
_METRIC_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./-]*")
# `step` is the record's own column and `update` is the same number in the W&B mirror.
_RESERVED = frozenset({"step", "update"})

# What parsing of arbitrary bytes and picking them apart can raise.
_MALFORMED = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)

_log = logging.getLogger(__name__)


# ---- what a record says about the run -------------------------------------------------------


def run_identity(scientific_config: Mapping[str, Any]) -> str:
    """Return the sha256 identity of a run (64 hex digits); the caller passes only the science.

    Raises:
        ConfigError: the config holds NaN or something JSON has no form for.
    """
    return digest(scientific_config, "run-identity")


def git_state(repo: Path) -> tuple[str, bool]:
    """Return (commit, dirty) of the checkout at `repo`; ("unknown", True) where git cannot say.

    Untracked files count as dirty. A `repo` that only lies inside another repository is unknown:
    that commit says nothing about this code.
    """
    top = _git(repo, "rev-parse", "--show-toplevel")
    commit = _git(repo, "rev-parse", "HEAD")
    status = _git(repo, "status", "--porcelain")
    if top is None or commit is None or status is None or Path(top) != repo.resolve():
        return "unknown", True
    return commit, bool(status)


def host_class() -> str:
    """Return the kind of machine without its name, e.g. `linux-x86_64-2cpu`."""
    return f"{platform.system().lower()}-{platform.machine()}-{os.cpu_count()}cpu"


def redact(config: Mapping[str, Any]) -> dict[str, Any]:
    """Copy `config` as plain containers with every secret replaced by `***`.

    A secret is any value under a key that names one (`wandb.api_key`, `hf_token`, but not
    `max_new_tokens` or `eos_token`), and any text that contains the value of an environment
    variable so named.

    Raises:
        ConfigError: the config holds NaN or something JSON has no form for.
    """
    plain: dict[str, Any] = json.loads(canonical_json(_redact(config, _environment_secrets())))
    return plain


# ---- reading --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Record:
    """One run record, verified.

    `history` has the int column `step` and one float column per metric, NaN where a line lacks
    it; `final` tells a missing metric from a NaN. `truncated`: the metric stream ends early.
    `complete`: the status is an outcome (finished, collapsed, diverged) and nothing is missing.
    """

    folder: Path
    manifest: dict[str, Any]
    config: dict[str, Any]
    history: pd.DataFrame
    last: dict[str, float]
    truncated: bool

    @property
    def status(self) -> str:
        """One of running, finished, collapsed, diverged, preempted, failed."""
        return str(self.manifest["status"])

    @property
    def complete(self) -> bool:
        """Whether the record may stand for its cell in an analysis."""
        return self.status in OUTCOMES and not self.truncated

    def final(self, metric: str) -> float:
        """Return the metric on the last line that carries it; a NaN there stays NaN.

        Raises:
            RecordError: no line carries it.
        """
        if metric not in self.last:
            known = ", ".join(sorted(self.last)) or "none"
            raise RecordError(f"{self.folder}: no metric {metric!r}; recorded: {known}")
        return self.last[metric]


def read_record(folder: Path) -> Record:
    """Read and verify one record.

    An unterminated last line (a kill in the middle of a write) is dropped and flagged, and so are
    lines that a closed run had and the file no longer has.

    Raises:
        RecordError: any other damage, with the file and the line.
    """
    manifest = _read_manifest(folder)
    config = _read_config(folder, manifest)
    stream = _read_stream(folder, manifest)
    truncated = stream.torn
    end = manifest["metrics"]
    if end is not None and len(stream.rows) < end["lines"]:
        truncated = True
    elif end is not None and stream.heads[-1] != end["sha256"]:
        raise RecordError(
            f"{folder / METRICS} line {len(stream.rows)}: not where the manifest says it ends"
        )
    last: dict[str, float] = {}
    for _, metrics in stream.rows:
        last.update(metrics)
    return Record(folder, manifest, config, _frame(stream.rows), last, truncated)


def read_records(root: Path) -> list[Record]:
    """Read every record under `root`, in the order of their folders.

    Raises:
        RecordError: one of them is damaged.
    """
    folders = sorted(path.parent for path in root.rglob(MANIFEST))
    kept = [path for path in folders if (path / METRICS).exists() or (path / LOCK).exists()]
    return [read_record(path) for path in kept]


def terminal_status(folder: Path) -> str | None:
    """Return finished, collapsed, diverged, preempted or failed; None without such an end.

    None covers no record, one still running or killed, and a truncated one.

    Raises:
        RecordError: the record is damaged.
    """
    if not (folder / MANIFEST).exists():
        return None
    record = read_record(folder)
    return record.status if record.status in TERMINAL and not record.truncated else None


# ---- writing --------------------------------------------------------------------------------


class RunRecord:
    """The one writer of a run's record; use as a context manager.

    Leaving the `with` block closes the record: finished, failed on an exception (its one-line
    text is the reason), preempted on KeyboardInterrupt or SystemExit.
    """

    def __init__(self, folder: Path, lock: int, manifest: dict[str, Any], stream: _Stream) -> None:
        self.folder = folder
        self._lock: int | None = lock
        self._manifest = manifest
        self._head = stream.heads[-1]
        self._lines = len(stream.rows)
        self._step = stream.rows[-1][0] if stream.rows else -1
        with writing(folder / METRICS):
            self._file = os.open(folder / METRICS, os.O_WRONLY | os.O_APPEND)

    @classmethod
    def create(
        cls,
        folder: Path,
        *,
        identity: str,
        config: Mapping[str, Any],
        seed: int,
        protocol: str,
        name: str,
        extras: Mapping[str, Any] | None = None,
        restart: bool = False,
        resume_step: int | None = None,
    ) -> Self:
        """Open the record of a new run, or with `restart` of one that did not come to an outcome.

        Args:
            folder: the record's folder, made when missing.
            identity: `run_identity` of the scientific config.
            config: resolved config; secrets are redacted on writing.
            extras: free JSON values kept in the manifest.
            restart: allow an interrupted record; its metrics are kept as metrics.stale-N.jsonl.
            resume_step: with `restart`, carry over the metric lines up to and including this
                step (that of the checkpoint); None starts an empty stream.

        Raises:
            RecordError: another process writes here, the run already has an outcome, an
                interrupted record without `restart`, or one of another run.
            ConfigError: a config or extras that JSON has no form for.
        """
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        lock, stale = _acquire(folder / LOCK)
        try:
            claim = {"identity": identity, "seed": seed, "protocol": protocol, "name": name}
            old = _restartable(folder, claim, restart, resume_step)
            plain = redact(config)
            manifest = {
                **claim,
                **_provenance(),
                "status": "running",
                "reason": None,
                "end": None,
                "metrics": None,
                "config_sha256": digest(plain, "run-config"),
                "attempts": _attempts(old, stale),
                "extras": redact(encode_floats(extras or {})),
            }
            if old is not None and resume_step is not None:
                manifest["start"] = old["start"]
            # In this order a kill at any point leaves a record that reads as interrupted.
            stream = _carry_over(folder, old, resume_step, manifest)
            write_bytes_atomic(folder / METRICS, stream.data)
            write_text_atomic(folder / CONFIG, yaml.safe_dump(plain, sort_keys=True))
            _write_manifest(folder, manifest)
            return cls(folder, lock, manifest, stream)
        except BaseException:
            os.close(lock)
            raise

    def log(self, step: int, metrics: Mapping[str, SupportsFloat]) -> None:
        """Append one evaluation; on return it is on disk.

        `step` counts updates and strictly increases; NaN and infinities are kept as such.

        Raises:
            RecordError: a step out of order, a bad metric name or value, a closed record, or a
                disk that refuses (the record then holds the lines before this one).
        """
        self._require_open()
        number = operator.index(step)
        if number <= self._step:
            raise RecordError(f"{self.folder}: step {number} after {self._step}; must increase")
        line, head = _encode_line(self._head, number, _floats(metrics))
        with writing(self.folder / METRICS):
            _append(self._file, line)
        self._head, self._step, self._lines = head, number, self._lines + 1

    def note(self, **extras: Any) -> None:
        """Add or replace free values in the manifest of the running record.

        Raises:
            RecordError: the record is closed. ConfigError: a value JSON has no form for.
        """
        self._require_open()
        self._merge_extras(extras)
        _write_manifest(self.folder, self._manifest)

    def close(self, status: str, reason: str | None = None, **extras: Any) -> None:
        """End the run with a terminal status; the writer is of no use afterwards.

        Raises:
            RecordError: an unknown status, or the record is closed already.
        """
        if status not in TERMINAL:
            raise RecordError(f"status {status!r} must be one of {', '.join(sorted(TERMINAL))}")
        self._require_open()
        self._merge_extras(extras)
        self._manifest |= {
            "status": status,
            "reason": None if reason is None else _redact(reason, _environment_secrets()),
            "end": _now(),
            "metrics": {"lines": self._lines, "sha256": self._head},
        }
        try:
            _write_manifest(self.folder, self._manifest)
        finally:
            self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._lock is None:
            return
        if error is None:
            self.close("finished")
            return
        status = "preempted" if isinstance(error, KeyboardInterrupt | SystemExit) else "failed"
        text = " ".join(str(error).split())
        try:
            self.close(status, f"{type(error).__name__}: {text}" if text else type(error).__name__)
        except RecordError as second:
            error.add_note(f"and the record could not be closed: {second}")

    def _require_open(self) -> None:
        if self._lock is None:
            raise RecordError(f"{self.folder}: the record is closed")

    def _merge_extras(self, extras: Mapping[str, Any]) -> None:
        self._manifest["extras"] |= redact(encode_floats(extras))

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._file)
            # An empty lock file tells a clean end from a killed owner.
            os.ftruncate(self._lock, 0)
            os.close(self._lock)
            self._lock = None


# ---- the metric stream ----------------------------------------------------------------------

_Row = tuple[int, dict[str, float]]


@dataclass(frozen=True)
class _Stream:
    data: bytes
    rows: list[_Row]
    heads: list[str]
    torn: bool = False


def _genesis(manifest: Mapping[str, Any]) -> str:
    claim = [manifest[key] for key in ("identity", "seed", "protocol", "name")]
    return digest(claim, "metrics-genesis")


def _encode_line(head: str, step: int, metrics: Mapping[str, float]) -> tuple[bytes, str]:
    values = encode_floats(metrics)
    head = digest([head, step, values], "metrics-line")
    line = canonical_json({"step": step, "metrics": values, "sha256": head})
    return line.encode("ascii") + b"\n", head


def _read_stream(folder: Path, manifest: Mapping[str, Any]) -> _Stream:
    data = _read_bytes(folder / METRICS)
    whole, newline, rest = data.rpartition(b"\n")
    rows: list[_Row] = []
    heads = [_genesis(manifest)]
    for number, line in enumerate(whole.split(b"\n") if newline else [], start=1):
        where = f"{folder / METRICS} line {number}"
        rows.append(_decode_line(line, where))
        expected, head = _encode_line(heads[-1], *rows[-1])
        # Comparing bytes, not parsed values: no edit at all passes, harmless ones included.
        if line + b"\n" != expected:
            raise RecordError(f"{where}: checksum mismatch; the file was edited or is damaged")
        heads.append(head)
    return _Stream(whole + newline, rows, heads, torn=bool(rest))


def _decode_line(line: bytes, where: str) -> _Row:
    try:
        parsed = json.loads(line)
        metrics = {key: decode_float(value) for key, value in parsed["metrics"].items()}
        return operator.index(parsed["step"]), metrics
    except _MALFORMED as error:
        raise RecordError(f"{where}: not a metric line; the file is damaged") from error


def _carry_over(
    folder: Path,
    old: Mapping[str, Any] | None,
    resume_step: int | None,
    manifest: Mapping[str, Any],
) -> _Stream:
    """Keep the old metrics aside, whole, and return the stream to start from."""
    empty = _Stream(b"", [], [_genesis(manifest)])
    path = folder / METRICS
    if old is None or not path.exists():
        return empty
    kept = empty
    if resume_step is not None:
        stream = _read_stream(folder, old)
        rows = [row for row in stream.rows if row[0] <= resume_step]
        lines = stream.data.splitlines(keepends=True)[: len(rows)]
        kept = _Stream(b"".join(lines), rows, stream.heads[: len(rows) + 1])
    data = _read_bytes(path)
    if data != kept.data:
        number = 1 + len(list(folder.glob("metrics.stale-*.jsonl")))
        write_bytes_atomic(folder / f"metrics.stale-{number}.jsonl", data)
    return kept


def _floats(metrics: Mapping[str, SupportsFloat]) -> dict[str, float]:
    values: dict[str, float] = {}
    for name, value in metrics.items():
        if name in _RESERVED or not _METRIC_NAME.fullmatch(name):
            raise RecordError(
                f"metric name {name!r} must be letters, digits and _./- , start with a letter or "
                f"digit, and not be one of {', '.join(sorted(_RESERVED))}"
            )
        if not isinstance(value, SupportsFloat):
            raise RecordError(f"metric {name!r} is {value!r}; log a number")
        values[name] = float(value)
    return values


def _append(file: int, line: bytes) -> None:
    size = os.fstat(file).st_size
    try:
        written = 0
        while written < len(line):
            written += os.write(file, line[written:])
        os.fsync(file)
    except OSError:
        # A half line in the middle would make the whole stream unreadable.
        os.ftruncate(file, size)
        raise


def _frame(rows: Sequence[_Row]) -> pd.DataFrame:
    names = dict.fromkeys(name for _, metrics in rows for name in metrics)
    columns: dict[str, pd.Series[Any]] = {"step": pd.Series([r[0] for r in rows], dtype="int64")}
    for name in names:
        values = [metrics.get(name, float("nan")) for _, metrics in rows]
        columns[name] = pd.Series(values, dtype="float64")
    return pd.DataFrame(columns)


# ---- manifest, config, lock -----------------------------------------------------------------


def _provenance() -> dict[str, Any]:
    commit, dirty = git_state(REPO_ROOT)
    return {
        "format": 1,
        "code_commit": commit,
        "code_dirty": dirty,
        "versions": {package: _version(package) for package in _PACKAGES},
        "python": platform.python_version(),
        "host_class": host_class(),
        "start": _now(),
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _git(repo: Path, *arguments: str) -> str | None:
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


def _write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    seal = digest(manifest, "run-manifest")
    write_json_atomic(folder / MANIFEST, {**manifest, "sha256": seal})


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(_read_bytes(path))
        seal = manifest.pop("sha256")
        sealed = digest(manifest, "run-manifest")
    except (*_MALFORMED, ConfigError) as error:
        raise RecordError(f"{path}: not a manifest; the file is damaged") from error
    if seal != sealed:
        raise RecordError(f"{path}: checksum mismatch; the file was edited or is damaged")
    return manifest


def _read_config(folder: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        config: dict[str, Any] = yaml.safe_load(_read_bytes(path))
        same = digest(config, "run-config") == manifest["config_sha256"]
    except (*_MALFORMED, yaml.YAMLError, ConfigError) as error:
        raise RecordError(f"{path}: not a config; the file is damaged") from error
    if not same:
        raise RecordError(f"{path}: checksum mismatch; the file was edited or is damaged")
    return config


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror}") from error


def _restartable(
    folder: Path, claim: Mapping[str, Any], restart: bool, resume_step: int | None
) -> dict[str, Any] | None:
    if not (folder / MANIFEST).exists():
        if resume_step is not None:
            raise RecordError(f"{folder}: no record to resume at step {resume_step}")
        return None
    old = _read_manifest(folder)
    if old["status"] in OUTCOMES:
        raise RecordError(f"{folder}: the run is {old['status']}; outcomes are never overwritten")
    for key, value in claim.items():
        if old[key] != value:
            raise RecordError(f"{folder}: holds another run ({key} {old[key]!r}, not {value!r})")
    if not restart:
        raise RecordError(
            f"{folder}: an interrupted run (status {old['status']}, no live owner); restart it "
            "explicitly, its metrics are kept"
        )
    return old


def _attempts(old: Mapping[str, Any] | None, stale: Mapping[str, Any] | None) -> list[Any]:
    if old is None:
        return []
    keys = ("status", "reason", "start", "end", "code_commit", "code_dirty")
    attempt = {key: old[key] for key in keys}
    if old["status"] == "running":
        attempt |= {"status": "killed", "pid": (stale or {}).get("pid")}
    return [*old["attempts"], attempt]


def _acquire(path: Path) -> tuple[int, dict[str, Any] | None]:
    """Take the lock; return its descriptor and what a dead owner left in it, if one did."""
    with writing(path):
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = _owner(lock) or {}
            os.close(lock)
            raise RecordError(
                f"{path.parent}: in use by process {owner.get('pid', '?')} since "
                f"{owner.get('start', '?')}; wait for it or stop it"
            ) from None
        stale = _owner(lock)
        if stale is not None:
            _log.warning("%s: stale lock of dead process %s taken over", path, stale.get("pid"))
        text = canonical_json({"pid": os.getpid(), "start": _now()})
        os.ftruncate(lock, 0)
        os.pwrite(lock, text.encode("ascii"), 0)
        os.fsync(lock)
        fsync_folder(path.parent)
    return lock, stale


def _owner(lock: int) -> dict[str, Any] | None:
    try:
        owner = json.loads(os.pread(lock, 4096, 0))
    except ValueError:
        return None
    return owner if isinstance(owner, dict) else None


# ---- secrets --------------------------------------------------------------------------------

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_SECRET_NAME = re.compile(
    r"password|passwd|passphrase|secret|credential|authorization|apikey|(api|access|private) key"
)
# A name that ends in "token" is a secret unless it is one of a language model's.
_PLAIN_TOKEN = re.compile(
    r"\b(pad|eos|bos|unk|mask|sep|cls|start|end|stop|special|first|last|next|per|modal) token$"
)
_MIN_SECRET_LENGTH = 8


def _names_secret(key: str) -> bool:
    words = " ".join(_WORDS.findall(key)).lower()
    if _SECRET_NAME.search(words):
        return True
    return words.split()[-1:] == ["token"] and not _PLAIN_TOKEN.search(words)


def _environment_secrets() -> list[str]:
    named = [value for key, value in os.environ.items() if _names_secret(key)]
    return [value for value in named if len(value) >= _MIN_SECRET_LENGTH]


def _redact(value: Any, secrets: Sequence[str]) -> Any:
    if isinstance(value, Mapping):
        return {
            key: "***" if _names_secret(str(key)) and _holds(item) else _redact(item, secrets)
            for key, item in value.items()
        }
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, "***")
        return value
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [_redact(item, secrets) for item in value]
    return value


def _holds(value: Any) -> bool:
    return value is not None and not isinstance(value, bool)
