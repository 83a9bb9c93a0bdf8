"""Making a lock: pilot, windows, seeds, files; and every reason not to make one."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from opdcliff.calibration import Binding, Calibration, prepare_calibration
from opdcliff.errors import ConfigError
from opdcliff.models import Prepared, prepare
from opdcliff.paths import StudyPaths
from opdcliff.prereg.arms import locked_arms
from opdcliff.prereg.claims.carried import earlier_shortfall
from opdcliff.prereg.claims.grounds import Grounds
from opdcliff.prereg.claims.previews import preview_rows, sampled
from opdcliff.prereg.pilot import PilotFacts, pilot_facts, pilot_rows, require_evaluations
from opdcliff.prereg.predictions import write_tests
from opdcliff.prereg.published import published_folder, with_published
from opdcliff.records import read_record, read_runs
from opdcliff.settings import (
    AS_TEACHER,
    PredictionConfig,
    ProtocolArm,
    RunConfig,
    model_option,
)
from opdcliff.storage import (
    asset_cache,
    code_state,
    encode_floats,
    file_digest,
    now,
    package_version,
    write_text_atomic,
)
from opdcliff.study import (
    check_protocol,
    grid,
    incomplete,
    planned_updates,
    run_cells,
)
from opdcliff.verification import (
    FORMAT,
    JUDGE,
    LOCK_FILE,
    lock_text,
    read_lock,
    seal_of,
    seeds_of,
    write_copy,
    write_test,
)

# Copy of the models in the folder of a lock, so that its runs are of these weights on any machine.
KEPT_MODELS = "models"
# Larger ones are not kept.
_KEPT_BYTES = 20 << 20


def make_lock(config: RunConfig, paths: StudyPaths, *, supersedes: str | None = None) -> Path:
    """Run the pilot if need be, compute the windows, and write prereg/<protocol>/.

    supersedes: name of the protocol whose lock this one replaces; the old one stays.

    Raises:
        ConfigError: a protocol without predictions, a dirty or unknown working tree, a lock that
            is there already, or a window that is vacuous or impossible.
        StudyIncompleteError: a pilot run failed.
    """
    predictions = config.protocol.predictions
    if predictions is None:
        raise ConfigError(
            f"protocol={config.protocol.name} has no predictions to lock; choose one that has, "
            "e.g. protocol=mini"
        )
    check_protocol(config)
    check_predictions(config.protocol.arms, predictions)
    if predictions.larger_model == AS_TEACHER and config.model.teacher is None:
        raise ConfigError(
            f"protocol.predictions.larger_model={AS_TEACHER} needs a teacher that is loaded; set "
            "model.teacher, or name an option of the group model"
        )
    folder = paths.prereg_dir(config.protocol.name)
    _refuse(folder, config.protocol.name)
    published = published_folder(predictions.published, paths)
    earlier = earlier_shortfall(predictions.carried, paths)
    old = None if supersedes is None else _superseded(supersedes, paths)
    prepared = prepare(config, paths, planned_updates(config))
    calibration, _ = prepare_calibration(config, paths, prepared)
    facts, rows = _pilot(config, predictions, calibration.binding, prepared, paths)
    seen = seen_runs(config, calibration.binding, prepared, paths)
    _require_blind(predictions, seen)
    arms = locked_arms(config, calibration.binding)
    count, named = len(config.protocol.arms[0].seeds), {arm.name: arm for arm in arms}
    grounds = Grounds(config, predictions, named, calibration.table, facts, count)
    previewed = sampled(grounds, paths, prepared)
    tests = with_published(write_tests(grounds, previewed, earlier), published)
    # Written aside, so that a folder that exists is whole.
    aside = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    for test in tests:
        write_test(aside / f"{test.id}.yaml", test)
    sources = write_copy(aside)
    _keep_models(config, prepared.models, aside / KEPT_MODELS)
    commit, _ = code_state()
    content: dict[str, Any] = {
        "format": FORMAT,
        "protocol": config.protocol.name,
        "supersedes": old,
        "code_commit": commit,
        "package_version": package_version(),
        "tests": {path.name: file_digest(path) for path in sorted(aside.glob("*.yaml"))},
        "sources": sources,
        "entry": JUDGE,
        "arms": [arm.model_dump() for arm in arms],
        "calibration": _calibration(calibration),
        "pilot": {"facts": facts.as_dict(), "runs": rows},
        "seen": encode_floats(seen),
        "prompts_sha256": asset_cache.manifest(prepared.data)["facts"]["digest"],
        "models_identity": prepared.models_identity,
        "models_sha256": asset_cache.content_digest(prepared.models),
    }
    if sums := raw_files(prepared.data):
        content["raw_files"] = sums
    if previewed is not None:
        content["previews"] = encode_floats(preview_rows(previewed))
    content |= {"created": now(), "seeds": seeds_of(content, count)}
    write_text_atomic(aside / LOCK_FILE, lock_text(content | {"sha256": seal_of(content)}))
    aside.rename(folder)
    return folder


def _keep_models(config: RunConfig, models: Path, place: Path) -> None:
    """Copy models that were built here and are small; others are their owner's to keep."""
    if config.model.student is not None or config.model.teacher is not None:
        return
    if sum(file.stat().st_size for file in models.rglob("*") if file.is_file()) <= _KEPT_BYTES:
        shutil.copytree(models, place)


