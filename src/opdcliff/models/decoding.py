"""What samples a study's answers: a compiled step built once where that pays, or something else."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from opdcliff.models.device import pick_device
from opdcliff.models.load import load_model
from opdcliff.paths import StudyPaths
from opdcliff.rollout import StepError, build_step, engine_version, refusal, step_facts
from opdcliff.settings import ENGINE, RolloutConfig, RunConfig
from opdcliff.storage import Asset, asset_cache
from opdcliff.terminal import Stage

# Decoding steps of a command from which on compiling has paid: it takes about as long as 10,000
# steps save [M: docs/performance.md].
STEPS_THAT_PAY = 20_000
COMPILED, GRAPH, REFERENCE = "compiled", "graph", "reference"


@dataclass(frozen=True)
class Decoding:
    """What samples the answers. step: the file of the compiled step, if there is one."""

    backend: str
    step: Path | None = None
    reason: str | None = None

    def plain(self) -> dict[str, str | None]:
        """As plain values."""
        step = None if self.step is None else str(self.step)
        return {"backend": self.backend, "step": step, "reason": self.reason}

    def told(self) -> dict[str, str | None]:
        """What a record says of it: without a path of this machine."""
        return self.plain() | {"step": None if self.step is None else self.step.stem}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Decoding:
        """Inverse of `plain`."""
        step = plain["step"]
        return cls(plain["backend"], None if step is None else Path(step), plain["reason"])


def prepare_decoding(config: RunConfig, paths: StudyPaths, student: Path, updates: int) -> Decoding:
    """Build or find the compiled step of the student in a folder.

    updates: those that the command will make, over all cells. Too few of them do not pay, and do
    not use a step that is there either: what samples must not hang on what ran before.
    """
    if config.rollout.backend == ENGINE:
        drew = f"{engine_version()} drew with numbers of its own: other backends draw other tokens"
        return Decoding(ENGINE, reason=drew)
    if config.rollout.backend not in (COMPILED, GRAPH):
        return Decoding(config.rollout.backend)
    device = pick_device(config.engine).type
    if config.rollout.backend == GRAPH:
        if device == "cuda":
            return Decoding(GRAPH)
        return _reference(f"graphs are replayed on CUDA, and the device is {device}")
    steps = updates * config.rollout.max_new_tokens
    if steps < STEPS_THAT_PAY:
        return _reference(f"{steps} decoding steps are too few to compile for")
    if device != "cpu":
        return _reference(f"steps are compiled for the CPU only; try rollout.backend={GRAPH}")
    if shutil.which(_compiler()) is None:
        return _reference(f"there is no C++ compiler {_compiler()} (set CXX)")
    torch.set_num_threads(config.engine.threads)
    model = load_model(student, dtype=config.model.dtype, role="student").eval()
    reason = refusal(model, 0)
    if reason is not None:
        return _reference(reason)
    key = {
        "step": step_facts(model),
        "compiler": shutil.which(_compiler()),
        "code": asset_cache.code_digest("rollout/steps/decode_step.py", "rollout/draws.py"),
    }
    asset = Asset.of(paths, "decoding", key)
    with asset.building() as draft:
        if draft is not None:
            started = time.perf_counter()
            with Stage("compiling the decoding step, once for models of this shape", 1):
                try:
                    draft.facts["file"] = build_step(model, draft.folder).name
                except StepError as error:
                    draft.facts["reason"] = str(error)
            seconds = time.perf_counter() - started
            said = draft.facts.get("reason")
            _say(
                f"compiled the decoding step in {seconds:.0f} s; kept for models of this shape"
                if said is None
                else f"answers are sampled by the slower reference path: {said}"
            )
    facts = asset_cache.manifest(asset.folder)["facts"]
    if "file" not in facts:
        return _reference(facts["reason"])
    return Decoding(COMPILED, asset.folder / facts["file"])


def without_compiled(how: RolloutConfig) -> RolloutConfig:
    """Rollout settings for what is measured once and kept: the same whatever ran before."""
    return replace(how, backend=REFERENCE) if how.backend in (COMPILED, GRAPH, ENGINE) else how


def _reference(reason: str) -> Decoding:
    return Decoding(REFERENCE, reason=reason)


def _compiler() -> str:
    return os.environ.get("CXX") or "g++"


def _say(line: str) -> None:
    Console(file=sys.stderr).print(line, markup=False, highlight=False, soft_wrap=True)
