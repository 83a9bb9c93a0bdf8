"""How far one is: every step looked at by what it leaves, without making any of it."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from omegaconf import OmegaConf

from opdcliff.calibration import calibration_asset
from opdcliff.errors import InadmissibleError
from opdcliff.models import Prepared, data_asset, models_asset
from opdcliff.paths import StudyPaths
from opdcliff.prereg import RUNNING, Progress, progress
from opdcliff.road.steps import BEGUN, DONE, LEFT_OUT, STEPS, TO_DO, WAITS, Road, Standing
from opdcliff.settings import RunConfig, compose_one, load
from opdcliff.storage import asset_cache, decode_floats
from opdcliff.study import PREDICTION, prediction_folder
from opdcliff.verification import LOCK_FILE, VERDICTS, Lock, find_anchor, read_lock

# States of cells that are told by name.
_TOLD = (RUNNING, "preempted", "killed", "failed", "damaged")
# State and details of a step.
_Found = tuple[str, str]


def look(words: Sequence[str], paths: StudyPaths) -> Road:
    """The road of the settings `words`, as far as it has been gone.

    A step is looked at only where those before it are passed: what it leaves is named by theirs.

    Raises:
        ConfigError: a setting that is not allowed.
    """
    composed = compose_one(words)
    rubric = composed.data.rubric
    # The judge's file is made on the way, and a missing one is no error before that.
    ungraded = copy.deepcopy(composed)
    OmegaConf.update(ungraded, "data.rubric", None)
    config = load(ungraded)
    found = _states(config, None if rubric is None else Path(rubric).expanduser(), paths)
    standings, passed = [], True
    for step in STEPS:
        state, detail = next(found) if passed else (WAITS, "")
        standings.append(Standing(step, state, detail))
        passed = passed and standings[-1].passed
    return Road(config.protocol.name, list(words), standings)


def _states(config: RunConfig, rubric: Path | None, paths: StudyPaths) -> Iterator[_Found]:
    """State and details of each step, in the order of `STEPS`."""
    sizes = f"{config.data.train} + {config.data.calibration} + {config.data.test} lists"
    yield (DONE, sizes) if data_asset(config, paths).is_ready() else (TO_DO, "")
    if rubric is None:
        yield LEFT_OUT, "no data.rubric: grades come with the data"
    else:
        yield (DONE, str(rubric)) if rubric.is_file() else (TO_DO, "")
        config = copy.deepcopy(config)
        config.data.rubric = str(rubric)
    prepared = _prepared(config, paths)
    if prepared is None:
        yield TO_DO, ""
        return
    tuned = asset_cache.manifest(prepared.models)["facts"]["fine_tuned"]
    yield DONE, f"fine-tuned here: {', '.join(tuned) or 'none'}"
    yield _calibration(config, paths, prepared)
    yield _prediction(config, paths, prepared)
    lock, found = _lock(config, paths)
    yield found
    assert lock is not None, "the step was passed"
    how_far = progress(config, paths, lock, prepared)
    yield _runs(how_far)
    locked = paths.own.locked_dir(config.protocol.name)
    yield _verdicts(locked / VERDICTS, how_far)
    page = locked / "report.html"
    yield (DONE, str(page)) if page.is_file() else (TO_DO, "")


def _prepared(config: RunConfig, paths: StudyPaths) -> Prepared | None:
    data = data_asset(config, paths)
    if not data.is_ready():
        return None
    models = models_asset(config, paths, data.folder)
    return Prepared(data.folder, models.folder, models.identity) if models.is_ready() else None


def _calibration(config: RunConfig, paths: StudyPaths, prepared: Prepared) -> _Found:
    asset = calibration_asset(config, paths, prepared)
    if not asset.is_ready():
        return TO_DO, ""
    binding = decode_floats(asset_cache.manifest(asset.folder)["facts"]["binding"])
    if binding is None:
        return DONE, "no threshold: no class whose tail the contract needs has p > b"
    return DONE, f"p = {binding['p']:.4g}, b = {binding['b']:.4g}"


def _prediction(config: RunConfig, paths: StudyPaths, prepared: Prepared) -> _Found:
    file = prediction_folder(config, prepared, paths) / PREDICTION
    if not file.is_file():
        return TO_DO, ""
    # An onset may lie beyond every lambda, for which JSON has no number.
    rows = decode_floats(json.loads(file.read_text(encoding="utf-8"))["at"])
    parts = [f"{row['low']:.4g} to {row['high']:.4g} at c = {row['strength']:g}" for row in rows]
    return DONE, f"onset {', '.join(parts)}"


def _lock(config: RunConfig, paths: StudyPaths) -> tuple[Lock | None, _Found]:
    folder = paths.prereg_dir(config.protocol.name)
    try:
        lock, broken = read_lock(folder)
    except InadmissibleError:
        return None, (TO_DO, "")
    if lock is None or broken:
        return lock, (BEGUN, f"not as it was sealed: {'; '.join(broken)}")
    problem = find_anchor(folder / LOCK_FILE).problem
    if problem is not None:
        return lock, (BEGUN, f"commit {folder} before any run: {problem}")
    return lock, (DONE, f"sealed {lock.created[:16].replace('T', ' ')} UTC and committed")


def _runs(found: Progress) -> _Found:
    parts = [f"{found.done} of {found.asked} cells"]
    parts += [f"{found.states[state]} {state}" for state in _TOLD if found.states[state]]
    parts.append(f"{found.spent:.2g} device hours spent")
    if found.done < found.asked and found.left is not None:
        parts.append(f"about {found.left:.2g} left")
    if found.done == found.asked:
        return DONE, ", ".join(parts)
    begun = found.done or found.states[RUNNING]
    return (BEGUN if begun else TO_DO), ", ".join(parts)


def _verdicts(file: Path, how_far: Progress) -> _Found:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return TO_DO, ""
    if found["cells"] < how_far.asked:
        return TO_DO, f"verified when {found['cells']} cells were done"
    outcomes = ", ".join(f"{name} {test['outcome']}" for name, test in found["tests"].items())
    return DONE, f"{found['integrity']}; {outcomes}"
