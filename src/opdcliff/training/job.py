"""What a process that trains a cell has to know, in memory or as a file for its ranks."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from opdcliff.models import Decoding, Prepared
from opdcliff.settings import RunConfig, load

# What `opdcliff.processes.rank` calls with the job's file, as MODULE:FUNCTION.
ENTRY = "opdcliff.training.ranks:train_rank"


@dataclass(frozen=True)
class Place:
    """Where a run keeps what it leaves besides metrics: in its record.

    about: what its checkpoints carry. resume: the checkpoint it goes on from, if any.
    """

    record: Path
    about: dict[str, str]
    resume: Path | None = None


@dataclass(frozen=True)
class Job:
    """What a rank has to know; without a place it leaves no checkpoints."""

    config: RunConfig
    lam: float
    prepared: Prepared
    place: Place | None = None

    def write(self, path: Path) -> None:
        """Write the job as YAML."""
        prepared = {
            "data": str(self.prepared.data),
            "models": str(self.prepared.models),
            "models_identity": self.prepared.models_identity,
            "decoding": self.prepared.decoding.plain(),
        }
        plain = {
            "entry": ENTRY,
            "config": asdict(self.config),
            "lam": self.lam,
            "prepared": prepared,
        }
        if self.place is not None:
            resume = self.place.resume and str(self.place.resume)
            place = {"record": str(self.place.record), "about": self.place.about, "resume": resume}
            plain["place"] = place
        OmegaConf.save(OmegaConf.create(plain), path)

    @classmethod
    def read(cls, path: Path) -> Job:
        """Read what `write` wrote; the config is checked again."""
        plain: Any = OmegaConf.load(path)
        prepared, place = plain.prepared, plain.get("place")
        return cls(
            load(plain.config),
            plain.lam,
            Prepared(
                Path(prepared.data),
                Path(prepared.models),
                prepared.models_identity,
                Decoding.of(prepared.decoding),
            ),
            None if place is None else _place(place),
        )


def _place(plain: Any) -> Place:
    resume = None if plain.resume is None else Path(plain.resume)
    return Place(Path(plain.record), dict(plain.about), resume)
