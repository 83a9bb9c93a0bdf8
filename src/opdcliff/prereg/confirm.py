"""Running the cells of a lock: its lambdas, its seeds, its settings, and nothing else."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Any

from opdcliff.errors import ConfigError, TamperedError
from opdcliff.models import Prepared, models_asset, prepare, prepare_data
from opdcliff.paths import StudyPaths
from opdcliff.prereg.arms import baseline_config
from opdcliff.prereg.locking import KEPT_MODELS, raw_files
from opdcliff.records import OPD, read_record
from opdcliff.settings import RunConfig, science
from opdcliff.storage import Asset, asset_cache
from opdcliff.study import Cell, arm_config, incomplete, planned_updates, run_cells
from opdcliff.verification import (
    LOCK_FILE,
    CellValue,
    Lock,
    LockedArm,
    final_of,
    find_anchor,
    read_lock,
    read_test,
    wanted,
)

# Arm, lambda and seed of a cell.
Key = tuple[str, float, int]

_log = logging.getLogger(__name__)


def run_locked(config: RunConfig, paths: StudyPaths, *, only: Collection[str] = ()) -> None:
    """Run every locked cell that has no outcome yet; of bisected arms, those that are asked for.

    only: arms to run, all of them if empty.

    Raises:
        InadmissibleError: there is no lock. TamperedError: it does not hold any more.
        ConfigError: a setting is not the locked one, or an arm is none of the lock's.
        StudyIncompleteError: cells failed; the others are finished.
    """
    lock, broken = read_lock(paths.prereg_dir(config.protocol.name))
    if lock is None or broken:
        raise TamperedError(f"nothing is run under a broken lock: {'; '.join(broken)}")
    _require_arms(only, lock)
    _bring_models(_require_models(config, paths, lock), paths, lock)
    prepared = prepare(config, paths, planned_updates(config))
    _compare_assets(lock, prepared, paths)
    folder = paths.prereg_dir(lock.protocol)
    tests = [read_test(folder / name) for name in lock.tests]
    cells = keyed_cells(config, lock, prepared)
    cells = {key: cell for key, cell in cells.items() if not only or key[0] in only}
    done: dict[Key, CellValue] = {}
    while missing := [k for k in wanted(tests, lock, done) if k in cells and k not in done]:
        asked = [cells[key] for key in missing]
        failures = run_cells(asked, prepared, paths, workers=config.protocol.workers)
        if failures:
            raise incomplete(failures, len(asked))
        for key in missing:
            record = read_record(cells[key].folder(prepared, paths))
            done[key] = CellValue(record.status, final_of(record.history))


def keyed_cells(config: RunConfig, lock: Lock, prepared: Prepared) -> dict[Key, Cell]:
    """The cells of a lock by arm, lambda and seed, all of a seed before the next seed.

    Raises:
        ConfigError: the settings at hand would make other cells than the locked ones.
    """
    ours = {arm.name: arm for arm in config.protocol.arms}
    cells = {}
    for seed in lock.seeds:
        for locked in lock.arms:
            if locked.kind == OPD and locked.name not in ours:
                raise ConfigError(
                    f"the lock has an arm {locked.name} and protocol.arms has not; put it back"
                )
            own = (
                arm_config(config, ours[locked.name], seed)
                if locked.kind == OPD
                else baseline_config(config, config.protocol.arms[0], locked.kind, seed)
            )
            for lam in locked.lams:
                cell = Cell(own, lam, lock.protocol, locked.kind)
                if cell.identity(prepared) != lock.identity(locked, lam, seed):
                    raise ConfigError(_difference(science(own), locked, prepared, lock))
                cells[locked.name, lam, seed] = cell
    return cells


def _require_arms(only: Collection[str], lock: Lock) -> None:
    names = [arm.name for arm in lock.arms]
    for name in only:
        if name not in names:
            raise ConfigError(
                f"arm={name} is no arm of the lock of {lock.protocol}; allowed: {', '.join(names)}"
            )


def _bring_models(models: Asset, paths: StudyPaths, lock: Lock) -> None:
    """Take the weights that the lock keeps, if it does, where none were trained here.

    Raises:
        TamperedError: they are not those that were sealed.
    """
    kept = paths.prereg_dir(lock.protocol) / KEPT_MODELS
    if models.is_ready() or not kept.is_dir():
        return
    if asset_cache.content_digest(kept) != lock.models_sha256:
        raise TamperedError(
            f"{kept} does not hold the models that {lock.protocol} was locked with; restore it, "
            "or move it away to train them anew, which other weights may come of"
        )
    models.bring(kept)


def _require_models(config: RunConfig, paths: StudyPaths, lock: Lock) -> Asset:
    """The models of a lock; others are refused before they are trained.

    Raises:
        ConfigError: a setting, a raw file or the prompts differ; or the code does, then it names
            the commit.
    """
    data = prepare_data(config, paths)
    here = raw_files(data)
    for name, sealed in (lock.raw_files or {}).items():
        # Even where its change reaches no prompt: what was locked is what was read.
        if here.get(name, sealed) != sealed:
            raise ConfigError(
                f"{name} is not the file that protocol {lock.protocol} was locked with (sha256 "
                f"{here[name][:12]}, not {sealed[:12]}); give the same data, or lock a new version"
            )
    models = models_asset(config, paths, data)
    if models.identity == lock.models_identity:
        return models
    opd = next(arm for arm in lock.arms if arm.kind == OPD)
    changed = _changed_setting(science(config), opd, ("model.", "sft.", "data."))
    if changed is not None:
        raise ConfigError(changed)
    if asset_cache.manifest(data)["facts"]["digest"] != lock.prompts_sha256:
        raise ConfigError(
            f"the prompts are not those that protocol {lock.protocol} was locked with; give the "
            "same data, or lock a new version"
        )
    raise ConfigError(_needs_old_code(lock, paths))


def _needs_old_code(lock: Lock, paths: StudyPaths) -> str:
    anchor = find_anchor(paths.prereg_dir(lock.protocol) / LOCK_FILE)
    commit = (anchor.commit or lock.code_commit)[:12]
    aside = f"../opd-cliff-{lock.protocol}"
    return (
        f"the runs of {lock.protocol} need the code they were locked with, commit {commit}; "
        f"today's makes other models. Run them there: `git worktree add {aside} {commit}`, then in "
        f"{aside} `make install` and `.venv/bin/opdcliff confirm protocol={lock.protocol}`; "
        f"`verify` here reads them with OPDCLIFF_RUNS={aside}/runs"
    )


def _compare_assets(lock: Lock, prepared: Prepared, paths: StudyPaths) -> None:
    """Say that weights differ: on another machine they may, and every record notes its own."""
    if asset_cache.content_digest(prepared.models) == lock.models_sha256:
        return
    kept = paths.prereg_dir(lock.protocol) / KEPT_MODELS
    advice = (
        f"; delete {prepared.models} to take those that the lock keeps" if kept.is_dir() else ""
    )
    _log.warning(
        "the models trained here are not bit for bit those of the lock (another machine or "
        f"library?); verify will list every run as DEVIATED{advice}"
    )


def _difference(
    settings: Mapping[str, Any], locked: LockedArm, prepared: Prepared, lock: Lock
) -> str:
    return _changed_setting(settings, locked) or (
        f"the prepared models are not the locked ones ({prepared.models_identity[:12]}, not "
        f"{lock.models_identity[:12]}); lock a new version"
    )


def _changed_setting(
    settings: Mapping[str, Any], locked: LockedArm, among: tuple[str, ...] = ("",)
) -> str | None:
    """The first setting that is not the locked one, of those whose names begin so."""
    ours, sealed = _flat(settings), _flat(locked.settings)
    for name in sorted(ours.keys() | sealed.keys()):
        # Of a cell, not of an arm.
        if name in ("seed", "lam.value") or not name.startswith(among):
            continue
        if ours.get(name) != sealed.get(name):
            return (
                f"{name}={ours.get(name)} is not the locked {sealed.get(name)} (arm "
                f"{locked.name}); drop the override, or lock a new version"
            )
    return None


def _flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in nested.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