def raw_files(data: Path) -> dict[str, str]:
    """The sha256 of the raw files that prepared prompts were made from, by name; none for others.

    data: folder of the prompts.
    """
    report = asset_cache.manifest(data)["facts"].get("report") or {}
    return {name: file["sha256"] for name, file in report.get("files", {}).items()}


def check_predictions(arms: Sequence[ProtocolArm], predictions: PredictionConfig) -> None:
    """Refuse predictions that name what the protocol has not, before anything is trained.

    Raises:
        ConfigError: an arm or model that is not there, a safe multiple off the fine grid, or arms
            of different seeds (a lock derives one list of seeds for all).
    """
    named = {arm.name: arm for arm in arms}
    asked = [(field, getattr(predictions, field)) for field in ("small_clip", "far_below")]
    asked = [(field, name) for field, name in asked if name is not None]
    asked += [("fine_grid", predictions.fine_grid)]
    asked += [("extended", name) for name in predictions.extended]
    for field, name in asked + [("previews", name) for name in predictions.previews]:
        if name not in named:
            raise ConfigError(
                f"protocol.predictions.{field}={name} is no arm; allowed: {', '.join(named)}"
            )
    multiples = named[predictions.fine_grid].multiples
    if predictions.safe_multiple not in multiples:
        raise ConfigError(
            f"protocol.predictions.safe_multiple={predictions.safe_multiple:g} is not on the fine "
            f"grid; allowed: {', '.join(f'{multiple:g}' for multiple in multiples)}"
        )
    if predictions.larger_model not in (None, AS_TEACHER):
        model_option(predictions.larger_model)
    for arm in arms:
        if arm.seeds != arms[0].seeds:
            raise ConfigError(
                f"arm {arm.name} has the seeds {arm.seeds} and {arms[0].name} {arms[0].seeds}; "
                "give all arms of a locked protocol the same"
            )


def seen_runs(
    config: RunConfig, binding: Binding | None, prepared: Prepared, paths: StudyPaths
) -> list[dict[str, Any]]:
    """Every run of these models in the folder of records, the pilot's included.

    of_threshold: lambda as a multiple of lambda* at the run's own clip strength, or the first
    calibrated one; NaN without a calibration.
    """
    seen, weights = [], asset_cache.content_digest(prepared.models)
    for record in read_runs(paths.runs):
        if record.manifest["extras"].get("models_sha256") != weights:
            continue
        strength = record.config["clip"]["strength"] or config.calibration.strengths[0]
        star = math.nan if binding is None else binding.lambda_star(strength)
        lam = float(record.config["resolved_lam"])
        run = {"protocol": record.manifest["protocol"], "record": record.folder.name}
        seen.append(run | {"status": record.status, "lam": lam, "of_threshold": lam / star})
    return seen


def _require_blind(predictions: PredictionConfig, seen: Sequence[Mapping[str, Any]]) -> None:
    """Refuse to lock what a run has shown already.

    Raises:
        ConfigError: a run of these models at or above `blind_from` exists.
    """
    for run in seen:
        if predictions.blind_from is not None and not run["of_threshold"] < predictions.blind_from:
            raise ConfigError(
                f"{run['protocol']}/{run['record']} ran at {run['of_threshold']:.4f} of lambda*, "
                f"and protocol.predictions.blind_from={predictions.blind_from:g} allows none there "
                "before the lock; lock other models (sft.seed), or set it to null and say so"
            )


def _refuse(folder: Path, name: str) -> None:
    if folder.exists():
        raise ConfigError(
            f"{folder} exists and a lock is never replaced; for a new version set "
            f"protocol.name={name}_v2 supersedes={name}"
        )
    commit, dirty = code_state()
    if dirty:
        raise ConfigError(
            f"the working tree is not that of a commit (HEAD {commit[:12]}): a lock has to name "
            "the code it was made with; commit or remove the changes"
        )


def _superseded(name: str, paths: StudyPaths) -> dict[str, str]:
    lock, broken = read_lock(paths.prereg_dir(name))
    if lock is None or broken:
        raise ConfigError(f"supersedes={name}: that lock is not as it was sealed; name a sound one")
    return {"protocol": name, "sha256": lock.sha256}


def _pilot(
    config: RunConfig,
    predictions: PredictionConfig,
    binding: Binding | None,
    prepared: Prepared,
    paths: StudyPaths,
) -> tuple[PilotFacts, list[dict[str, Any]]]:
    name = f"{config.protocol.name}_pilot"
    protocol = replace(config.protocol, name=name, arms=predictions.pilot, predictions=None)
    cells = grid(replace(config, protocol=protocol), binding)
    for cell in cells:
        require_evaluations(cell.config)
    failures = run_cells(cells, prepared, paths, workers=config.protocol.workers)
    if failures:
        raise incomplete(failures, len(cells), "pilot cells")
    records = [read_record(cell.folder(prepared, paths)) for cell in cells]
    return pilot_facts(records), pilot_rows(records)


def _calibration(calibration: Calibration) -> dict[str, Any]:
    assert calibration.binding is not None, "a grid was made from it"
    rows: Sequence[Mapping[Any, Any]] = calibration.table.to_dict("records")
    plain = [{str(k): _plain(v) for k, v in row.items()} for row in rows]
    return {"binding": asdict(calibration.binding), "table": encode_floats(plain)}


def _plain(value: Any) -> Any:
    """A NumPy scalar of a table as its Python value."""
    return value.item() if hasattr(value, "item") else value
