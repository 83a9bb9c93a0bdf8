"""Where a relaunched run goes on: the newest checkpoint that is whole and fits its record.

A run is the same run only under the same settings, models and code. Settings and models are its
identity, which names its folder; the code is compared here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opdcliff.engine import Engine
from opdcliff.errors import RecordError
from opdcliff.records import METRICS, MIXED_CODE, RUN_MANIFEST, Row, read_manifest, read_stream
from opdcliff.settings import CheckpointConfig
from opdcliff.storage import encode_floats, source_digest
from opdcliff.training.checkpoints import checkpoint
from opdcliff.training.checkpoints.checkpoint import Checkpoint
from opdcliff.training.checkpoints.generators import generator_state
from opdcliff.training.loop import LoopState


@dataclass(frozen=True)
class Start:
    """How an attempt begins.

    checkpoint: where it goes on, None from the beginning. rows: evaluations made before that.
    notes: what the manifest's extras say about it.
    """

    checkpoint: Checkpoint | None = None
    rows: list[Row] = field(default_factory=list)
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def update(self) -> int:
        """Updates made before; -1 from the beginning."""
        return -1 if self.checkpoint is None else self.checkpoint.update

    @property
    def last_evaluation(self) -> int | None:
        """Update of the last of the rows; None without any."""
        return self.rows[-1][0] if self.rows else None


def find_start(folder: Path, identity: str, settings: CheckpointConfig) -> Start:
    """Where the run in the record `folder` goes on.

    Damaged checkpoints, and those whose evaluations the record no longer has, are passed over;
    the notes name them.

    Raises:
        RecordError: the checkpoint is of another run, or of other code without
            `checkpoint.resume=force`; or the record is damaged.
    """
    root = folder / checkpoint.CHECKPOINTS
    if settings.resume == "never" or not root.is_dir() or not (folder / RUN_MANIFEST).exists():
        return Start()
    manifest = read_manifest(folder)
    rows = _evaluations(folder, manifest)
    mixed = bool(manifest["extras"].get(MIXED_CODE))
    refused: list[str] = []
    for found in checkpoint.candidates(root):
        if isinstance(found, RecordError):
            refused.append(str(found))
            continue
        _require_same_run(found, identity)
        # At the update of a checkpoint itself, an evaluation may have followed it.
        before = [row for row in rows if row[0] in found.position["evaluations"]]
        if [step for step, _ in before] != found.position["evaluations"]:
            refused.append(f"{found.folder.name}: evaluations of it are missing in {METRICS}")
            continue
        changed = found.about["source"] != source_digest()
        if changed and settings.resume != "force":
            raise RecordError(
                f"{found.folder} was written by other code (commit "
                f"{str(found.about['commit'])[:12]}); go back to it, set checkpoint.resume=never "
                "to start over, or checkpoint.resume=force to go on, and the run has deviated"
            )
        notes = {"resumed_at": found.update, "saved_by_ranks": found.about["ranks"]}
        return Start(found, before, notes | _notes(refused, mixed or changed))
    return Start(notes=_notes(refused, mixed=False))


def save_position(
    root: Path, position: LoopState, engine: Engine, about: Mapping[str, str], keep: int
) -> None:
    """Write a checkpoint of a running cell; every rank calls it, rank 0 writes.

    Raises:
        RecordError: the disk refuses.
    """
    state = engine.state()
    generators: dict[str, Any] = {}
    for rank, own in enumerate(engine.gather([generator_state()])):
        generators |= {f"rank{rank}/{name}": value for name, value in own.items()}
    if engine.rank == 0:
        plain = encode_floats(position.plain())
        whole = {**about, "ranks": engine.world}
        checkpoint.save(root, position.update, state, generators, plain, whole, keep=keep)


def remove_checkpoints(record: Path) -> None:
    """Remove the checkpoints of a run that has an outcome."""
    checkpoint.remove_all(record / checkpoint.CHECKPOINTS)


def drop_checkpoints_after(record: Path, update: int) -> None:
    """Remove those of later updates: an attempt that went back makes those updates anew."""
    checkpoint.drop_after(record / checkpoint.CHECKPOINTS, update)


def about_run(identity: str, commit: str) -> dict[str, str]:
    """What the checkpoints of a run say about it."""
    return {"identity": identity, "commit": commit, "source": source_digest()}


def _evaluations(folder: Path, manifest: Mapping[str, Any]) -> list[Row]:
    if not (folder / METRICS).exists():
        return []
    try:
        return read_stream(folder, manifest).rows
    except RecordError as error:
        raise RecordError(
            f"{error}; restore the file from a copy, or set checkpoint.resume=never to keep it "
            "aside and start over"
        ) from error


def _require_same_run(found: Checkpoint, identity: str) -> None:
    if found.about["identity"] != identity:
        raise RecordError(
            f"{found.folder} is of another run ({str(found.about['identity'])[:12]}, not "
            f"{identity[:12]}): lambda, clip, data or another setting differs; remove it, or set "
            "checkpoint.resume=never to start over"
        )


def _notes(refused: list[str], mixed: bool) -> dict[str, Any]:
    return {
        **({"checkpoints_refused": refused} if refused else {}),
        **({MIXED_CODE: True} if mixed else {}),
    }
